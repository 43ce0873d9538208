"""Calibration of hypotheses: how often credible regions hold the truth, and the temperature that corrects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.errors import UserError

Array = jax.Array

# Probabilities of the credible regions whose coverage is reported.
LEVELS = (0.5, 0.9)
# A temperature is searched between these bounds, and found when its interval's ends have at most this ratio.
TEMPERATURES = (1 / 8, 8.0)
PRECISION = 1.04


def mahalanobis_rank(hypotheses: Array, target: Array, floor: float = 1e-3) -> Array:
    """The Mahalanobis rank of the truth among hypotheses, `[..., J]` in 0..1: the share of points nearer to the centre.

    It is uniform where hypotheses and truth have the same distribution. Then the credible region of probability p, the
    points of rank below p, holds the truth with probability p.

    Args:
        hypotheses: `[H, ..., J, 3]`, m.
        target: `[..., J, 3]`, m, in the same frame of reference.
        floor: The least standard deviation in every direction, m, so that equal hypotheses have a covariance too.
    """
    # Why the rank is uniform. Let x_0 be the truth and x_1..x_H the hypotheses, and let the mean m and the covariance S
    # be those of all H + 1 points. The distances d_i = (x_i - m)^T S^-1 (x_i - m) are then the same function of x_i and
    # of the set of points. If the truth is one more draw of the distribution of the hypotheses, the points are
    # exchangeable, so that d_0 has every place among the d_i with probability 1 / (H + 1). This needs no Gaussian and
    # holds for every H. With m and S of the hypotheses alone it would not: the truth would be outside too often.
    # A tie counts as half a point nearer, and the rank of place r is (r + 1/2) / (H + 1).
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
    """Coverage: the share of ranks `[...]` below each level, which is how often that credible region holds the truth.

    The level itself is nominal; hypotheses with less are overconfident, with more too widely spread. NaN without ranks.
    """
    ranks = np.asarray(ranks, np.float64).ravel()
    return {level: float(np.mean(ranks < level)) if ranks.size else float("nan") for level in levels}


def format_coverage(shares: dict[float, float]) -> str:
    """Coverage in words."""
    return ", ".join(f"{level:.0%} region holds {share:.0%}" for level, share in shares.items())


def fit_temperature(coverage_at: Callable[[float], dict[float, float]]) -> float:
    """The temperature of the noise at which coverage is nominal, averaged over its levels.

    One number for all joints and poses, fitted to data that were not trained on, as Guo et al. (ICML 2017) do it for
    classifiers. `coverage_at(temperature)` is the coverage of hypotheses that were sampled at it. Raises UserError
    where no temperature in `TEMPERATURES` has nominal coverage.
    """
    # Coverage grows with the temperature, so the excess over nominal coverage has one zero. From temperature 1 the
    # bound is doubled or halved until the excess changes its sign; then bisection halves the interval of the logarithm:
    # the geometric mean is its middle. A temperature is a factor, so the same relative precision counts everywhere.

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
