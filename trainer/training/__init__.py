"""Training: the loop, its step, checkpoints, resuming and the result."""
