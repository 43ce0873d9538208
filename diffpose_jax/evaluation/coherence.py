"""Whether the bones of predicted poses keep their length and match left to right: no target is needed.

Eq. 13 and 14 of Rommel et al. (2023). A bone is (child, parent); a list of bones and the positions in it that pair up
are arguments, because the paper's own figures were made with a list whose shoulders hang from the wrong joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.skeleton import H36M_17, Skeleton

Array = jax.Array

# Frames over which the length of a bone is watched: the windows of the paper.
WINDOW = 27


class Bones(NamedTuple):
    """Bones as (child, parent), and the positions in that list of left bones and of their right partners."""

    joints: tuple[tuple[int, int], ...]
    left: tuple[int, ...]
    right: tuple[int, ...]


def skeleton_bones(skeleton: Skeleton) -> Bones:
    """The bones of a skeleton, in the order of their children, paired by the side of the child."""
    order = {child: number for number, (child, _) in enumerate(skeleton.bones)}
    return Bones(
        skeleton.bones,
        tuple(order[joint] for joint in skeleton.left if joint in order),
        tuple(order[joint] for joint in skeleton.right if joint in order),
    )


def released_bones() -> Bones:
    """The list of Rommel et al.'s release for `h36m17`: both shoulders hang from the spine (7), not the thorax (8).

    With it the figures are comparable with the paper's.
    """
    bones = skeleton_bones(H36M_17)
    spine, shoulders = 7, (11, 14)
    return bones._replace(
        joints=tuple((child, spine if child in shoulders else parent) for child, parent in bones.joints)
    )


def bone_lengths(poses: Array, joints: Sequence[tuple[int, int]]) -> Array:
    """The lengths of bones (child, parent) of poses `[..., J, 3]`, `[..., K]` m."""
    child, parent = np.array(joints).T
    return jnp.linalg.norm(poses[..., child, :] - poses[..., parent, :], axis=-1)


def symmetry_gaps(poses: Array, bones: Bones) -> Array:
    """By how much each left bone's length differs from its right partner's, `[..., P]` m; their mean is eq. 13."""
    lengths = bone_lengths(poses, bones.joints)
    return jnp.abs(lengths[..., np.array(bones.left)] - lengths[..., np.array(bones.right)])


def segment_deviations(poses: Array, bones: Bones, *, unbiased: bool = False) -> Array:
    """The standard deviation of each bone's length over the frames of clips `[..., T, J, 3]`: `[..., K]` m (eq. 14).

    The paper divides by T; `unbiased` divides by T - 1, as its release does.
    """
    return jnp.std(bone_lengths(poses, bones.joints), axis=-2, ddof=int(unbiased))


def segment_deviation_of_frames(poses: Array, window: Array, bones: Bones, *, unbiased: bool = False) -> Array:
    """Eq. 14 for frames `[M, J, 3]` cut into windows of `WINDOW` frames: the mean over the bones, `[M]` m.

    `window [M]` int32 is the number of each frame's window, -1 outside a whole one (`index_windows`). Every frame has
    the value of its window, so that a mean over frames is one over windows; NaN outside.
    """
    lengths, inside = bone_lengths(poses, bones.joints), window >= 0
    slot = jnp.where(inside, window, len(poses))

    def window_sum(values: Array) -> Array:
        return jax.ops.segment_sum(values, slot, num_segments=len(poses) + 1)

    mean = window_sum(lengths) / WINDOW
    variance = window_sum((lengths - mean[slot]) ** 2) / (WINDOW - int(unbiased))
    return jnp.where(inside, jnp.mean(jnp.sqrt(variance), axis=-1)[slot], jnp.nan)


def index_windows(follows: np.ndarray) -> np.ndarray:
    """Cuts runs of consecutive frames into windows of `WINDOW`, `[M]` int32; -1 for the frames left over at the end.

    `follows [M]` bool: is this the next frame of the clip of the one before.
    """
    count = len(follows)
    starts = np.flatnonzero(~np.asarray(follows, bool))
    lengths = np.diff(np.append(starts, count))
    place = np.arange(count) - np.repeat(starts, lengths)
    whole = place < np.repeat(lengths // WINDOW * WINDOW, lengths)
    before = np.repeat(np.cumsum(lengths // WINDOW) - lengths // WINDOW, lengths)
    return np.where(whole, before + place // WINDOW, -1).astype(np.int32)
