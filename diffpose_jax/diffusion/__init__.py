"""The mathematics of diffusion: schedules, the forward process, samplers and hypotheses; no networks."""
