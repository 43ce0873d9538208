"""Base distributions: the law of the noise a forward process adds, and the mean it shrinks towards.

Each answers `draw(key, shape) -> (mean, noise)`, both of the shape asked for: `noise` has mean zero, and a fully
diffused sample is `mean + noise`. `moments()` gives mean and variance of that sum in closed form. `Mixture`, fitted by
`fit_mixture`, is one too.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from diffpose_jax.keys import standard_normal
from diffpose_jax.mixtures.fitting import fit_mixture
from diffpose_jax.mixtures.mixture import Mixture

__all__ = ["Base", "Mixture", "ScaledNormal", "StandardNormal", "fit_mixture", "standard_normal"]


class Base(Protocol):
    """What a forward process needs to know of its noise."""

    def draw(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]: ...

    def moments(self) -> tuple[Array, Array]: ...


class StandardNormal(NamedTuple):
    """N(0, 1) in every channel: the base of DDPM."""

    def draw(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Mean zero and standard normal noise of `shape`; `key` is one key or a key per example `[B]`."""
        return jnp.zeros(shape), standard_normal(key, shape)

    def moments(self) -> tuple[Array, Array]:
        """Mean 0 and variance 1, scalars."""
        return jnp.zeros(()), jnp.ones(())


class ScaledNormal(NamedTuple):
    """N(0, scale^2): `scale` is a standard deviation that broadcasts to the shape drawn, as `[C]` or `[B, F, J, C]`.

    Gong et al. 2023 diffuse so: the image channels have the detector's spread (or 0.5), the metric ones 1.
    """

    scale: Array

    def draw(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Mean zero and scaled noise of `shape`; `key` is one key or a key per example `[B]`."""
        scale = jnp.broadcast_to(jnp.asarray(self.scale, jnp.float32), shape)
        return jnp.zeros(shape), scale * standard_normal(key, shape)

    def moments(self) -> tuple[Array, Array]:
        """Mean 0 and variance `scale^2`, both of the shape of `scale`."""
        scale = jnp.asarray(self.scale, jnp.float32)
        return jnp.zeros_like(scale), scale**2
