"""Conformal regions: balls around the mean pose that hold the truth with a guarantee that needs no correct model.

`docs/calibration.md` has the statement. A ball's radius is a factor per joint and level times the hypotheses' spread
plus a floor; the factors are quantiles of the scores of a calibration split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.intervals import bound_new_subject

# Added to the spread, m, so that hypotheses that agree, of a deterministic lifter say, have a region too.
FLOOR = 0.010
# Hidden joints have factors of their own where of each subject so many were hidden, in all frames together.
ENOUGH_HIDDEN = 100
# Of whom the guarantee is: of any new subject, or of K in K + 1 new subjects.
SUBJECTS, MOST_SUBJECTS = "subjects", "most_subjects"


class Factors(NamedTuple):
    """The factors `[L, J]` of levels, and their guarantee: SUBJECTS or MOST_SUBJECTS."""

    values: np.ndarray
    guarantee: str


def nonconformity(mean: np.ndarray, spread: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The scores `[M, J]`: the truth's distance from the mean, in units of the spread plus `FLOOR`.

    Args:
        mean: The mean of the hypotheses `[M, J, 3]`, m.
        spread: Their standard deviation `[M, J]`, m (`metrics.spread`).
        target: The truth `[M, J, 3]`, m.
    """
    # Balls grow with the spread, so that they are large where the hypotheses disagree. The guarantee does not need the
    # spread to be right: it comes from the quantiles of these scores alone.
    return np.linalg.norm(np.asarray(target, np.float64) - mean, axis=-1) / (np.asarray(spread, np.float64) + FLOOR)


def fit_factors(scores: np.ndarray, subjects: Sequence[str], levels: Sequence[float]) -> Factors:
    """The factors at which the regions hold the truth with a probability of at least their level.

    By `subject_quantile` where there are enough subjects for all levels, else by `bound_quantile`.

    Args:
        scores: `nonconformity` of the calibration split, `[M, J]`.
        subjects: The subject of each frame.
        levels: The probabilities.

    Raises:
        UserError: A subject with too few frames for a level.
    """
    # With few subjects a low level alone could be had by the first rule too, but as a much higher quantile: with one
    # subject the 50 % region would be its largest score. One rule for all levels keeps the regions nested.
    by_subject = [subject_quantile(scores, subjects, level) for level in levels]
    found = [values for values in by_subject if values is not None]
    if len(found) == len(levels):
        return Factors(np.stack(found), SUBJECTS)
    bounds = {level: bound_quantile(scores, subjects, level) for level in levels}
    # Few subjects may need a larger reserve at a low level than at a high one; regions are nested all the same.
    nested = [np.max([bounds[lower] for lower in levels if lower <= level], axis=0) for level in levels]
    return Factors(np.stack(nested), MOST_SUBJECTS)


def fit_visible_and_hidden(
    scores: np.ndarray, seen: np.ndarray, subjects: Sequence[str], levels: Sequence[float]
) -> tuple[Factors, np.ndarray | None]:
    """The factors of joints that were seen, as `fit_factors`, and one for each level of all joints that were not.

    Args:
        scores: `nonconformity` of the calibration split, `[M, J]`.
        seen: Which joints were seen, bool `[M, J]`.
        subjects: The subject of each frame.
        levels: The probabilities.

    Returns:
        The factors, and those of hidden joints `[L]`: None where too few were hidden, of a subject, to tell.

    Raises:
        UserError: A subject with too few frames for a level.
    """
    names, moving = np.asarray(subjects), scores.max(axis=0) > 0
    # The root's score is 0 whether it was seen or not; it is no sample of hidden joints.
    hidden = ~seen & moving
    if np.bincount(np.unique(names, return_inverse=True)[1], weights=hidden.sum(axis=1)).min() < ENOUGH_HIDDEN:
        return fit_factors(scores, subjects, levels), None
    by_joint = [
        fit_factors(scores[seen[:, j], j, None], list(names[seen[:, j]]), levels) for j in range(scores.shape[1])
    ]
    # Joints have one factor in common: each is hidden too seldom, and the spread is its own already.
    rows, joints = np.nonzero(hidden)
    common = fit_factors(scores[rows, joints, None], list(names[rows]), levels)
    return Factors(np.concatenate([one.values for one in by_joint], axis=1), by_joint[0].guarantee), common.values[:, 0]


def subject_quantile(scores: np.ndarray, subjects: Sequence[str], level: float) -> np.ndarray | None:
    """The quantile `[J]` that holds for a frame of a new subject; None where there are too few subjects for one.

    Scores `[M, J]` of K subjects; each subject has the weight 1 / (K + 1), shared by its frames, and the rest,
    1 / (K + 1), lies at infinity in place of the new subject. The quantile is the least score with a weight of `level`
    up to it, which exists for K / (K + 1) >= level: K >= 9 for 90 % (Lee, Barber and Willett 2023).
    """
    scores = np.asarray(scores, np.float64)
    names, person, frames = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    if len(names) < level * (len(names) + 1) - 1e-9:
        return None
    # People are exchangeable, the frames of one person are not. A random frame of a random one of K + 1 people, of whom
    # one is new, is a known score with a probability of 1 / ((K + 1) times the frames of that person), and unknown, so
    # at worst infinite, with 1 / (K + 1).
    order = np.argsort(scores, axis=0, kind="stable")
    weights = (1 / ((len(names) + 1) * frames))[person][order]
    # The sum of a million weights is off by less than this.
    first = np.argmax(np.cumsum(weights, axis=0) >= level - 1e-9, axis=0)
    return np.take_along_axis(scores, np.take_along_axis(order, first[None], axis=0), axis=0)[0]


def bound_quantile(scores: np.ndarray, subjects: Sequence[str], level: float) -> np.ndarray:
    """What nine in ten new subjects' own `frame_quantile`s of scores do not exceed, by those of K subjects, `[J]`.

    At least the largest of theirs.

    Args:
        scores: The scores `[M, J]`.
        subjects: The subject of each frame.
        level: The probability.
    """
    # Quantiles of all frames pooled would promise nothing. A new subject's own quantile is not larger than the largest
    # of K others with a probability of at least K / (K + 1), whatever their distribution: then at least the share
    # `level` of its frames is inside. Of few subjects that is seldom enough: K people do little of what people do.
    names = np.asarray(subjects)
    own = np.stack([frame_quantile(scores[names == name], level) for name in np.unique(names)])
    # The root's scores are zero, which has no logarithm.
    return np.where(own.max(axis=0) > 0, bound_new_subject(own), 0.0)


def frame_quantile(scores: np.ndarray, level: float) -> np.ndarray:
    """The ceil((M + 1) level)-th smallest of M scores `[M, J]`, `[J]`: it holds for frames exchangeable with these.

    Frames of other people are not. Raises UserError with fewer frames than that rank.
    """
    # Of M + 1 exchangeable scores the new one has every rank with the same probability: with a probability of at least
    # r / (M + 1) it is not larger than the r-th smallest of the others. The small number is for products that rounding
    # puts just above a whole number.
    rank = int(np.ceil((len(scores) + 1) * level - 1e-9))
    if rank > len(scores):
        needed = samples_needed(level)
        raise UserError(
            f"conformal regions: expected at least {needed} frames of each subject for {level:.0%}, found {len(scores)}"
        )
    return np.sort(np.asarray(scores, np.float64), axis=0)[rank - 1]


def samples_needed(level: float) -> int:
    """How many subjects a guarantee by subjects of this level needs, and how many frames a quantile of frames."""
    # K / (K + 1) >= level, solved for K; of M frames the rank ceil((M + 1) level) is at most M for the same number.
    return int(np.ceil(level / (1 - level) - 1e-9))
