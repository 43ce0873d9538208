"""Embeddings of the diffusion step and the layers that condition a network on it."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import Linear


def sinusoidal_embedding(k: jax.Array, features: int) -> jax.Array:
    """Embed steps `k [...]` as `[..., features]`: sines, then cosines, of k times frequencies from 1 to 1/10000."""
    half = features // 2
    # A frequency that is off by its last bit is off by 4e-5 in the angle at step 1000: the exponents are rounded as the
    # releases round them, the exponential is exact.
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1))
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = k.astype(jnp.float32)[..., None] * jnp.expand_dims(frequencies, tuple(range(k.ndim)))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def step_table(num_steps: int, features: int) -> np.ndarray:
    """Embed all steps as `[num_steps, features]`: sines, then cosines, of k times frequencies from 1 to 10000.

    The convention of CSDI and DiffWave. Angles reach 5e5 radians, where the last bit of a frequency is worth 0.2:
    exponents, frequencies and angles are rounded to float32 exactly as torch rounds them.
    """
    half = features // 2
    exponents = np.arange(half, dtype=np.float32) / np.float32(half - 1) * np.float32(4)
    frequencies = (10.0 ** exponents.astype(np.float64)).astype(np.float32)
    angles = (np.arange(num_steps, dtype=np.float32)[:, None] * frequencies[None]).astype(np.float64)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


class StepTableEmbedding(nn.Module):
    """Embed steps `k [...]` below `num_steps` as `[..., features]`: `step_table`, then twice linear and SiLU (CSDI)."""

    num_steps: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, k: jax.Array) -> jax.Array:
        entry = jnp.asarray(step_table(self.num_steps, self.features))[k]
        hidden = jax.nn.silu(Linear(self.features, dtype=self.dtype, name="expand")(entry))
        return jax.nn.silu(Linear(self.features, dtype=self.dtype, name="project")(hidden))


class StepEmbedding(nn.Module):
    """Embed diffusion steps `k [...]` as `[..., features]`: sinusoid, linear, GELU (exact) or SiLU, linear.

    The sinusoid has `sinusoid_features` entries, the layer between `hidden_features`, by default as many as the result;
    Choi et al. 2023 take an eighth of their width there and half for `features`.
    """

    sinusoid_features: int
    features: int
    dtype: DTypeLike = jnp.float32
    hidden_features: int | None = None
    activation: Literal["gelu", "silu"] = "gelu"

    @nn.compact
    def __call__(self, k: jax.Array) -> jax.Array:
        sinusoid = sinusoidal_embedding(k, self.sinusoid_features)
        hidden = Linear(self.hidden_features or self.features, dtype=self.dtype, name="expand")(sinusoid)
        hidden = jax.nn.silu(hidden) if self.activation == "silu" else jax.nn.gelu(hidden, approximate=False)
        return Linear(self.features, dtype=self.dtype, name="project")(hidden)


class StepModulation(nn.Module):
    """Scale and shift the channels of `x [J, N, C]` by the step, then SiLU: `silu(x * (1 + scale) + shift)`.

    `step [T]` (one step for all) or `[N, T]` is the step's embedding. There is no skip connection, as in the
    release of Choi et al. 2023, although the paper draws one.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, step: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        both = Linear(2 * channels, dtype=self.dtype, name="project")(jax.nn.silu(step))
        scale, shift = (jnp.broadcast_to(part, (x.shape[1], channels))[None] for part in jnp.split(both, 2, axis=-1))
        return jax.nn.silu(x * (1 + scale) + shift)
