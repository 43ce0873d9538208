"""Heatmaps as a detector puts them out: maps of cells over a box of the image, each map the probability of one joint.

A map `[rows, columns]` covers a box of the image: the cell in row r and column c reaches from
`corner + extent * (c / columns, r / rows)` to `corner + extent * ((c + 1) / columns, (r + 1) / rows)`, x to the right
and y down, in normalised image units (`geometry.normalise_screen`). A detector whose cell (0, 0) is centred on the
first pixel of its crop has a box that begins half a cell before it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Box(NamedTuple):
    """The part of the image that maps cover: upper left corner and extent (width, height), both `[..., 2]`."""

    corner: jax.Array
    extent: jax.Array


def to_image(box: Box, place: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Places `[..., J, (P,) 2]` in cells (column, row) of maps of a `shape` `(..., rows, columns)`, in image units."""
    corner, extent = jnp.asarray(box.corner, jnp.float32), jnp.asarray(box.extent, jnp.float32)
    cell = extent / jnp.array([shape[-1], shape[-2]], jnp.float32).reshape((1,) * (extent.ndim - 1) + (2,))
    leading = (*corner.shape[:-1], *(1,) * (place.ndim - corner.ndim), 2)
    return corner.reshape(leading) + cell.reshape(leading) * place


def peak_radius(size: int) -> int:
    """How many cells to each side of the highest one refine a keypoint: a thirty-second of the map."""
    return max(1, round(size / 32))


def refine_peak(masses: jax.Array, radius: int) -> tuple[jax.Array, jax.Array]:
    """The highest place of maps `[..., rows, columns]`, refined, and the probability around it `[...]`.

    The place `[..., 2]` (column, row, from the corner, in cells) is the mean of the centres of the cells within
    `radius` of the highest one, weighted by the square of their probability. The square draws the mean to the peak: of
    a Gaussian of variance s it is a Gaussian of variance s / 2 around the same mean, while a second, lower mode that
    reaches into the neighbourhood counts for less.
    """
    rows, columns = masses.shape[-2:]
    highest = jnp.argmax(masses.reshape(*masses.shape[:-2], rows * columns), axis=-1)[..., None]
    leading = (1,) * (masses.ndim - 2)
    near_row = jnp.abs(jnp.arange(rows).reshape(*leading, rows) - highest // columns) <= radius
    near_column = jnp.abs(jnp.arange(columns).reshape(*leading, columns) - highest % columns) <= radius
    near = jnp.where(near_row[..., :, None] & near_column[..., None, :], masses, 0.0)
    # Divided by the largest first: the squares of a wide map's probabilities would underflow.
    square = near**2 / jnp.maximum(jnp.max(near, axis=(-2, -1), keepdims=True), 1e-30) ** 2
    total = jnp.sum(square, axis=(-2, -1))
    across = jnp.matmul(jnp.sum(square, axis=-2), jnp.arange(0.5, columns), precision="highest")
    down = jnp.matmul(jnp.sum(square, axis=-1), jnp.arange(0.5, rows), precision="highest")
    return jnp.stack([across, down], axis=-1) / total[..., None], jnp.sum(near, axis=(-2, -1))
