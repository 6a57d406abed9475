"""The evaluation: a frozen set of scenes, every method on the same ones, scores and a report."""
