"""State, step, parallel mapping, checkpoints and loop."""
