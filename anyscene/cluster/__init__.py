"""Runs on a SLURM cluster: submit, check the start, show the state."""
