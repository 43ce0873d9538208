"""Embeddings of the diffusion step and the layers that condition a network on it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import Linear


def sinusoidal_embedding(k: jax.Array, features: int) -> jax.Array:
    """Embed steps `k [...]` as `[..., features]`: sines, then cosines, of k times frequencies from 1 to 1/10000."""
    half = features // 2
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(10000) / (half - 1)))
    angles = k.astype(jnp.float32)[..., None] * jnp.expand_dims(frequencies, tuple(range(k.ndim)))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class StepEmbedding(nn.Module):
    """Embed diffusion steps `k [...]` as `[..., features]`: sinusoid, linear, GELU (exact), linear.

    The sinusoid has `sinusoid_features` entries; DiffuPose takes an eighth of its width there and half for `features`.
    """

    sinusoid_features: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, k: jax.Array) -> jax.Array:
        sinusoid = sinusoidal_embedding(k, self.sinusoid_features)
        hidden = jax.nn.gelu(Linear(self.features, dtype=self.dtype, name="expand")(sinusoid), approximate=False)
        return Linear(self.features, dtype=self.dtype, name="project")(hidden)


class StepModulation(nn.Module):
    """Scale and shift the channels of `x [J, N, C]` by the step, then SiLU: `silu(x * (1 + scale) + shift)`.

    `step [T]` (one step for all) or `[N, T]` is the step's embedding. There is no skip connection, as in the DiffuPose
    release, although the paper draws one.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, step: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        both = Linear(2 * channels, dtype=self.dtype, name="project")(jax.nn.silu(step))
        scale, shift = (jnp.broadcast_to(part, (x.shape[1], channels))[None] for part in jnp.split(both, 2, axis=-1))
        return jax.nn.silu(x * (1 + scale) + shift)
