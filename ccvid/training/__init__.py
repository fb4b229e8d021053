"""Training: the loop and the update step."""
