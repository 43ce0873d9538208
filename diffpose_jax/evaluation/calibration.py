"""Calibration of hypotheses: how often credible regions hold the truth, and how much wider they would have to be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.lifters.scales import scale_hypotheses, tail_weights
from diffpose_jax.mixtures.covariance import cholesky, whiten
from diffpose_jax.workdir.calibration import LEVELS

Array = jax.Array

# A scale of the deviations is searched between these bounds by so many bisections: to 0.15 % of itself.
SCALES = (1 / 16, 16.0)
_BISECTIONS = 12
# A tail is searched between these bounds, and only where the outermost region holds less than it should by this share.
TAILS = (0.0, 0.8)
_TAIL_BISECTIONS = 5
_ENOUGH_OUTSIDE = 0.005


def mahalanobis_rank(hypotheses: Array, target: Array, floor: float = 1e-3) -> Array:
    """The Mahalanobis rank of the truth among hypotheses, an interval `[..., J, 2]` within 0..1.

    The H + 1 points, hypotheses and truth, are sorted by their distance to the common centre. The truth at place r
    (of 0..H) has the interval from r / (H + 1) to (r + 1) / (H + 1); a tie of several points is an interval of several
    places. `coverage` makes shares of it.

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
    points = jnp.concatenate([target[None], hypotheses])
    centred = points - jnp.mean(points, axis=0, keepdims=True)
    covariance = jnp.einsum("h...i,h...j->...ij", centred, centred, precision="highest") / len(points)
    covariance = covariance + floor**2 * jnp.broadcast_to(jnp.eye(3, dtype=points.dtype), covariance.shape)
    distance = jnp.sum(whiten(cholesky(covariance)[None], centred) ** 2, axis=-1)
    others, own = distance[1:], distance[:1]
    nearer = jnp.sum((others < own).astype(distance.dtype), axis=0)
    tied = jnp.sum((others == own).astype(distance.dtype), axis=0)
    return jnp.stack([nearer, nearer + tied + 1], axis=-1) / len(points)


def covered(ranks: np.ndarray, level: float) -> np.ndarray:
    """How much of each rank `[..., 2]` lies in the region of probability `level`, `[...]` in 0..1."""
    # With H hypotheses there are H + 1 places, and a (H + 1) of them make the region of probability a. That is seldom
    # a whole number: the last place belongs to the region by a fraction, clip(a (H + 1) - r, 0, 1). The mean over
    # places r = 0..H is a for every H, so that no H is favoured; ties are broken evenly by the same formula.
    ranks = np.asarray(ranks, np.float64)
    low, high = ranks[..., 0], ranks[..., 1]
    return np.clip((level - low) / (high - low), 0, 1)


def coverage(ranks: np.ndarray, levels: Sequence[float] = LEVELS) -> dict[float, float]:
    """Coverage: how often the credible region of each level holds the truth, by its ranks `[..., 2]`.

    Its expectation is the level itself, for every number of hypotheses, where the truth is one more draw of their
    distribution. Hypotheses with less are overconfident, with more too widely spread. NaN without ranks.
    """
    ranks = np.asarray(ranks).reshape(-1, 2)
    return {level: float(np.mean(covered(ranks, level))) if len(ranks) else float("nan") for level in levels}


def format_coverage(shares: dict[float, float]) -> str:
    """Coverage in words."""
    return ", ".join(f"{level:.0%} region holds {share:.0%}" for level, share in shares.items())


class Draws(NamedTuple):
    """Hypotheses of M frames beside the truth, without the root, on which a spread is fitted.

    Attributes:
        hypotheses: `[H, M, J, 3]`, m.
        target: `[M, J, 3]`, m.
    """

    hypotheses: Array
    target: Array

    def scaled(self, factors: Array) -> Draws:
        """The same with deviations from the mean multiplied by factors `[M, J]`."""
        return self._replace(hypotheses=scale_hypotheses(self.hypotheses, factors))

    def with_tail(self, tail: float) -> Draws:
        """The same with heavier tails (`scales.tail_weights`)."""
        frames, joints = self.target.shape[:2]
        weights = tail_weights(jax.random.key(0), jnp.arange(frames), len(self.hypotheses), tail)
        return self._replace(hypotheses=scale_hypotheses(self.hypotheses, jnp.ones((frames, joints)), weights))

    def ranks(self) -> np.ndarray:
        """The ranks of the truth `[M, J, 2]`."""
        return np.asarray(_rank(*self))


_rank = jax.jit(mahalanobis_rank)


@partial(jax.jit, static_argnames="count")
def _excess(draws: Draws, factors: Array, labels: Array, count: int) -> Array:
    """Coverage minus the level, summed over `LEVELS`, of the joints of each label: `[count]`."""
    ranks = mahalanobis_rank(*draws.scaled(factors))
    low, high = ranks[..., 0], ranks[..., 1]
    excess = sum(jnp.clip((level - low) / (high - low), 0, 1) - level for level in LEVELS)
    # The excess over the nominal coverage, averaged within each label.
    total = jax.ops.segment_sum(jnp.ravel(excess), jnp.ravel(labels), count)
    return total / jnp.maximum(jax.ops.segment_sum(jnp.ones(labels.size, total.dtype), jnp.ravel(labels), count), 1)


def fit_scales(draws: Draws, labels: np.ndarray, count: int) -> np.ndarray:
    """Factors of the deviations from the mean at which coverage is nominal, one for each label, `[count]`.

    Nominal is the average over `LEVELS`. A label without joints, or of joints whose hypotheses all agree, has factor 1.

    Args:
        draws: The hypotheses and the truth of M frames.
        labels: Which of the factors each joint of each frame has, `[M, J]` of 0..count-1.
        count: How many factors there are.
    """
    # Coverage grows with the scale: bisection of the logarithm, of all labels at once.
    labels = np.asarray(labels, np.int32)
    low, high = (np.full(count, np.log(bound)) for bound in SCALES)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        factors = np.exp(middle)[labels].astype(np.float32)
        narrow = np.asarray(_excess(draws, jnp.asarray(factors), jnp.asarray(labels), count)) < 0
        low, high = np.where(narrow, middle, low), np.where(narrow, high, middle)
    # Where hypotheses agree no factor changes anything, and bisection would end at one of its bounds.
    spread = np.asarray(jnp.std(draws.hypotheses, axis=0).max(axis=-1))
    moving = np.bincount(labels.ravel(), weights=(spread > 1e-6).ravel(), minlength=count) > 0
    return np.where(moving, np.exp((low + high) / 2), 1.0)


def fit_tail(draws: Draws, counted: np.ndarray) -> tuple[float, float]:
    """The tail (`Scales.tail`) and the factor of all deviations at which the coverage of every level is nominal.

    A factor alone makes the average over `LEVELS` nominal. Where the 90 % region then holds too little, and the 50 %
    region too much, hypotheses need heavier tails. Lighter ones are not made: tail 0 and factor 1 then.

    Args:
        draws: The hypotheses, their spread fitted, and the truth of M frames.
        counted: Which joints of which frames count, `[M, J]`.
    """
    labels = np.where(counted, 0, 1)
    low, high, factor = *TAILS, 1.0
    if _outer_excess(draws, counted) > -_ENOUGH_OUTSIDE:
        return 0.0, 1.0
    for _ in range(_TAIL_BISECTIONS):
        tail = (low + high) / 2
        wide = draws.with_tail(tail)
        factor = float(fit_scales(wide, labels, 2)[0])
        scaled = wide.scaled(jnp.full(labels.shape, factor, jnp.float32))
        low, high = (tail, high) if _outer_excess(scaled, counted) < 0 else (low, tail)
    return tail, factor


def _outer_excess(draws: Draws, counted: np.ndarray) -> float:
    """Coverage of the outermost region of `LEVELS` minus its level, of the joints that count."""
    level = max(LEVELS)
    return float(covered(draws.ranks()[counted], level).mean() - level)
