"""What is read off a detector's maps `[..., J, rows, columns]`: a reference for the simulated ones.

Maps hold probabilities, not necessarily normalised (what is below zero counts as zero), or, with `logits=True`, their
logarithms up to a constant.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from diffpose_jax.data.detector.maps import Box, peak_radius, refine_peak, to_image
from diffpose_jax.errors import UserError


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
