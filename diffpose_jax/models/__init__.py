"""Networks as Flax modules: arrays in, arrays out; no diffusion process, no data.

Layers of graph networks are joint-major, `[J, N, C]` with N = batch x frames; transformers take `[B, F, J, C]`.
"""
