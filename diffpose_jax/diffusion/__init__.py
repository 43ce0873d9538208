"""The mathematics of noise: arrays and functions, no networks."""
