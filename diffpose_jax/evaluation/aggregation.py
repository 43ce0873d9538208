"""Aggregations by name: how one pose is made of hypotheses on the device. Oracles select by the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffpose_jax.data.windows import Batch
from diffpose_jax.diffusion.hypotheses import aggregate
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.calibration import mahalanobis_rank
from diffpose_jax.evaluation.metrics import spread
from diffpose_jax.evaluation.scores import score_hypotheses
from diffpose_jax.geometry import Camera, project, solve_root
from diffpose_jax.skeleton import Skeleton

# Outputs beside the aggregations, all of samples, never of averages over flips: every one, the rank of the truth among
# them, their mean, their spread and their scores.
ALL = "all"
RANK = "rank"
CENTRE = "centre"
SPREAD = "spread"
SCORED = "scores"
MEASURES = (ALL, RANK, CENTRE, SPREAD, SCORED)


class Aggregate(NamedTuple):
    """An aggregation by name.

    Attributes:
        function: A name of `diffusion.hypotheses.AGGREGATIONS`.
        label: What a report calls it.
        options: Arguments of the function.
        oracle: Whether it reads the ground truth.
        needs_camera: Whether it projects hypotheses into the image.
        single: Whether its pose, or every joint of it, is that of one hypothesis and stands for the distribution, so
            that it must be a sample and not an average over flips.
    """

    function: str
    label: str
    options: Mapping[str, Any] = {}
    oracle: bool = False
    needs_camera: bool = False
    single: bool = False


# Weights softmax(-error / temperature); the temperature of 0.01 normalised image units is 5 pixels of an image 1000
# wide, so that hypotheses whose errors differ by less have nearly equal weights.
_WEIGHTED = {"per": "joint", "temperature": 0.01}

# Single poses for different purposes: the mean has the least expected squared error, medians are robust to outlying
# hypotheses, a medoid is a pose that was sampled, reprojection uses the keypoints once more.
AGGREGATES: dict[str, Aggregate] = {
    "first": Aggregate("first", "one hypothesis", single=True),
    "mean": Aggregate("mean", "mean"),
    "medoid": Aggregate("medoid", "medoid"),
    "joint_median": Aggregate("joint_median", "per-joint median"),
    "reprojection": Aggregate("reprojection", "best reprojection per joint", {"per": "joint"}, needs_camera=True),
    "reprojection_expectation": Aggregate(
        "reprojection_expectation", "mean weighted by reprojection", _WEIGHTED, needs_camera=True
    ),
    "oracle_best": Aggregate("oracle_best", "best hypothesis", {"per": "pose"}, oracle=True, single=True),
    "oracle_best_joint": Aggregate(
        "oracle_best", "best hypothesis per joint", {"per": "joint"}, oracle=True, single=True
    ),
}


def is_estimate(name: str) -> bool:
    """Whether an output is one pose estimated from all hypotheses; the others show or judge their distribution."""
    return name in AGGREGATES and not AGGREGATES[name].single


def check_aggregates(names: Sequence[str]) -> None:
    """Raises UserError, with all names, for an aggregation that does not exist."""
    for name in names:
        if name not in AGGREGATES:
            raise UserError(f"aggregation: expected one of {', '.join(AGGREGATES)}, found {name!r}")


def reduce_hypotheses(
    names: Sequence[str], hypotheses: Array, batch: Batch, skeleton: Skeleton, camera: Camera | None = None
) -> dict[str, Array]:
    """One pose `[B, F, J, 3]` for each of the named `AGGREGATES`, root-relative metres.

    Args:
        names: Names of `AGGREGATES`; 'all' gives `[B, F, H, J, 3]`, 'rank' the Mahalanobis rank of the truth,
            `[B, F, J, 2]` (`calibration.mahalanobis_rank`), 'centre' their mean, 'spread' the standard deviation of
            each joint, `[B, F, J]` m, 'scores' those of `scores.SCORES`, `[B, F, S]` m.
        hypotheses: `[H, B, F, J, 3]`, m.
        batch: Keypoints and true poses of the lifted frames.
        skeleton: The joints.
        camera: The cameras `[B]`, None where they are not known.
    """
    # Projection is the costly part: it is done once, and only where a name needs it.
    errors = None
    if any(name in AGGREGATES and AGGREGATES[name].needs_camera for name in names):
        errors = reprojection_errors(hypotheses, batch.keypoints, camera, batch.mask > 0)
    poses = {}
    for name in names:
        if name == ALL:
            poses[name] = jnp.moveaxis(hypotheses, 0, 2)
        elif name == RANK:
            poses[name] = mahalanobis_rank(hypotheses, batch.poses)
        elif name == CENTRE:
            poses[name] = jnp.mean(hypotheses, axis=0)
        elif name == SPREAD:
            poses[name] = spread(hypotheses)
        elif name == SCORED:
            poses[name] = score_hypotheses(hypotheses, batch.poses, skeleton)
        elif name == "first":
            poses[name] = hypotheses[0]
        else:
            chosen = AGGREGATES[name]
            poses[name] = aggregate(chosen.function, hypotheses, errors, batch.poses, **chosen.options)
    return poses


def reprojection_errors(hypotheses: Array, keypoints: Array, camera: Camera | None, seen: Array | None = None) -> Array:
    """The distance of every projected joint to its keypoint, `[H, B, F, J]` in normalised image units.

    The position of the root is solved from the keypoints for every hypothesis and frame: no ground truth is used.

    Args:
        hypotheses: `[H, B, F, J, 3]`, root-relative metres in the camera's frame.
        keypoints: `[B, F, J, 2]`, normalised image units.
        camera: The cameras `[B]`; None where they are not known.
        seen: Which joints were seen, `[B, F, J]`; the keypoints of others are not used, and their errors are 0. None:
            all.

    Raises:
        UserError: without a camera.
    """
    if camera is None:
        raise UserError("aggregation reprojection: expected data with known cameras, found none")
    weights = None if seen is None else seen.astype(keypoints.dtype)

    # Every hypothesis has its own root: of two poses with the same projection, the larger one is farther away. One root
    # for all of them would favour hypotheses of the size that it was solved for.
    def measure(poses: Array) -> Array:
        root = solve_root(poses, keypoints, camera, weights)
        errors = jnp.linalg.norm(project(poses + root[..., None, :], camera) - keypoints, axis=-1)
        return errors if weights is None else errors * weights

    return jax.lax.map(measure, hypotheses)  # one after another: the memory of a single one
