"""Heatmaps: where in the image a detector believes a joint to be, as a mixture of Gaussians or as a map of cells.

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
from diffpose_jax.keys import split
from diffpose_jax.mixtures.covariance import cholesky

_BANDS = 2  # a row of cells is integrated in so many bands, within which a tilted Gaussian counts as shifted
_MARGIN = 0.15  # of the person's size, free on every side of its box


class Box(NamedTuple):
    """The part of the image that maps cover: upper left corner and extent (width, height), both `[..., 2]`."""

    corner: jax.Array
    extent: jax.Array


class Heatmaps(NamedTuple):
    """Each joint's heatmap as a mixture of M Gaussians in the image: what an infinitely fine map would hold.

    weights `[T, J, M]`, means `[T, J, M, 2]` in normalised image units, covariances `[T, J, M, 2, 2]`. occluded and
    confused `[T, J]` bool say what the simulation did; a detector would not know, so they are for evaluation only.
    """

    weights: jax.Array
    means: jax.Array
    covariances: jax.Array
    occluded: jax.Array
    confused: jax.Array


def person_box(heatmaps: Heatmaps) -> Box:
    """A square box `[T]` around all modes of a person's heatmaps with a margin, as a detector of persons gives it."""
    low, high = jnp.min(heatmaps.means, axis=(-3, -2)), jnp.max(heatmaps.means, axis=(-3, -2))
    side = jnp.max(high - low, axis=-1, keepdims=True) * (1 + 2 * _MARGIN)
    side = jnp.broadcast_to(jnp.maximum(side, 1e-4), low.shape)
    return Box((low + high - side) / 2, side)


def probabilities(maps: jax.Array, logits: bool = False) -> jax.Array:
    """The probability of every cell of maps `[..., rows, columns]`, each map adding up to 1 (uniform if empty)."""
    maps = jnp.asarray(maps, jnp.float32)
    if maps.ndim < 2:
        raise UserError(f"heatmaps: expected [..., rows, columns], found {list(maps.shape)}")
    if logits:
        return jax.nn.softmax(maps, axis=(-2, -1))
    maps = jnp.maximum(maps, 0)
    total = jnp.sum(maps, axis=(-2, -1), keepdims=True)
    return jnp.where(total > 0, maps / jnp.where(total > 0, total, 1), 1 / (maps.shape[-1] * maps.shape[-2]))


def render(
    heatmaps: Heatmaps,
    box: Box,
    size: int = 64,
    *,
    logits: bool = False,
    key: jax.Array | None = None,
    noise: float | jax.Array = 0.0,
) -> jax.Array:
    """Maps `[T, J, size, size]` of a box `[T]`: the probability that each cell holds the joint, adding up to 1.

    Gaussians are integrated over the cells, so that maps hold the same distribution at any size, however narrow it is.
    With a key, normal noise of standard deviation `noise` is added to the logarithms. logits: returns logarithms.
    """

    def frame(part: tuple[Heatmaps, Box]) -> jax.Array:
        joints, place = part
        return jax.vmap(lambda joint: _cells(joint, place, size, jnp.zeros(2), size))(joints)

    logarithms = jnp.log(jnp.maximum(jax.lax.map(frame, (heatmaps, box)), 1e-12))
    if key is not None:
        logarithms = logarithms + noise * jax.random.normal(key, logarithms.shape)
    return logarithms if logits else jax.nn.softmax(logarithms, axis=(-2, -1))


def estimate(maps: jax.Array, box: Box, logits: bool = False) -> tuple[jax.Array, jax.Array]:
    """The keypoints `[..., J, 2]` and scores `[..., J]` that maps `[..., J, rows, columns]` of a box `[...]` amount to.

    A keypoint is the highest cell, refined by the mean place of the cells around it, weighed by squared probability so
    that a second mode nearby hardly draws it. Its score is the probability of those cells, in (0, 1].
    """
    maps = probabilities(maps, logits)
    place, score = _peak(maps)
    return _at(box, place, maps.shape[-2:]), score


def detect(heatmaps: Heatmaps, box: Box, size: int = 64) -> tuple[jax.Array, jax.Array]:
    """`estimate(render(heatmaps, box, size), box)` from the cells around the highest mode alone: keypoints, scores.

    Where two modes are as good as equally high the maps may find the other one.
    """
    radius = _radius(size) + 2

    def joint(mixture: Heatmaps, place: Box) -> tuple[jax.Array, jax.Array]:
        mean = mixture.means[jnp.argmax(_heights(mixture, place, size))]
        first = jnp.floor((mean - place.corner) / place.extent * size) - radius
        masses = _cells(mixture, place, size, first, 2 * radius + 1)
        within, score = _peak(masses, _radius(size))
        return _at(place, first + within, (size, size)), score

    return jax.vmap(lambda joints, place: jax.vmap(lambda one: joint(one, place))(joints))(heatmaps, box)


def points_from_map(
    key: jax.Array, maps: jax.Array, box: Box, num_points: int, logits: bool = False
) -> jax.Array:  # fmt: skip
    """Draws points `[..., J, P, 2]` from maps `[..., J, rows, columns]` of a box `[...]`: a cell, a place within."""
    maps = probabilities(maps, logits)
    rows, columns = maps.shape[-2:]
    total = jnp.cumsum(maps.reshape(-1, rows * columns), axis=-1)
    drawn = jax.random.uniform(key, (*maps.shape[:-2], num_points, 3))
    wanted = drawn[..., 0].reshape(-1, num_points) * total[:, -1:]
    cell = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(total, wanted).reshape(drawn.shape[:-1])
    cell = jnp.minimum(cell, rows * columns - 1)
    corner = jnp.stack([cell % columns, cell // columns], axis=-1).astype(jnp.float32)
    return _at(box, corner + drawn[..., 1:], (rows, columns))


def weighted_cells(maps: jax.Array, box: Box, count: int, logits: bool = False) -> tuple[jax.Array, jax.Array]:
    """The centres `[..., J, K, 2]` of the `count` most probable cells, and weights `[..., J, K]` adding up to 1."""
    maps = probabilities(maps, logits)
    rows, columns = maps.shape[-2:]
    if not 0 < count <= rows * columns:
        raise UserError(f"heatmaps: expected 1 to {rows * columns} cells of a map, found {count}")
    weights, cell = jax.lax.top_k(maps.reshape(*maps.shape[:-2], rows * columns), count)
    centres = jnp.stack([cell % columns, cell // columns], axis=-1).astype(jnp.float32) + 0.5
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return _at(box, centres, (rows, columns)), weights


def draw_points(
    key: jax.Array, heatmaps: Heatmaps, num_points: int, box: Box | None = None, size: int | None = None
) -> jax.Array:  # fmt: skip
    """Draws points `[T, J, P, 2]` from the heatmaps themselves, without making maps.

    key: one per frame, `[T]`. With a box and a size as `points_from_map` draws from maps of that size: the place within
    the cell is then lost.
    """

    count = (heatmaps.weights.shape[1], num_points)
    keys = split(key, 3)
    level = jax.vmap(lambda one: jax.random.uniform(one, count))(keys[0])
    white = jax.vmap(lambda one: jax.random.normal(one, (*count, 2)))(keys[1])
    reached = jnp.cumsum(heatmaps.weights, axis=-1)[..., None, :]

    def picked(parts: jax.Array) -> jax.Array:
        # Choosing one of a few by comparisons is many times faster than gathering it.
        chosen = jnp.broadcast_to(parts[..., :1], level.shape)
        for mode in range(1, parts.shape[-1]):
            chosen = jnp.where(level > reached[..., mode - 1], parts[..., mode, None], chosen)
        return chosen

    root, (x, y) = cholesky(heatmaps.covariances), (heatmaps.means[..., 0], heatmaps.means[..., 1])
    points = jnp.stack(
        [
            picked(x) + picked(root[..., 0, 0]) * white[..., 0],
            picked(y) + picked(root[..., 1, 0]) * white[..., 0] + picked(root[..., 1, 1]) * white[..., 1],
        ],
        axis=-1,
    )
    if box is None or size is None:
        return points
    corner, extent = box.corner[:, None, None], box.extent[:, None, None]
    cell = jnp.clip(jnp.floor((points - corner) / extent * size), 0, size - 1)
    within = jax.vmap(lambda one: jax.random.uniform(one, (*count, 2)))(keys[2])
    return corner + extent * (cell + within) / size


def _at(box: Box, place: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Places `[..., J, (P,) 2]` in cells (column, row) of maps of a size (rows, columns), in image units."""
    corner, extent = jnp.asarray(box.corner, jnp.float32), jnp.asarray(box.extent, jnp.float32)
    cell = extent / jnp.array(size[::-1], jnp.float32).reshape((1,) * (extent.ndim - 1) + (2,))
    shape = (*corner.shape[:-1], *(1,) * (place.ndim - corner.ndim), 2)
    return corner.reshape(shape) + cell.reshape(shape) * place


def _radius(size: int) -> int:
    """How many cells around the highest one a keypoint is refined with: a sixteenth of the map each way together."""
    return max(1, round(size / 32))


def _peak(masses: jax.Array, radius: int | None = None) -> tuple[jax.Array, jax.Array]:
    """The refined highest place `[..., 2]` in cells (column, row) from the corner, and the probability around it."""
    rows, columns = masses.shape[-2:]
    radius = _radius(max(rows, columns)) if radius is None else radius
    highest = jnp.argmax(masses.reshape(*masses.shape[:-2], rows * columns), axis=-1)[..., None]
    leading = (1,) * (masses.ndim - 2)
    near_row = jnp.abs(jnp.arange(rows).reshape(*leading, rows) - highest // columns) <= radius
    near_column = jnp.abs(jnp.arange(columns).reshape(*leading, columns) - highest % columns) <= radius
    near = jnp.where(near_row[..., :, None] & near_column[..., None, :], masses, 0.0)
    square = near**2 / jnp.maximum(jnp.max(near, axis=(-2, -1), keepdims=True), 1e-30) ** 2
    total = jnp.sum(square, axis=(-2, -1))
    across = jnp.sum(square, axis=-2) @ jnp.arange(0.5, columns)
    down = jnp.sum(square, axis=-1) @ jnp.arange(0.5, rows)
    return jnp.stack([across, down], axis=-1) / total[..., None], jnp.sum(near, axis=(-2, -1))


def _in_cells(mixture: Heatmaps, box: Box, size: int) -> tuple[jax.Array, jax.Array]:
    """Means `[M, 2]` and covariances `[M, 2, 2]` of one joint's modes in units of the cells of a map."""
    cell = box.extent / size
    means = (mixture.means - box.corner[None]) / cell[None]
    return means, mixture.covariances / (cell[:, None] * cell[None, :])[None]


def _cells(mixture: Heatmaps, box: Box, size: int, first: jax.Array, count: int) -> jax.Array:
    """The probability in `count` by `count` cells from the cell `first` (column, row) on, for one joint's modes.

    Rows are exact; within a band of a row y counts as a Gaussian of about its mean and variance there, which makes x
    one too. Cells outside the map hold nothing.
    """
    mean, covariance = _in_cells(mixture, box, size)
    spread = jnp.sqrt(covariance[:, 1, 1])
    slope = covariance[:, 0, 1] / covariance[:, 1, 1]
    # A Gaussian of y times one of the variance of a band: right for bands far narrower and far wider than the mode.
    kept = covariance[:, 1, 1] / (covariance[:, 1, 1] + 1 / (12 * _BANDS**2))
    within = slope**2 * kept / (12 * _BANDS**2)
    narrow = jnp.sqrt(jnp.maximum(covariance[:, 0, 0] - slope * covariance[:, 0, 1] + within, 1e-12))
    edges = (first[1] + jnp.arange(count * _BANDS + 1) / _BANDS)[None] - mean[:, 1:]
    band = _between(edges / spread[:, None])
    centre = mean[:, :1] + (slope * kept)[:, None] * (edges[:, 1:] + edges[:, :-1]) / 2
    sides = first[0] + jnp.arange(count + 1, dtype=jnp.float32)
    columns = _between((sides[None, None] - centre[..., None]) / narrow[:, None, None])
    masses = jnp.sum(mixture.weights[:, None, None] * band[..., None] * columns, axis=0)
    place = first[:, None] + jnp.arange(count, dtype=jnp.float32)[None]
    inside = (place >= 0) & (place < size)
    inside = inside[1][:, None] & inside[0][None]
    return jnp.where(inside, jnp.sum(masses.reshape(count, _BANDS, count), axis=1), 0.0)


def _between(edges: jax.Array) -> jax.Array:
    """The standard normal probability between neighbouring edges of the last axis."""
    return jnp.diff(jax.lax.erf(edges * 0.5**0.5), axis=-1) / 2


def _heights(mixture: Heatmaps, box: Box, size: int) -> jax.Array:
    """How high one joint's map is at each of its modes `[M]`: the density there, blurred by a cell."""
    mean, covariance = _in_cells(mixture, box, size)
    covariance = covariance + jnp.eye(2)[None] / 12
    determinant = covariance[:, 0, 0] * covariance[:, 1, 1] - covariance[:, 0, 1] ** 2
    gap = mean[:, None] - mean[None]  # [at, of, 2]
    quadratic = (
        covariance[None, :, 1, 1] * gap[..., 0] ** 2
        - 2 * covariance[None, :, 0, 1] * gap[..., 0] * gap[..., 1]
        + covariance[None, :, 0, 0] * gap[..., 1] ** 2
    ) / determinant[None]
    return jnp.sum((mixture.weights / jnp.sqrt(determinant))[None] * jnp.exp(-quadratic / 2), axis=-1)
