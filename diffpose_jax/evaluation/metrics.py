"""The metrics of 3D pose estimation: pure functions, one value per pose, metres in and metres out.

Poses are `[..., J, 3]` in metres. Nothing is centred or aligned here unless the name says so: P-MPJPE aligns, N-MPJPE
scales, `root_relative` centres. How constant and symmetric bones are is measured in `coherence`. `METRICS` says how a
report prints each metric.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffpose_jax.geometry import procrustes

Array = jax.Array

PCK_THRESHOLD = 0.150
AUC_THRESHOLDS = tuple(0.005 * step for step in range(31))

# The joints of `mpi_inf_3dhp17` that the benchmark's MATLAB tool counts in PCK and AUC, in its groups. Pelvis, spine
# and the joint that it calls head (17) are in no group; its group "head" holds the top of the head.
JOINT_GROUPS_3DHP: dict[str, tuple[int, ...]] = {
    "head": (0,),
    "neck": (1,),
    "shoulder": (2, 5),
    "elbow": (3, 6),
    "wrist": (4, 7),
    "hip": (8, 11),
    "knee": (9, 12),
    "ankle": (10, 13),
}


class Metric(NamedTuple):
    """How a metric is printed.

    Attributes:
        label: Its name in papers.
        unit: The unit that is printed.
        scale: The factor from what the function returns to that unit.
        lower_is_better: Whether less is better.
        detail: The title of a table of its own; without it the metric is a column of the main tables.
    """

    label: str
    unit: str
    scale: float
    lower_is_better: bool = True
    detail: str = ""


METRICS: dict[str, Metric] = {
    "mpjpe": Metric("MPJPE", "mm", 1000.0),
    "p_mpjpe": Metric("P-MPJPE", "mm", 1000.0),
    "n_mpjpe": Metric("N-MPJPE", "mm", 1000.0),
    "n_mpjpe_release": Metric("N-MPJPE as released", "mm", 1000.0),
    "velocity_error": Metric("velocity error", "mm/frame", 1000.0),
    "pck": Metric("PCK@150mm", "%", 100.0, lower_is_better=False),
    "auc": Metric("AUC", "%", 100.0, lower_is_better=False),
    "symmetry_gap": Metric("symmetry gap", "mm", 1000.0),
    "segment_std": Metric("segment std", "mm", 1000.0),
}
for _measure, _label in (("pck", "PCK@150mm"), ("auc", "AUC")):
    for _group in JOINT_GROUPS_3DHP:
        METRICS[f"{_measure}_{_group}"] = Metric(_group, "%", 100.0, False, f"{_label} by joint group")


def root_relative(poses: Array, root: int = 0) -> Array:
    """Poses `[..., J, 3]` with their own joint `root` moved to the origin."""
    return poses - poses[..., root : root + 1, :]


def joint_errors(poses: Array, target: Array) -> Array:
    """The distance of every joint to its target, `[..., J]` m."""
    return jnp.linalg.norm(poses - target, axis=-1)


def coordinate_errors(poses: Array, target: Array) -> Array:
    """How far each coordinate of every joint is from its target, `[..., J, 3]` m (Rommel et al. 2023)."""
    return jnp.abs(poses - target)


def mpjpe(poses: Array, target: Array) -> Array:
    """Mean distance over the joints, `[...]` m (protocol 1). The root counts as a joint, as in all published tables."""
    return jnp.mean(joint_errors(poses, target), axis=-1)


def p_mpjpe(poses: Array, target: Array) -> Array:
    """MPJPE after the best similarity transform of each pose onto its target, `[...]` m (protocol 2)."""
    # Procrustes alignment minimises sum_j |s R p_j + t - g_j|^2 over the scale s, the rotation R and the translation t
    # (`geometry.procrustes` derives them). R is proper: a mirrored person is another pose and keeps its error.
    return mpjpe(procrustes(poses, target), target)


def n_mpjpe(poses: Array, target: Array) -> Array:
    """MPJPE after the best scale of each pose, `[...]` m (Rhodin et al. 2018)."""
    # sum_j |s p_j - g_j|^2 is least at s = sum_j p_j.g_j / sum_j p_j.p_j.
    return mpjpe(_scaled(poses, target, axis=(-2, -1)), target)


def n_mpjpe_release(poses: Array, target: Array) -> Array:
    """What Choi et al.'s release (2023) prints as N-MPJPE, `[...]` m.

    Its poses have one axis more than its function expects: the sums run over the joints only, so that x, y and z are
    scaled by a factor each, and the error is smaller than N-MPJPE.
    """
    return mpjpe(_scaled(poses, target, axis=(-2,)), target)


def _scaled(poses: Array, target: Array, axis: tuple[int, ...]) -> Array:
    square = jnp.sum(poses * poses, axis=axis, keepdims=True)
    scale = jnp.sum(poses * target, axis=axis, keepdims=True) / jnp.maximum(square, jnp.finfo(poses.dtype).tiny)
    return scale * poses


def velocity_error(poses: Array, target: Array) -> Array:
    """Mean distance between joint displacements from frame to frame of one clip `[..., T, J, 3]`: `[..., T - 1]` m.

    Its mean is MPJVE (Pavllo et al. 2019). Where windows overlap and are joined end to end, the jumps between them
    count, as in the figures of Zhang et al.'s release (2022).
    """
    return mpjpe(jnp.diff(poses, axis=-3), jnp.diff(target, axis=-3))


def velocity_error_of_frames(poses: Array, target: Array, follows: Array) -> Array:
    """Velocity error of frames `[M, J, 3]` of many clips, `[M]` m/frame; NaN where `follows [M]` is False.

    `follows` is True where a frame is the successor of the frame before it, in the same clip.
    """
    steps = jnp.concatenate([jnp.full((1,), jnp.nan, poses.dtype), velocity_error(poses, target)])
    return jnp.where(follows, steps, jnp.nan)


def pck(poses: Array, target: Array, threshold: float = PCK_THRESHOLD, root: int | None = 0) -> Array:
    """Percentage of correct keypoints: the share of joints strictly nearer than a threshold, `[...]` in 0..1.

    Args:
        poses: `[..., J, 3]`, m.
        target: `[..., J, 3]`, m.
        threshold: In m; 150 mm in MPI-INF-3DHP.
        root: A joint that is left out, because both poses are centred on it and it is always correct; None: none is.
    """
    return jnp.mean((_counted(poses, target, root) < threshold).astype(poses.dtype), axis=-1)


def auc(poses: Array, target: Array, root: int | None = 0) -> Array:
    """Area under the PCK curve: the mean PCK over the thresholds 0, 5, ..., 150 mm of MPI-INF-3DHP, `[...]` in 0..1.

    `root` as in `pck`. No distance is strictly below the first threshold, so that a perfect pose has 30/31.
    """
    # The mean over equidistant thresholds is the area under the curve of PCK over its threshold, by rectangles.
    thresholds = jnp.asarray(AUC_THRESHOLDS, poses.dtype)
    below = _counted(poses, target, root)[..., None] < jnp.expand_dims(thresholds, tuple(range(poses.ndim - 1)))
    return jnp.mean(below.astype(poses.dtype), axis=(-2, -1))


def _counted(poses: Array, target: Array, root: int | None) -> Array:
    errors = joint_errors(poses, target)
    return errors if root is None else jnp.delete(errors, root, axis=-1)


def pck_3dhp(errors: Array, threshold: float = PCK_THRESHOLD) -> dict[str, Array]:
    """PCK as MPI-INF-3DHP's MATLAB tool counts it, from errors `[..., 17]` m: `{group or 'total': [...]}` in 0..1.

    The share of joints strictly nearer than `threshold` m; the total is over the 14 joints of `JOINT_GROUPS_3DHP`.
    """
    return _by_group((errors < threshold).astype(errors.dtype))


def auc_3dhp(errors: Array, thresholds: tuple[float, ...] = AUC_THRESHOLDS) -> dict[str, Array]:
    """AUC as that tool counts it: the mean of `pck_3dhp` over thresholds (m), `{group or 'total': [...]}` in 0..1."""
    limits = jnp.expand_dims(jnp.asarray(thresholds, errors.dtype), tuple(range(errors.ndim)))
    return _by_group(jnp.mean((errors[..., None] < limits).astype(errors.dtype), axis=-1))


def _by_group(shares: Array) -> dict[str, Array]:
    groups = JOINT_GROUPS_3DHP | {"total": sum(JOINT_GROUPS_3DHP.values(), ())}
    return {name: jnp.mean(shares[..., jnp.asarray(joints)], axis=-1) for name, joints in groups.items()}


def spread(hypotheses: Any) -> Any:
    """The standard deviation of each joint over hypotheses `[H, ..., J, 3]`: rms distance to their mean, `[..., J]` m.

    Of numpy arrays in numpy. The square root of the covariance's trace: sqrt(3) times the std of a coordinate where all
    three have the same one.
    """
    centred = hypotheses - hypotheses.mean(axis=0, keepdims=True)
    # Divided by H, not H - 1: with a single hypothesis the spread is 0 and not 0 / 0.
    return (centred**2).sum(axis=-1).mean(axis=0) ** 0.5
