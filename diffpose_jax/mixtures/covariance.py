"""Small covariance matrices: their Cholesky factors, noise with a given covariance, and the way back to white noise.

A covariance `S = L L^T` has the lower Cholesky factor L `[..., D, D]`. If z is standard normal, `L z` has the
covariance S, and `|L^-1 x|^2 = x^T S^-1 x` is the squared Mahalanobis distance of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Matrices of up to this many dimensions are written out entry by entry. Over a batch of small matrices this is far
# faster than one call of a library routine for each of them.
UNROLLED = 4


def diagonal_matrix(variances: Array) -> Array:
    """Build diagonal matrices `[..., D, D]` from their diagonals `[..., D]`."""
    identity = jnp.eye(variances.shape[-1], dtype=variances.dtype)
    return variances[..., None] * jnp.expand_dims(identity, tuple(range(variances.ndim - 1)))


def scale_by_factor(factor: Array, normal: Array) -> Array:
    """Scale standard normal noise `[..., D]` by a covariance factor: noise `L z` of covariance `L L^T`, `[..., D]`.

    `factor` is a Cholesky factor `[..., D, D]`, or standard deviations `[..., D]` with as many axes as `normal`.
    """
    if factor.ndim == normal.ndim:
        return factor * normal
    return jnp.sum(factor * normal[..., None, :], axis=-1)


def whiten(factor: Array, noise: Array) -> Array:
    """Return `L^-1 x` for noise x `[..., D]`, the inverse of `scale_by_factor` with Cholesky factors `[..., D, D]`."""
    return jnp.stack(forward_substitute(factor, [noise[..., i] for i in range(noise.shape[-1])]), axis=-1)


def forward_substitute(factor: Array, entries: Sequence[Array]) -> list[Array]:
    """Solve `L z = x` row by row for triangular factors `[..., D, D]` and the D entries of x, each `[...]`.

    The first row gives `z_0 = x_0 / L_00`, and each later one `z_i = (x_i - sum_{j < i} L_ij z_j) / L_ii`.
    """
    solved: list[Array] = []
    for i, rest in enumerate(entries):
        for j, value in enumerate(solved):
            rest = rest - factor[..., i, j] * value
        solved.append(rest * (1 / factor[..., i, i]))
    return solved


def cholesky(matrices: Any, smallest: float | Array = 0.0) -> Any:
    """Compute the lower Cholesky factors of symmetric matrices `[..., D, D]`, in JAX or, of numpy arrays, in numpy.

    No squared pivot is taken below `smallest [...]`, so the factors are finite for all finite matrices, also for those
    that are singular or, by rounding, not positive definite.
    """
    xp: Any = jnp if isinstance(matrices, Array) else np
    size = matrices.shape[-1]
    # With a pivot raised to the floor, L L^T is still S in all entries but that one of the diagonal, which grows: the
    # factor is that of S plus a diagonal matrix.
    floor = xp.maximum(xp.asarray(smallest, matrices.dtype), xp.finfo(matrices.dtype).tiny)
    floor = xp.broadcast_to(floor, matrices.shape[:-2])
    if size > UNROLLED:
        return _cholesky_by_columns(matrices, floor)
    # L_jj^2 = S_jj - sum_{k < j} L_jk^2 and L_ij = (S_ij - sum_{k < j} L_ik L_jk) / L_jj for i > j.
    factor = [[xp.zeros_like(matrices[..., 0, 0])] * size for _ in range(size)]
    for j in range(size):
        pivot = xp.sqrt(xp.maximum(matrices[..., j, j] - sum(factor[j][k] ** 2 for k in range(j)), floor))
        factor[j][j] = pivot
        for i in range(j + 1, size):
            factor[i][j] = (matrices[..., i, j] - sum(factor[i][k] * factor[j][k] for k in range(j))) / pivot
    return xp.stack([xp.stack(row, axis=-1) for row in factor], axis=-2)


def _cholesky_by_columns(matrices: Array, floor: Array) -> Array:
    """The same in a loop over columns: each step takes the outer product of one column off the rest of the matrix."""
    size = matrices.shape[-1]

    def eliminate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, factor = carry
        column = jax.lax.dynamic_index_in_dim(rest, j, axis=-1, keepdims=False)
        pivot = jnp.sqrt(jnp.maximum(jax.lax.dynamic_index_in_dim(column, j, axis=-1, keepdims=False), floor))
        rows = jnp.broadcast_to(jnp.arange(size), column.shape)
        column = jnp.where(rows > j, column / pivot[..., None], jnp.where(rows == j, pivot[..., None], 0))
        rest = rest - column[..., :, None] * column[..., None, :]
        return rest, jax.lax.dynamic_update_index_in_dim(factor, column, j, axis=-1)

    return jax.lax.fori_loop(0, size, eliminate, (matrices, jnp.zeros_like(matrices)))[1]
