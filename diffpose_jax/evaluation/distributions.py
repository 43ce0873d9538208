"""The rows of a report that measure whole distributions: coverage, proper scores, limbs, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.clip import VISIBILITY
from diffpose_jax.evaluation.aggregation import RANK, SCORED, SPREAD, reduce_hypotheses
from diffpose_jax.evaluation.calibration import LEVELS, covered
from diffpose_jax.evaluation.intervals import subject_interval
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.evaluation.scores import DIRECTION_METRIC, DIRECTIONS, SCORES, limb_direction_distance
from diffpose_jax.lifters.base import Batch
from diffpose_jax.workdir.calibration import Regions

# What a job has to give for a row, beside single hypotheses.
OUTPUTS = (RANK, SPREAD, SCORED, "first")

Shares = dict[str, dict[str, float]]
Intervals = dict[str, dict[str, list[float] | None]]

_HOST_FRAMES = 256


def shares_by_visibility(measured: Measured, inside: Mapping[float, np.ndarray]) -> tuple[Shares, Intervals]:
    """How often the truth lies in regions, of all joints and by visibility, and the bootstrap intervals of that.

    Without the root, which is zero by definition; by visibility where the data say it, without kinds that do not occur.

    Args:
        measured: The frames.
        inside: How much of each joint is inside, `{level: [M, J]}` in 0..1.

    Returns:
        `{'all', a name of VISIBILITY, 'seen' or 'not seen': {level: share}}`, and the same of `[low, high]` or None.
    """
    shape = next(iter(inside.values())).shape
    moving = np.arange(shape[1]) != measured.clips.skeleton.root
    kinds = {"all": np.ones(shape, bool)}
    if measured.clips.visibility is not None:
        visibility = measured.clips.visibility[measured.indices]
        kinds |= {name: visibility == code for code, name in enumerate(VISIBILITY)}
    seen = measured.clips.seen[measured.indices]
    if not seen.all():
        kinds |= {"seen": seen, "not seen": ~seen}
    shares: Shares = {}
    intervals: Intervals = {}
    for name, where in kinds.items():
        counted = where & moving
        if not counted.any():
            continue
        # What does not count is NaN, which the mean and the bootstrap leave out alike.
        values = {str(level): np.where(counted, one, np.nan) for level, one in inside.items()}
        shares[name] = {level: float(np.nanmean(one)) for level, one in values.items()}
        intervals[name] = {level: _interval(one, measured) for level, one in values.items()}
    return shares, intervals


def coverage_by_visibility(measured: Measured, ranks: np.ndarray) -> tuple[Shares, Intervals]:
    """Coverage by ranks `[M, J, 2]` (`calibration.mahalanobis_rank`), with intervals, as `shares_by_visibility`."""
    return shares_by_visibility(measured, {level: covered(ranks, level) for level in LEVELS})


def regions_by_visibility(
    measured: Measured, regions: Regions, mean: np.ndarray, spread: np.ndarray
) -> tuple[Shares, Intervals]:
    """How often conformal regions hold the truth, with intervals, as `shares_by_visibility`.

    Args:
        measured: The frames.
        regions: The regions.
        mean: The mean of the hypotheses, `[M, J, 3]`, m.
        spread: Their standard deviation, `[M, J]`, m.
    """
    distance = np.linalg.norm(np.asarray(measured.frames.poses) - mean, axis=-1)
    radii = regions.radii(spread, measured.clips.seen[measured.indices])
    inside = {level: (distance <= radii[:, place]).astype(float) for place, level in enumerate(LEVELS)}
    return shares_by_visibility(measured, inside)


def distribution_row(measured: Measured, name: str, label: str, found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The report's row of a distribution: coverage, `SCORES` and the distance of limb directions, in printed units.

    Args:
        measured: The frames.
        name: What `results.json` calls it.
        label: What the tables call it.
        found: The `OUTPUTS` of two or more hypotheses of each frame.
    """
    shares, intervals = coverage_by_visibility(measured, found[RANK])
    scores = np.asarray(found[SCORED], np.float64)
    values = {one: metric.scale * scores[:, place] for place, (one, metric) in enumerate(SCORES.items())}
    values["spread"] = 1000 * np.delete(found[SPREAD], measured.clips.skeleton.root, axis=1).mean(axis=1)
    skeleton = measured.clips.skeleton
    directions = limb_direction_distance(found["first"], np.asarray(measured.frames.poses), skeleton.bones)
    means = {one: None if np.isnan(array).all() else float(np.nanmean(array)) for one, array in values.items()}
    return {
        "name": name,
        "label": label,
        "coverage": shares,
        "coverage_interval": intervals,
        "scores": means | {DIRECTIONS: None if directions is None else DIRECTION_METRIC.scale * directions},
        "scores_interval": {one: _interval(array[:, None], measured) for one, array in values.items()},
    }


def _interval(values: np.ndarray, measured: Measured) -> list[float] | None:
    interval = subject_interval(values, measured.subjects)
    return None if interval is None else list(interval)


def measure_hypotheses(measured: Measured, drawn: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """The `OUTPUTS` of hypotheses that no lifter drew, such as those of a baseline: `{output: [M, ...]}`.

    Args:
        measured: The frames.
        drawn: `[m, H, J, 3]` of consecutive frames, root-relative m: all at once, `[array]`, or in parts.
    """
    parts, done = [], 0
    for hypotheses in drawn:
        for first in range(0, len(hypotheses), _HOST_FRAMES):
            part = hypotheses[first : first + _HOST_FRAMES]
            rows = slice(done, done + len(part))
            found = _measure_part(measured.frames.keypoints[rows], measured.frames.poses[rows], part, measured)
            parts.append({name: np.asarray(array)[:, 0] for name, array in found.items()})
            done = rows.stop
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}


def _measure_part(keypoints: Array, poses: Array, hypotheses: np.ndarray, measured: Measured) -> dict[str, Array]:
    index = jnp.arange(len(poses), dtype=jnp.int32)
    batch = Batch(keypoints[:, None], poses[:, None], jnp.ones((len(poses), 1, poses.shape[1])), index)
    drawn = jnp.moveaxis(jnp.asarray(hypotheses), 1, 0)[:, :, None]
    return reduce_hypotheses(OUTPUTS, drawn, batch, measured.clips.skeleton)
