"""Training: the trainer and what goes with it."""
