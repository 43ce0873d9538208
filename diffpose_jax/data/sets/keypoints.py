"""A user's own 2D keypoints, from any detector, as a data set without 3D poses.

The file's entries are those of `diffpose_jax.formats.keypoint_files`.
"""

from __future__ import annotations

import os

import numpy as np

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.formats.keypoint_files import MIN_SCORE, KeypointClip, parse_recording, read_keypoint_file
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.skeleton import H36M_17, Skeleton, convert_layout, convert_scores


def load_keypoints(
    path: str | os.PathLike, *, layout: str | None = None, target: Skeleton = H36M_17, min_score: float = MIN_SCORE
) -> dict[str, ClipSet]:
    """Reads a keypoint file as a data set of one split, `test`, without 3D poses. See `read_keypoints`."""
    return {"test": read_keypoints(path, layout=layout, target=target, min_score=min_score)}


def read_keypoints(
    path: str | os.PathLike, *, layout: str | None = None, target: Skeleton = H36M_17, min_score: float = MIN_SCORE
) -> ClipSet:
    """Reads a keypoint file and converts it to the `target` layout.

    Gives keypoints `[N, J, 2]` in normalised image units and, where the file has them or a joint was not seen, scores
    `[N, J]`; a joint that is constructed from others has the lowest of their scores, and was not seen (0) if one of
    them was not. Poses, roots and cameras are None.

    Args:
        path: The file.
        layout: The joint order, where the file does not name it.
        target: The layout to convert to.
        min_score: A joint of a lower score, or of 0, was not seen.

    Raises:
        UserError: The file cannot be read, or no joint was seen.
    """
    clips = read_keypoint_file(path, layout, min_score)
    return ClipSet.build([_to_clip(clip, target) for clip in clips], target)


def convert_keypoints(
    keypoints: np.ndarray, layout: str, image_size: tuple[float, float] | None, target: Skeleton = H36M_17
) -> ClipSet:
    """Makes a data set of the keypoints of one person, or of several, in one recording.

    Args:
        keypoints: Pixels `[T, J, 2]`, x right and y down; `[P, T, J, 2]` of several persons. A third channel is a
            score. A joint that is NaN or of a score below `MIN_SCORE` was not seen.
        layout: Their joint layout, such as 'coco17'.
        image_size: Width and height of the image in pixels.
        target: The layout to convert to.

    Raises:
        UserError: A shape, a value or a layout that cannot be.
    """
    entries = {"keypoints": keypoints, "image_size": image_size}
    entries = {name: value for name, value in entries.items() if value is not None}
    return ClipSet.build(
        [_to_clip(clip, target) for clip in parse_recording("keypoints", entries, layout, "person")], target
    )


def _to_clip(clip: KeypointClip, target: Skeleton) -> Clip:
    normalised = normalise_screen(clip.keypoints, clip.image_size).astype(np.float32)
    return Clip(
        convert_layout(normalised, clip.skeleton, target),
        None,
        None,
        clip.subject,
        clip.action,
        fps=clip.fps,
        scores=None if clip.scores is None else convert_scores(clip.scores, clip.skeleton, target),
    )
