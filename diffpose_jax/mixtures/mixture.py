"""Mixtures of Gaussians over joints or whole poses: densities, moments and draws."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffpose_jax.keys import check_keys, standard_normal

# Below this many dimensions small matrices are written out, entry by entry: far faster than a call for each of them.
UNROLLED = 4


class Mixture(NamedTuple):
    """M Gaussians in D dimensions, of one distribution or of many with leading axes.

    weights `[..., M]`, non-negative, summing to 1; means `[..., M, D]`; covariances `[..., M, D, D]`, or `[..., M, D]`
    where they are diagonal. As the base distribution of a diffusion (Gong et al. 2023, section 4.2: the fitted H_K) it
    has one mixture per joint, D = C, `[J]`, `[B, J]` or `[B, F, J]` in front; or one per pose, D = J C, `[]`, `[B]` or
    `[B, F]` in front.
    """

    weights: Array
    means: Array
    covariances: Array

    @property
    def diagonal(self) -> bool:
        """Whether `covariances` holds variances only."""
        return jnp.ndim(self.covariances) == jnp.ndim(self.means)

    def draw(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Means of the drawn components and noise of their covariances, both of `shape` `[B, F, J, C]`.

        `key` is one key or a key per example `[B]`. A component is drawn per example, and per joint if the mixtures
        are of joints, per frame if they have frames: without frames, all frames of an example share their component.
        """
        batch, frames, joints, channels = shape
        size = self.means.shape[-1]
        if size != channels and size == joints * channels:
            whole = Mixture(*(_without_joints(part, jnp.ndim(self.weights)) for part in self))
            mean, noise = whole.draw(key, (batch, frames, 1, size))
            return mean.reshape(shape), noise.reshape(shape)
        if size != channels:
            raise ValueError(f"a mixture in {size} dimensions cannot be drawn as {shape}")
        keys = jax.random.split(key) if key.ndim == 0 else jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        normal = standard_normal(keys[1], shape)
        lead = jnp.ndim(self.weights) - 1
        weights, means, factors = (
            _with_batch_and_frames(jnp.asarray(part, normal.dtype), lead)
            for part in (self.weights, self.means, self.deviations())
        )
        logits = jnp.log(jnp.broadcast_to(weights, (batch, *weights.shape[1:])))
        if key.ndim == 0:
            picked = jax.random.categorical(keys[0], logits)
        else:
            check_keys(key, shape)
            picked = jax.vmap(jax.random.categorical)(keys[0], logits)
        mean = jnp.broadcast_to(_take_component(means, picked), shape)
        factor = _take_component(factors, picked)
        if self.diagonal:
            return mean, jnp.broadcast_to(factor, shape) * normal
        factor = jnp.broadcast_to(factor, (*shape, channels))
        return mean, jnp.sum(factor * normal[..., None, :], axis=-1)

    def deviations(self) -> Array:
        """Lower Cholesky factors `[..., M, D, D]`, or standard deviations `[..., M, D]` of a diagonal mixture."""
        covariances = jnp.asarray(self.covariances)
        if self.diagonal:
            return jnp.sqrt(covariances)
        trace = jnp.trace(covariances, axis1=-2, axis2=-1)
        return cholesky(covariances, jnp.finfo(covariances.dtype).eps * trace)

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of the whole mixture, `[..., D]`: `E[mu]` and `E[sigma^2 + mu^2] - E[mu]^2`."""
        mean, covariance = self.mean_and_covariance()
        return mean, covariance if self.diagonal else jnp.diagonal(covariance, axis1=-2, axis2=-1)

    def mean_and_covariance(self) -> tuple[Array, Array]:
        """Mean `[..., D]` and covariance `[..., D, D]` of the whole mixture; of a diagonal one its variances."""
        weights, means = jnp.asarray(self.weights)[..., None], jnp.asarray(self.means)
        mean = jnp.sum(weights * means, axis=-2)
        centred = means - mean[..., None, :]
        if self.diagonal:
            return mean, jnp.sum(weights * (self.covariances + centred**2), axis=-2)
        outer = centred[..., :, None] * centred[..., None, :]
        return mean, jnp.sum(weights[..., None] * (self.covariances + outer), axis=-3)

    def log_prob(self, points: Array) -> Array:
        """Log density `[..., P]` of points `[..., P, D]`, with the leading axes of the mixture."""
        parts = component_log_densities(self.weights, self.means, self.deviations(), jnp.swapaxes(points, -1, -2))
        return jax.nn.logsumexp(parts, axis=-2)

    def effective_components(self) -> Array:
        """How many components share the weight, `[...]`: the exponential of the entropy of the weights, 1 to M."""
        return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(self.weights, self.weights), axis=-1))


def component_log_densities(weights: Array, means: Array, factors: Array, points: Array) -> Array:
    """`log(weight) + log N(x)` of every component, `[..., M, P]`, at points `[..., D, P]`.

    factors are Cholesky factors `[..., M, D, D]` or deviations `[..., M, D]`. Differences from the means are formed
    first: expanding the square into a polynomial would lose narrow components to rounding.
    """
    size = means.shape[-1]
    if factors.ndim == means.ndim:
        centred = points[..., None, :, :] - means[..., :, :, None]
        squared = jnp.sum((centred / factors[..., None]) ** 2, axis=-2)
        scale = jnp.sum(jnp.log(factors), axis=-1)
    elif size <= UNROLLED:
        standard: list[Array] = []
        for i in range(size):
            rest = points[..., None, i, :] - means[..., :, i, None]
            for j in range(i):
                rest = rest - factors[..., i, j, None] * standard[j]
            standard.append(rest * (1 / factors[..., i, i])[..., None])
        squared = sum(part**2 for part in standard)
        scale = sum(jnp.log(factors[..., i, i]) for i in range(size))
    else:
        centred = points[..., None, :, :] - means[..., :, :, None]
        squared = jnp.sum(jax.lax.linalg.triangular_solve(factors, centred, left_side=True, lower=True) ** 2, axis=-2)
        scale = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
    smallest = jnp.finfo(means.dtype).tiny
    constant = jnp.log(jnp.maximum(weights, smallest)) - scale - 0.5 * size * math.log(2 * math.pi)
    return constant[..., None] - 0.5 * squared


def cholesky(matrices: Array, smallest: float | Array = 0.0) -> Array:
    """Lower Cholesky factors of `[..., D, D]`, no squared pivot below `smallest [...]`: finite for finite matrices."""
    size = matrices.shape[-1]
    smallest = jnp.maximum(jnp.asarray(smallest, matrices.dtype), jnp.finfo(matrices.dtype).tiny)
    smallest = jnp.broadcast_to(smallest, matrices.shape[:-2])
    if size > UNROLLED:
        return _cholesky_by_columns(matrices, smallest)
    rows = [[matrices[..., i, j] for j in range(size)] for i in range(size)]
    zero = jnp.zeros_like(rows[0][0])
    factor = [[zero] * size for _ in range(size)]
    for j in range(size):
        pivot = jnp.sqrt(jnp.maximum(rows[j][j] - sum(factor[j][k] ** 2 for k in range(j)), smallest))
        factor[j][j] = pivot
        for i in range(j + 1, size):
            factor[i][j] = (rows[i][j] - sum(factor[i][k] * factor[j][k] for k in range(j))) / pivot
    return jnp.stack([jnp.stack(row, axis=-1) for row in factor], axis=-2)


def _cholesky_by_columns(matrices: Array, smallest: Array) -> Array:
    size = matrices.shape[-1]

    def eliminate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, factor = carry
        column = jax.lax.dynamic_index_in_dim(rest, j, axis=-1, keepdims=False)
        pivot = jnp.sqrt(jnp.maximum(jax.lax.dynamic_index_in_dim(column, j, axis=-1, keepdims=False), smallest))
        rows = jnp.broadcast_to(jnp.arange(size), column.shape)
        column = jnp.where(rows > j, column / pivot[..., None], jnp.where(rows == j, pivot[..., None], 0))
        rest = rest - column[..., :, None] * column[..., None, :]
        return rest, jax.lax.dynamic_update_index_in_dim(factor, column, j, axis=-1)

    return jax.lax.fori_loop(0, size, eliminate, (matrices, jnp.zeros_like(matrices)))[1]


def _without_joints(part: Array, weights_ndim: int) -> Array:
    """Inserts an axis of one joint before the component axis, the last of the weights."""
    return jnp.expand_dims(jnp.asarray(part), weights_ndim - 1)


def _with_batch_and_frames(values: Array, lead: int) -> Array:
    """Insert the missing ones of batch, frame and joint axes, `[B|1, F|1, J|1, M, ...]`; `lead` are there."""
    if lead == 3:
        return values
    return jnp.expand_dims(values, {0: (0, 1, 2), 1: (0, 1), 2: (1,)}[lead])


def _take_component(values: Array, picked: Array) -> Array:
    """Values `[B|1, F|1, J, M, ...]` at the picked components `[B, F|1, J]`, `[B, F|1, J, ...]`."""
    values = jnp.broadcast_to(values, (*picked.shape, *values.shape[3:]))
    index = picked.reshape(*picked.shape, *[1] * (values.ndim - picked.ndim))
    return jnp.squeeze(jnp.take_along_axis(values, index, axis=3), axis=3)
