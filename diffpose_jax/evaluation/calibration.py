"""Do hypotheses say how uncertain they are? How often the truth lies in the central part of what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.errors import UserError

Array = jax.Array

LEVELS = (0.5, 0.9)
# Between these and within a few percent of itself a temperature is looked for.
TEMPERATURES = (1 / 8, 8.0)
PRECISION = 1.04


def mahalanobis_rank(hypotheses: Array, target: Array, floor: float = 1e-3) -> Array:
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


def coverage_text(shares: dict[float, float]) -> str:
    """Coverage in words."""
    return ", ".join(f"central {level:.0%} hold {share:.0%}" for level, share in shares.items())


def fit_temperature(coverage_at: Callable[[float], dict[float, float]]) -> float:
    """The temperature of the noise at which coverage is nominal, averaged over its levels.

    `coverage_at(temperature)` is the coverage of hypotheses that were sampled at it, and grows with it. One number for
    everything, found on data that were not learned from, as for classifiers (Guo et al., ICML 2017). Raises UserError
    where no temperature does.
    """

    def excess(temperature: float) -> float:
        return sum(share - level for level, share in coverage_at(temperature).items())

    factor = 2.0 if excess(1.0) < 0 else 0.5
    near, far = 1.0, factor
    while (excess(far) < 0) == (factor > 1):
        near, far = far, far * factor
        if not TEMPERATURES[0] <= far <= TEMPERATURES[1]:
            found = f"too {'little' if factor > 1 else 'much'} spread at temperature {near:g}"
            raise UserError(f"calibration: expected hypotheses that can be calibrated, found {found}")
    low, high = sorted((near, far))
    while high / low > PRECISION:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if excess(middle) >= 0 else (middle, high)
    return (low * high) ** 0.5
