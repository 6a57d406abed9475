"""Where figures go beside `metrics.csv`: W&B, in a process of its own, or TensorBoard."""
