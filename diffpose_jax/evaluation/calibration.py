"""Do hypotheses say how uncertain they are? How often the truth lies in the central part of what was sampled."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

LEVELS = (0.5, 0.9)


def central_rank(hypotheses: Array, target: Array, floor: float = 1e-3) -> Array:
    """How far out the truth lies among the hypotheses, `[..., J]` in [0, 1): the share of points nearer to the centre.

    hypotheses `[H, ..., J, 3]` and target `[..., J, 3]` in metres, one frame. Truth and hypotheses together give centre
    and covariance, by which distances are measured (Mahalanobis), with a deviation of at least `floor` m in every
    direction. Were the truth one more draw of the same distribution, its rank would be uniform, whatever H and the
    distribution: no Gaussian is assumed. Ties count half.
    """
    points = jnp.concatenate([target[None], hypotheses])
    centred = points - jnp.mean(points, axis=0, keepdims=True)
    covariance = jnp.einsum("h...i,h...j->...ij", centred, centred) / len(points)
    covariance = covariance + floor**2 * jnp.broadcast_to(jnp.eye(3, dtype=points.dtype), covariance.shape)
    solved = jnp.linalg.solve(covariance, jnp.moveaxis(centred, 0, -1))
    distance = jnp.sum(jnp.moveaxis(solved, -1, 0) * centred, axis=-1)
    others, own = distance[1:], distance[:1]
    nearer = jnp.sum(jnp.where(others == own, 0.5, (others < own).astype(distance.dtype)), axis=0)
    return (nearer + 0.5) / len(points)


def coverage(ranks: np.ndarray, levels: Sequence[float] = LEVELS) -> dict[float, float]:
    """The share of ranks `[...]` below each level: what central region of that probability holds the truth.

    Nominal is the level itself; less is overconfident, more is needlessly wide. NaN where there are no ranks.
    """
    ranks = np.asarray(ranks, np.float64).ravel()
    return {level: float(np.mean(ranks < level)) if ranks.size else float("nan") for level in levels}
