"""Mixtures of Gaussians over joints or whole poses: their densities, moments and draws."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffpose_jax.keys import check_keys, split, standard_normal
from diffpose_jax.mixtures.covariance import UNROLLED, cholesky, forward_substitute, scale_by_factor


class Mixture(NamedTuple):
    """M Gaussians in D dimensions, for one distribution or for many with leading axes.

    As the distribution that poses are diffused towards (H_K of Gong et al. 2023, section 4.2) there is one mixture for
    each joint, D = C and `[B, F, J]` in front, or one for each pose, D = J C and `[B, F]` in front.
    """

    weights: Array  # [..., M], not negative, with the sum 1
    means: Array  # [..., M, D]
    covariances: Array  # [..., M, D, D], or the variances [..., M, D] of diagonal ones

    @property
    def diagonal(self) -> bool:
        """Whether `covariances` holds variances only."""
        return jnp.ndim(self.covariances) == jnp.ndim(self.means)

    def factors(self) -> Array:
        """Compute Cholesky factors `[..., M, D, D]`, or standard deviations `[..., M, D]` of a diagonal mixture."""
        covariances = jnp.asarray(self.covariances)
        if self.diagonal:
            return jnp.sqrt(covariances)
        # A covariance of rank 1, or rounded to one, gets a pivot of the size of its rounding errors.
        trace = jnp.trace(covariances, axis1=-2, axis2=-1)
        return cholesky(covariances, jnp.finfo(covariances.dtype).eps * trace)

    def draw(self, key: Array) -> tuple[Array, Array]:
        """Draw from each distribution `[B, ...]`: the mean of a component, and noise of its covariance, `[B, ..., D]`.

        `key` is one key or a key per example `[B]`. The draw is the sum of the two.
        """
        # A component by its weight, then a draw of that Gaussian: both together are a draw of the mixture.
        component_key, noise_key = split(key)
        index = draw_component(component_key, log_weights(self.weights))
        mean, factor = take_component(self.means, index), take_component(self.factors(), index)
        return mean, scale_by_factor(factor, standard_normal(noise_key, mean.shape))

    def log_prob(self, points: Array) -> Array:
        """Compute the log density `[..., P]` of points `[..., P, D]`, with the leading axes of the mixture."""
        points = jnp.swapaxes(points, -1, -2)
        densities = component_log_densities(log_weights(self.weights), self.means, self.factors(), points)
        return jax.nn.logsumexp(densities, axis=-2)

    def mean_and_covariance(self) -> tuple[Array, Array]:
        """Compute mean `[..., D]` and covariance `[..., D, D]` of the whole mixture; of a diagonal one its variances.

        By the law of total covariance, with weights w, means m and covariances S of the components:
        `E[x] = sum w m` and `Cov[x] = sum w (S + (m - E[x]) (m - E[x])^T)`.
        """
        weights, means = jnp.asarray(self.weights)[..., None], jnp.asarray(self.means)
        mean = jnp.sum(weights * means, axis=-2)
        centred = means - mean[..., None, :]
        if self.diagonal:
            return mean, jnp.sum(weights * (self.covariances + centred**2), axis=-2)
        outer = centred[..., :, None] * centred[..., None, :]
        return mean, jnp.sum(weights[..., None] * (self.covariances + outer), axis=-3)


def log_weights(weights: Array) -> Array:
    """Take the logarithm of weights `[..., M]`; a weight of zero stays finite, and is never drawn."""
    return jnp.log(jnp.maximum(weights, jnp.finfo(weights.dtype).tiny))


def draw_component(key: Array, log_weights: Array) -> Array:
    """Draw the index of a component for each distribution, by its weight: indices `[B, ...]`.

    Args:
        key: One key, or a key per example `[B]`.
        log_weights: `[B, ..., M]`, up to a constant. With log densities of a point added, a component is drawn by its
            responsibility for that point.

    Raises:
        ValueError: if there is a number of keys other than one and B.
    """
    # Gumbel noise is added to the logarithms and the largest sum is taken, so the weights need not sum to 1.
    if key.ndim == 0:
        return jax.random.categorical(key, log_weights)
    check_keys(key, log_weights.shape)
    return jax.vmap(jax.random.categorical)(key, log_weights)


def take_component(values: Array, index: Array) -> Array:
    """Take values `[..., M, *rest]` at the indices `[...]` of components, `[..., *rest]`.

    The leading axes broadcast: one index for all joints `[B, F, 1]` takes the same component of each, from `[B, F, J,
    M, *rest]`.
    """
    axis = index.ndim
    index = jnp.expand_dims(index, tuple(range(axis, values.ndim)))
    return jnp.squeeze(jnp.take_along_axis(values, index, axis=axis), axis=axis)


def component_log_densities(log_weights: Array | float, means: Array, factors: Array, points: Array) -> Array:
    """Compute `log(weight) + log N(x; mean, covariance)` for every component and point, `[..., M, P]`.

    The logarithm of a Gaussian with covariance `L L^T` is
    `-|L^-1 (x - mean)|^2 / 2 - sum_i log L_ii - D / 2 log(2 pi)`.

    Args:
        log_weights: `[..., M]`, or 0 for the densities alone.
        means: `[..., M, D]`.
        factors: Cholesky factors `[..., M, D, D]`, or standard deviations `[..., M, D]`.
        points: `[..., D, P]`, points along the last axis.
    """
    size = means.shape[-1]
    # Differences from the means come first. Expanding the square into a polynomial of x would be a matrix product, but
    # in float32 it loses components that are narrow beside their distance from the origin to rounding.
    if factors.ndim == means.ndim:
        centred = points[..., None, :, :] - means[..., :, :, None]
        squared = jnp.sum((centred / factors[..., None]) ** 2, axis=-2)
        log_root = jnp.sum(jnp.log(factors), axis=-1)
    elif size <= UNROLLED:
        entries = [points[..., None, i, :] - means[..., :, i, None] for i in range(size)]
        white = forward_substitute(factors[..., None, :, :], entries)
        squared = reduce(add, (entry**2 for entry in white))
        log_root = reduce(add, (jnp.log(factors[..., i, i]) for i in range(size)))
    else:
        centred = points[..., None, :, :] - means[..., :, :, None]
        squared = jnp.sum(jax.lax.linalg.triangular_solve(factors, centred, left_side=True, lower=True) ** 2, axis=-2)
        log_root = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
    constant = log_weights - log_root - 0.5 * size * math.log(2 * math.pi)
    return constant[..., None] - 0.5 * squared
