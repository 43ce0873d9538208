"""Symmetry gap and segment std: whether bones of predicted poses match left to right and keep their length.

Equations 13 and 14 of Rommel et al. (2023); neither needs a target. A bone is (child, parent). The list of bones is an
argument, because the paper's own figures were made with a list whose shoulders hang from the wrong joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.skeleton import H36M_17, Skeleton

Array = jax.Array

# Frames T of the windows over which the paper measures a bone's standard deviation.
WINDOW = 27


class Bones(NamedTuple):
    """Bones as (child, parent), and the indices in that list of left bones and of their right partners."""

    joints: tuple[tuple[int, int], ...]
    left: tuple[int, ...]
    right: tuple[int, ...]


def list_bones(skeleton: Skeleton) -> Bones:
    """The bones of a skeleton, in the order of their children, paired by the side of the child."""
    order = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    return Bones(
        skeleton.bones,
        tuple(order[joint] for joint in skeleton.left if joint in order),
        tuple(order[joint] for joint in skeleton.right if joint in order),
    )


def list_bones_release() -> Bones:
    """The list of Rommel et al.'s release for `h36m17`: both shoulders hang from the spine (7), not the thorax (8).

    Figures measured with it can be compared with the paper's.
    """
    bones = list_bones(H36M_17)
    spine, shoulders = 7, (11, 14)
    return bones._replace(
        joints=tuple((child, spine if child in shoulders else parent) for child, parent in bones.joints)
    )


def bone_lengths(poses: Array, joints: Sequence[tuple[int, int]]) -> Array:
    """The lengths of bones (child, parent) of poses `[..., J, 3]`, `[..., K]` m."""
    child, parent = np.array(joints).T
    return jnp.linalg.norm(poses[..., child, :] - poses[..., parent, :], axis=-1)


def symmetry_gaps(poses: Array, bones: Bones) -> Array:
    """The absolute difference in length of each left bone and its right partner, `[..., P]` m of poses `[..., J, 3]`.

    Equation 13 is their mean over pairs, frames and sequences.
    """
    lengths = bone_lengths(poses, bones.joints)
    return jnp.abs(lengths[..., np.array(bones.left)] - lengths[..., np.array(bones.right)])


def segment_stds(poses: Array, bones: Bones, *, unbiased: bool = False) -> Array:
    """The standard deviation of each bone's length over the frames of clips `[..., T, J, 3]`: `[..., K]` m.

    Equation 14 is their mean over bones and clips: sqrt((1/T) sum_t (l_t - mean_t l_t)^2) of each bone's length l. The
    paper divides by T; `unbiased` divides by T - 1, as its release does.
    """
    return jnp.std(bone_lengths(poses, bones.joints), axis=-2, ddof=int(unbiased))


def segment_std_of_frames(poses: Array, window: Array, bones: Bones, *, unbiased: bool = False) -> Array:
    """Equation 14 for frames of many clips, cut into windows of `WINDOW` frames: `[M]` m, NaN outside whole windows.

    Every frame has the value of its window, so that a mean over frames is one over windows.

    Args:
        poses: `[M, J, 3]`, m.
        window: The index of each frame's window, `[M]` int32, -1 outside a whole one (`index_windows`).
        bones: The bones that are measured.
        unbiased: Whether to divide by T - 1.
    """
    # Two passes: the mean length of each window first, then squared differences from it. The difference of mean square
    # and squared mean would lose the millimetres of a std against lengths of half a metre in float32.
    lengths, inside = bone_lengths(poses, bones.joints), window >= 0
    # Frames outside whole windows are summed in a slot of their own, which nothing reads.
    slot = jnp.where(inside, window, len(poses))

    def window_sum(values: Array) -> Array:
        return jax.ops.segment_sum(values, slot, num_segments=len(poses) + 1)

    mean = window_sum(lengths) / WINDOW
    variance = window_sum((lengths - mean[slot]) ** 2) / (WINDOW - int(unbiased))
    return jnp.where(inside, jnp.mean(jnp.sqrt(variance), axis=-1)[slot], jnp.nan)


def index_windows(follows: np.ndarray) -> np.ndarray:
    """Cuts runs of consecutive frames into windows of `WINDOW`, `[M]` int32; -1 for the frames left over at the end.

    `follows [M]` is True where a frame is the successor of the frame before it, in the same clip.
    """
    count = len(follows)
    starts = np.flatnonzero(~np.asarray(follows, bool))
    lengths = np.diff(np.append(starts, count))
    place = np.arange(count) - np.repeat(starts, lengths)
    whole = place < np.repeat(lengths // WINDOW * WINDOW, lengths)
    before = np.repeat(np.cumsum(lengths // WINDOW) - lengths // WINDOW, lengths)
    return np.where(whole, before + place // WINDOW, -1).astype(np.int32)
