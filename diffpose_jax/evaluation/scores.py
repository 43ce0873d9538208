"""Scores of distributions: measures of all hypotheses together that see what coverage of single joints cannot.

The energy score and CRPS are proper: in expectation no other distribution has a lower one than the true distribution.
The energy score is of whole poses, so that hypotheses whose joints vary independently lose to those that stay people.
Hypotheses are `[H, ..., J, 3]`, targets `[..., J, 3]`, root-relative metres; a score is one value per pose, in metres.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.evaluation.coherence import bone_lengths
from diffpose_jax.evaluation.metrics import Metric
from diffpose_jax.skeleton import Skeleton

# The spread, in m, to which hypotheses are brought before the best of them is chosen.
EQUAL_SPREAD = 0.050
# Frames of which directions of limbs are compared: half a million pairs.
_DIRECTION_FRAMES = 1000

# In the order of `score_hypotheses`.
SCORES: dict[str, Metric] = {
    "energy_score": Metric("energy score", "mm", 1000.0),
    "crps": Metric("CRPS", "mm", 1000.0),
    "limb_length_error": Metric("limb length error", "mm", 1000.0),
    "best_at_equal_spread": Metric(f"best at a spread of {1000 * EQUAL_SPREAD:.0f} mm", "mm", 1000.0),
}
# A score of all frames together.
DIRECTIONS = "limb_direction_distance"
DIRECTION_METRIC = Metric("limb direction distance", "1/1000", 1000.0)


def score_hypotheses(hypotheses: Array, target: Array, skeleton: Skeleton) -> Array:
    """All `SCORES` of two or more hypotheses, `[..., S]` m in their order.

    Args:
        hypotheses: `[H, ..., J, 3]`, m.
        target: `[..., J, 3]`, m.
        skeleton: The joints; the root, which is zero by definition, does not count.
    """
    return jnp.stack(
        [
            energy_score(hypotheses, target),
            crps(hypotheses, target, skeleton.root),
            limb_length_error(hypotheses, target, skeleton),
            best_at_equal_spread(hypotheses, target, skeleton.root),
        ],
        axis=-1,
    )


def energy_score(hypotheses: Array, target: Array) -> Array:
    """The energy score of whole poses, `[...]` m (Gneiting and Raftery 2007).

    `mean_h |X_h - y| - 1/2 mean_{h != h'} |X_h - X_h'|`, with the Euclidean norm over all coordinates of all joints.
    The second mean is over distinct pairs: so the score's expectation does not depend on the number of hypotheses.
    """

    # One hypothesis after the other: differences of all pairs, [H, H, ..., J, 3], would not fit for a large H.
    def distances(one: Array) -> Array:
        return jnp.sum(_norm(hypotheses - one[None]), axis=0)

    count = len(hypotheses)
    # Why it is proper: for independent X, X' of the hypotheses' distribution and Y, Y' of the truth's, the energy
    # distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| is not negative, and 0 for equal distributions only. So
    # E|X - Y| - E|X - X'| / 2 is least for the true distribution, where it is E|Y - Y'| / 2.
    among = jnp.sum(jax.lax.map(distances, hypotheses), axis=0) / (count * (count - 1))
    return jnp.mean(_norm(hypotheses - target[None]), axis=0) - among / 2


def _norm(poses: Array) -> Array:
    return jnp.sqrt(jnp.sum(poses**2, axis=(-2, -1)))


def crps(hypotheses: Array, target: Array, root: int = 0) -> Array:
    """The continuous ranked probability score of a coordinate, averaged over those of all joints but the root.

    `mean_h |x_h - y| - 1/2 mean_{h != h'} |x_h - x_h'|`, `[...]` m: the energy score of one coordinate.
    """
    # The score is the integral of (F(z) - [y <= z])^2 over z with the hypotheses' distribution function F, which is E|x
    # - y| - E|x - x'| / 2 (Gneiting and Raftery 2007).
    # With the values in rising order, sum_{i < k} (x_k - x_i) = sum_i (2 i - H + 1) x_i for i = 0..H-1. Deviations from
    # the mean, which are smaller, lose less in that sum.
    count = len(hypotheses)
    mean = jnp.mean(hypotheses, axis=0, keepdims=True)
    weights = 2.0 * np.arange(count, dtype=np.float32) - (count - 1)
    ordered = jnp.sort(hypotheses - mean, axis=0)
    among = jnp.einsum("h,h...->...", weights, ordered, precision="highest") / (count * (count - 1) / 2)
    score = jnp.mean(jnp.abs(hypotheses - target[None]), axis=0) - among / 2
    return jnp.mean(jnp.delete(score, root, axis=-2), axis=(-2, -1))


def limb_length_error(hypotheses: Array, target: Array, skeleton: Skeleton) -> Array:
    """How far limb lengths of single hypotheses are from the person's, mean over hypotheses and limbs, `[...]` m.

    The person's lengths are those of the true pose.
    """
    true = bone_lengths(target, skeleton.bones)
    return jnp.mean(jnp.abs(bone_lengths(hypotheses, skeleton.bones) - true[None]), axis=(0, -1))


def best_at_equal_spread(hypotheses: Array, target: Array, root: int = 0, spread: float = EQUAL_SPREAD) -> Array:
    """The error (MPJPE) of the best hypothesis after all are brought to the same spread, `[...]` m.

    USES GROUND TRUTH to choose. The best of N falls with any spread; at equal spread it says whether hypotheses vary
    where the truth does. Deviations from the mean are multiplied by one factor per pose, so that the root mean square
    over joints (without the root) and hypotheses is `spread`. NaN where all hypotheses agree.

    Args:
        hypotheses: `[H, ..., J, 3]`, root-relative m.
        target: `[..., J, 3]`, m.
        root: The index of the root, which is zero by definition.
        spread: The root mean square deviation that all poses are brought to, m.
    """
    mean = jnp.mean(hypotheses, axis=0, keepdims=True)
    deviations = hypotheses - mean
    square = jnp.mean(jnp.sum(jnp.delete(deviations, root, axis=-2) ** 2, axis=-1), axis=(0, -1))
    factor = jnp.where(square > 1e-12, spread / jnp.sqrt(jnp.maximum(square, 1e-12)), jnp.nan)
    poses = mean + factor[None, ..., None, None] * deviations
    return jnp.min(jnp.mean(jnp.linalg.norm(poses - target[None], axis=-1), axis=-1), axis=0)


def limb_direction_distance(poses: np.ndarray, target: np.ndarray, bones: Sequence[tuple[int, int]]) -> float | None:
    """The energy distance between directions of limbs in predicted poses and in true ones, mean over limbs.

    2 E|u - v| - E|u - u'| - E|v - v'| with unit vectors u of predictions and v of truths, from 0 for equal
    distributions to 4. Every pose has to be a single hypothesis: means of several are too much alike. Pairs are of
    distinct frames, so that a perfect posterior, one draw for each frame, has 0 in expectation. None with one frame.

    Args:
        poses: One hypothesis of each of M frames, `[M, J, 3]`, m.
        target: `[M, J, 3]`, m.
        bones: The limbs as (child, parent).
    """
    chosen = np.unique(np.linspace(0, len(poses) - 1, _DIRECTION_FRAMES).astype(int))
    if len(chosen) < 2:
        return None
    child, parent = np.array(bones).T

    def directions(joints: np.ndarray) -> np.ndarray:
        limbs = np.asarray(joints[chosen][:, child] - joints[chosen][:, parent], np.float32)
        return limbs / np.maximum(np.linalg.norm(limbs, axis=-1, keepdims=True), 1e-9)

    drawn, true = directions(poses), directions(target)
    found = [
        2 * _mean_distance(drawn[:, limb], true[:, limb])
        - _mean_distance(drawn[:, limb], drawn[:, limb])
        - _mean_distance(true[:, limb], true[:, limb])
        for limb in range(len(child))
    ]
    return float(np.mean(found))


def _mean_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The mean distance between unit vectors `[M, 3]` of distinct frames."""
    # |a - b|^2 = 2 - 2 a.b for unit vectors.
    distances = np.sqrt(np.maximum(2 - 2 * (one @ other.T), 0))
    np.fill_diagonal(distances, 0)
    return float(distances.sum(dtype=np.float64)) / (len(one) * (len(one) - 1))
