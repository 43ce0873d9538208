"""Embeddings of the diffusion timestep, and the layer that modulates channels by them."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import Linear


def embed_sinusoidally(k: jax.Array, features: int) -> jax.Array:
    """Embed timesteps `k [...]` as `[..., features]`: sines, then cosines, of k times frequencies from 1 to 1/10000.

    The position embedding of transformers (Vaswani et al. 2017, section 3.5) as DDPM takes it for timesteps.
    """
    # f_i = 10000^(-i / (half - 1)). A frequency that is off by its last bit moves the angle at timestep 1000 by 4e-5:
    # the exponents are rounded to float32 as the releases round them, the exponential is exact.
    half = features // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1))
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = k.astype(jnp.float32)[..., None] * jnp.expand_dims(frequencies, tuple(range(k.ndim)))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def tabulate_steps(num_steps: int, features: int) -> np.ndarray:
    """Embed all timesteps as `[num_steps, features]`: sines, then cosines, of k times frequencies from 1 to 10000.

    The convention of DiffWave (Kong et al. 2021) and CSDI (Tashiro et al. 2021).
    """
    # f_i = 10^(4 i / (half - 1)): frequencies grow, unlike those of `embed_sinusoidally`. Angles reach 5e5 radians,
    # where the last bit of a frequency is worth 0.2: exponents, frequencies and angles are rounded to float32 where
    # torch rounds them, so that trained weights find the table they were trained with.
    half = features // 2
    exponents = np.arange(half, dtype=np.float32) / np.float32(half - 1) * np.float32(4)
    frequencies = (10.0 ** exponents.astype(np.float64)).astype(np.float32)
    angles = (np.arange(num_steps, dtype=np.float32)[:, None] * frequencies[None]).astype(np.float64)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


class StepTableEmbedding(nn.Module):
    """Embed timesteps `k [...]` below `num_steps` as `[..., features]`: `tabulate_steps`, then twice linear and SiLU.

    As CSDI does (Tashiro et al. 2021), with a SiLU after the second layer too.
    """

    num_steps: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, k: jax.Array) -> jax.Array:
        entry = jnp.asarray(tabulate_steps(self.num_steps, self.features))[k]
        hidden = jax.nn.silu(Linear(self.features, dtype=self.dtype, name="expand")(entry))
        return jax.nn.silu(Linear(self.features, dtype=self.dtype, name="project")(hidden))


class StepEmbedding(nn.Module):
    """Embed timesteps `k [...]` as `[..., features]`: sinusoid, linear layer, activation, linear layer.

    Attributes:
        sinusoid_features: entries of the sinusoid.
        features: entries of the result.
        dtype: type computed in.
        hidden_features: width of the layer between; `features` if None.
        activation: exact GELU, or SiLU.
    """

    sinusoid_features: int
    features: int
    dtype: DTypeLike = jnp.float32
    hidden_features: int | None = None
    activation: Literal["gelu", "silu"] = "gelu"

    @nn.compact
    def __call__(self, k: jax.Array | None) -> jax.Array:
        """Embed; a ValueError if a network that takes a timestep was called without one (k is None)."""
        if k is None:
            raise ValueError("expected a timestep k, found None")
        sinusoid = embed_sinusoidally(k, self.sinusoid_features)
        hidden = Linear(self.hidden_features or self.features, dtype=self.dtype, name="expand")(sinusoid)
        hidden = jax.nn.silu(hidden) if self.activation == "silu" else jax.nn.gelu(hidden, approximate=False)
        return Linear(self.features, dtype=self.dtype, name="project")(hidden)


class StepModulation(nn.Module):
    """Scale and shift the channels of `x [J, N, C]` by the timestep, then SiLU: `silu(x * (1 + scale) + shift)`.

    `step [E]`, one for all, or `[N, E]` is the timestep's embedding; scale and shift are linear in its SiLU. Choi et
    al. 2023 name this a timestep-residual block and draw a skip connection around it; their release has none, nor has
    this.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, step: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        # Feature-wise linear modulation (Perez et al. 2018). With 1 + scale a layer whose outputs are small changes
        # little.
        both = Linear(2 * channels, dtype=self.dtype, name="project")(jax.nn.silu(step))
        scale, shift = (jnp.broadcast_to(part, (x.shape[1], channels))[None] for part in jnp.split(both, 2, axis=-1))
        return jax.nn.silu(x * (1 + scale) + shift)
