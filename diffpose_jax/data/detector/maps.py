"""Heatmaps as a detector puts them out: maps of cells over a box of the image, each map the probability of one joint.

A map `[rows, columns]` covers a box of the image: the cell in row r and column c reaches from
`corner + extent * (c / columns, r / rows)` to `corner + extent * ((c + 1) / columns, (r + 1) / rows)`, x to the right
and y down, in normalised image units (`geometry.normalise_screen`). A detector whose cell (0, 0) is centred on the
first pixel of its crop has a box that begins half a cell before it. Maps hold probabilities, not necessarily normalised
(what is below zero counts as zero), or, with `logits=True`, their logarithms up to a constant. Boxes and maps of a real
detector can be given as numpy arrays of any resolution.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffpose_jax.errors import UserError


class Box(NamedTuple):
    """The part of the image that maps cover: upper left corner and extent (width, height), both `[..., 2]`."""

    corner: jax.Array
    extent: jax.Array


def normalise_maps(maps: jax.Array, logits: bool = False) -> jax.Array:
    """The probability of every cell of maps `[..., rows, columns]`, each map adding up to 1 (uniform if empty).

    With `logits` the maps are logarithms. Raises UserError for an array without rows and columns.
    """
    maps = jnp.asarray(maps, jnp.float32)
    if maps.ndim < 2:
        raise UserError(f"heatmaps: expected [..., rows, columns], found {list(maps.shape)}")
    if logits:
        return jax.nn.softmax(maps, axis=(-2, -1))
    maps = jnp.maximum(maps, 0)
    total = jnp.sum(maps, axis=(-2, -1), keepdims=True)
    return jnp.where(total > 0, maps / jnp.where(total > 0, total, 1), 1 / (maps.shape[-1] * maps.shape[-2]))


def estimate_keypoints(maps: jax.Array, box: Box, logits: bool = False) -> tuple[jax.Array, jax.Array]:
    """Read keypoints `[..., J, 2]` (image units) and scores `[..., J]` off maps `[..., J, rows, columns]`.

    A keypoint is the highest cell, refined by the cells around it (`refine_peak`); its score is the probability of
    those cells, in (0, 1]. `box` `[...]` is where the maps lie; with `logits` they are logarithms.
    """
    maps = normalise_maps(maps, logits)
    place, score = refine_peak(maps, peak_radius(max(maps.shape[-2:])))
    return to_image(box, place, maps.shape), score


def draw_from_maps(key: jax.Array, maps: jax.Array, box: Box, num_points: int, logits: bool = False) -> jax.Array:
    """Draw points from maps: a cell by its probability, then a place within the cell uniformly.

    Args:
        key: One key.
        maps: `[..., J, rows, columns]`.
        box: The boxes `[...]` of the maps.
        num_points: P.
        logits: Whether the maps are logarithms.

    Returns:
        Points `[..., J, P, 2]` in normalised image units.
    """
    maps = normalise_maps(maps, logits)
    rows, columns = maps.shape[-2:]
    # The inverse of the cumulative distribution at a uniform draw, for all points of a map at once.
    total = jnp.cumsum(maps.reshape(-1, rows * columns), axis=-1)
    drawn = jax.random.uniform(key, (*maps.shape[:-2], num_points, 3))
    wanted = drawn[..., 0].reshape(-1, num_points) * total[:, -1:]
    cell = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(total, wanted).reshape(drawn.shape[:-1])
    cell = jnp.minimum(cell, rows * columns - 1)
    corner = jnp.stack([cell % columns, cell // columns], axis=-1).astype(jnp.float32)
    return to_image(box, corner + drawn[..., 1:], maps.shape)


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
    across = jnp.sum(square, axis=-2) @ jnp.arange(0.5, columns)
    down = jnp.sum(square, axis=-1) @ jnp.arange(0.5, rows)
    return jnp.stack([across, down], axis=-1) / total[..., None], jnp.sum(near, axis=(-2, -1))
