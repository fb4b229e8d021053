"""Training: the loop and the update that it repeats."""
