"""Base distributions: the law of the noise a forward process adds, and the mean it shrinks towards.

Each answers `draw(key, shape) -> (mean, noise)`, both of the shape asked for: `noise` has mean zero, and a fully
diffused sample is `mean + noise`. `moments()` gives mean and variance of that sum in closed form.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array


def standard_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw N(0, 1) of `shape` in float32.

    `key` is one typed key, or a key array `[B]` with `shape = [B, ...]`: then example b depends on its own key alone,
    so that a result does not change with the batch it is computed in.
    """
    if key.ndim == 0:
        return jax.random.normal(key, shape)
    _check_keys(key, shape)
    return jax.vmap(lambda example_key: jax.random.normal(example_key, shape[1:]))(key)


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


class GaussianMixture(NamedTuple):
    """A mixture of M diagonal Gaussians per joint (Gong et al. 2023, section 4.2: the distribution H_K).

    weights `[J, M]`, `[B, J, M]` or `[B, F, J, M]`, non-negative, summing to 1 over M; means and variances with a
    channel axis more, `[..., J, M, C]`. One component is picked per example and joint, and per frame if the weights
    have frames.
    """

    weights: Array
    means: Array
    variances: Array

    def draw(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The picked means and noise of the picked variances, `[B, F, J, C]`; one key or a key per example `[B]`."""
        weights = _with_batch_and_frames(self.weights, ndim=4)
        means, variances = (_with_batch_and_frames(part, ndim=5) for part in (self.means, self.variances))
        logits = jnp.log(jnp.broadcast_to(weights, (shape[0], *weights.shape[1:])))
        if key.ndim == 0:
            pick_key, noise_key = jax.random.split(key)
            picked = jax.random.categorical(pick_key, logits)
        else:
            _check_keys(key, shape)
            pick_key, noise_key = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
            picked = jax.vmap(jax.random.categorical)(pick_key, logits)
        mean, variance = (_take_component(part, picked, shape) for part in (means, variances))
        return mean, jnp.sqrt(variance) * standard_normal(noise_key, shape)

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of the mixture, `[..., J, C]`: `E[mu]` and `E[sigma^2 + mu^2] - E[mu]^2`."""
        weights = jnp.asarray(self.weights)[..., None]
        mean = jnp.sum(weights * self.means, axis=-2)
        centred = jnp.asarray(self.means) - mean[..., None, :]
        return mean, jnp.sum(weights * (self.variances + centred**2), axis=-2)


def _with_batch_and_frames(values: Array, ndim: int) -> Array:
    """Insert the frame axis and, if it is missing too, the batch axis: `[B|1, F|1, J, ...]` of `ndim` axes."""
    values = jnp.asarray(values)
    if values.ndim == ndim - 2:
        return values[None, None]
    return values[:, None] if values.ndim == ndim - 1 else values


def _take_component(values: Array, picked: Array, shape: tuple[int, ...]) -> Array:
    """Values `[B|1, F|1, J, M, C]` at the picked components `[B, F|1, J]`, broadcast to `shape` `[B, F, J, C]`."""
    values = jnp.broadcast_to(values, (*picked.shape, *values.shape[-2:]))
    chosen = jnp.take_along_axis(values, picked[..., None, None], axis=-2)[..., 0, :]
    return jnp.broadcast_to(chosen, shape)


def _check_keys(key: Array, shape: tuple[int, ...]) -> None:
    if key.shape != shape[:1]:
        raise ValueError(f"expected one key or one per example, [{shape[0]}], found keys of shape {key.shape}")
