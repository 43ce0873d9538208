"""Heatmaps as mixtures of Gaussians in the image: what maps of infinitely many cells would hold.

A simulated heatmap is such a mixture; keypoints and points are read off it without making its maps, which `render`
makes where they are wanted.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffpose_jax.data.detector.maps import Box, peak_radius, refine_peak, to_image
from diffpose_jax.keys import split
from diffpose_jax.mixtures.covariance import cholesky

_BANDS = 2  # a row of cells is integrated in so many bands, within which a tilted Gaussian counts as shifted
_MARGIN = 0.15  # of the person's size, free on every side of its box


class Heatmaps(NamedTuple):
    """Each joint's heatmap as a mixture of M Gaussians.

    Attributes:
        weights: `[T, J, M]`.
        means: `[T, J, M, 2]` normalised image units.
        covariances: `[T, J, M, 2, 2]`.
        occluded: `[T, J]` bool, whether the simulation hid the joint. No detector could tell: for evaluation only.
        confused: `[T, J]` bool, whether the simulation confused the joint with its partner; likewise.
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


def render(heatmaps: Heatmaps, box: Box, size: int = 64) -> jax.Array:
    """Maps `[T, J, size, size]` of a box `[T]`: the probability that each cell holds the joint, adding up to 1.

    Gaussians are integrated over the cells, so that maps hold the same distribution at any size, however narrow it is.
    """

    def frame(part: tuple[Heatmaps, Box]) -> jax.Array:
        joints, place = part
        return jax.vmap(lambda joint: _cells(joint, place, size, jnp.zeros(2), size))(joints)

    masses = jnp.maximum(jax.lax.map(frame, (heatmaps, box)), 1e-12)
    return masses / jnp.sum(masses, axis=(-2, -1), keepdims=True)


def detect(heatmaps: Heatmaps, box: Box, size: int = 64) -> tuple[jax.Array, jax.Array]:
    """Read keypoints `[T, J, 2]` and scores `[T, J]` off heatmaps, as `estimate_keypoints` reads them off maps.

    Of the maps `[size, size]` only the cells around the highest mode are computed. Where two modes are almost equally
    high the maps may find the other one.
    """
    radius = peak_radius(size) + 2

    def joint(mixture: Heatmaps, place: Box) -> tuple[jax.Array, jax.Array]:
        mean = mixture.means[jnp.argmax(_heights(mixture, place, size))]
        first = jnp.floor((mean - place.corner) / place.extent * size) - radius
        masses = _cells(mixture, place, size, first, 2 * radius + 1)
        within, score = refine_peak(masses, peak_radius(size))
        return to_image(place, first + within, (size, size)), score

    return jax.vmap(lambda joints, place: jax.vmap(lambda one: joint(one, place))(joints))(heatmaps, box)


def draw_points(keys: jax.Array, heatmaps: Heatmaps, num_points: int) -> jax.Array:
    """Draw points `[T, J, P, 2]` (normalised image units) from heatmaps, with one key per frame `[T]`."""
    count = (heatmaps.weights.shape[1], num_points)
    for_mode, for_place = split(keys)
    level = jax.vmap(lambda key: jax.random.uniform(key, count))(for_mode)
    normal = jax.vmap(lambda key: jax.random.normal(key, (*count, 2)))(for_place)
    reached = jnp.cumsum(heatmaps.weights, axis=-1)[..., None, :]

    def pick(parts: jax.Array) -> jax.Array:
        # Choosing one of a few by comparisons is many times faster than gathering it.
        chosen = jnp.broadcast_to(parts[..., :1], level.shape)
        for mode in range(1, parts.shape[-1]):
            chosen = jnp.where(level > reached[..., mode - 1], parts[..., mode, None], chosen)
        return chosen

    # The halves of a simulated covariance differ by rounding; the upper one counts, as in the archives there are.
    factor, means = cholesky(jnp.swapaxes(heatmaps.covariances, -1, -2)), heatmaps.means
    x = pick(means[..., 0]) + pick(factor[..., 0, 0]) * normal[..., 0]
    y = pick(means[..., 1]) + pick(factor[..., 1, 0]) * normal[..., 0] + pick(factor[..., 1, 1]) * normal[..., 1]
    return jnp.stack([x, y], axis=-1)


def _in_cells(mixture: Heatmaps, box: Box, size: int) -> tuple[jax.Array, jax.Array]:
    """Means `[M, 2]` and covariances `[M, 2, 2]` of one joint's modes in units of the cells of a map."""
    cell = box.extent / size
    means = (mixture.means - box.corner[None]) / cell[None]
    return means, mixture.covariances / (cell[:, None] * cell[None, :])[None]


def _cells(mixture: Heatmaps, box: Box, size: int, first: jax.Array, count: int) -> jax.Array:
    """The probability in `count` by `count` cells from the cell `first` (column, row) on, for one joint's modes.

    Cells outside the map hold nothing.
    """
    # A Gaussian with covariance [[a, b], [b, d]] is y ~ N(m_y, d) and x given y ~ N(m_x + s (y - m_y), a - s b) with
    # the slope s = b / d. Rows of cells are cut into bands of height h, and the mass of y in a band is exact. Within a
    # band around c (from m_y) the distribution of y counts as the product of its Gaussian and one of the variance of a
    # uniform distribution over the band, h^2 / 12: mean k c and variance k h^2 / 12 with k = d / (d + h^2 / 12), right
    # for bands far narrower (k = 1) and far wider (k = 12 d / h^2) than the mode. Then x is Gaussian in the band too,
    # with mean m_x + s k c and variance a - s b + s^2 k h^2 / 12, and its mass in a column is a difference of two
    # values of the error function.
    mean, covariance = _in_cells(mixture, box, size)
    std_y = jnp.sqrt(covariance[:, 1, 1])
    slope = covariance[:, 0, 1] / covariance[:, 1, 1]
    kept = covariance[:, 1, 1] / (covariance[:, 1, 1] + 1 / (12 * _BANDS**2))
    within = slope**2 * kept / (12 * _BANDS**2)
    std_x = jnp.sqrt(jnp.maximum(covariance[:, 0, 0] - slope * covariance[:, 0, 1] + within, 1e-12))
    edges = (first[1] + jnp.arange(count * _BANDS + 1) / _BANDS)[None] - mean[:, 1:]
    band = _between(edges / std_y[:, None])
    centre = mean[:, :1] + (slope * kept)[:, None] * (edges[:, 1:] + edges[:, :-1]) / 2
    sides = first[0] + jnp.arange(count + 1, dtype=jnp.float32)
    columns = _between((sides[None, None] - centre[..., None]) / std_x[:, None, None])
    masses = jnp.sum(mixture.weights[:, None, None] * band[..., None] * columns, axis=0)
    place = first[:, None] + jnp.arange(count, dtype=jnp.float32)[None]
    inside = (place >= 0) & (place < size)
    inside = inside[1][:, None] & inside[0][None]
    return jnp.where(inside, jnp.sum(masses.reshape(count, _BANDS, count), axis=1), 0.0)


def _between(edges: jax.Array) -> jax.Array:
    """The standard normal probability between neighbouring edges of the last axis."""
    return jnp.diff(jax.lax.erf(edges * 0.5**0.5), axis=-1) / 2


def _heights(mixture: Heatmaps, box: Box, size: int) -> jax.Array:
    """How high one joint's map is at each of its modes `[M]`, up to a constant: the density of the mixture there.

    Cells blur the density by a uniform distribution over a cell, of variance 1/12 in units of cells: without it the
    peak of a mode far narrower than a cell would count as higher than the cell that holds it.
    """
    mean, covariance = _in_cells(mixture, box, size)
    covariance = covariance + jnp.eye(2)[None] / 12
    determinant = covariance[:, 0, 0] * covariance[:, 1, 1] - covariance[:, 0, 1] ** 2
    gap = mean[:, None] - mean[None]  # [at, of, 2]
    # d^T C^-1 d with the inverse of a 2 x 2 matrix written out: [[d, -b], [-b, a]] / determinant.
    squared = (
        covariance[None, :, 1, 1] * gap[..., 0] ** 2
        - 2 * covariance[None, :, 0, 1] * gap[..., 0] * gap[..., 1]
        + covariance[None, :, 0, 0] * gap[..., 1] ** 2
    ) / determinant[None]
    return jnp.sum((mixture.weights / jnp.sqrt(determinant))[None] * jnp.exp(-squared / 2), axis=-1)
