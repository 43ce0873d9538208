"""Flax modules; no diffusion, no data."""
