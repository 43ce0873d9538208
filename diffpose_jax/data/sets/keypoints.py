"""A user's own 2D keypoints, from any detector, as a data set without 3D poses.

Which files are read: `diffpose_jax.formats.keypoint_tools`. What seems to be wrong with them is told in the log, a line
each (`diffpose_jax.data.layout_checks`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.layout_checks import find_mistakes
from diffpose_jax.errors import UserError
from diffpose_jax.formats.keypoint_files import MIN_SCORE, KeypointClip, parse_recording
from diffpose_jax.formats.keypoint_tools import read_clips
from diffpose_jax.formats.tracks import Reading
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.people import FilmedPeople, Track
from diffpose_jax.skeleton import H36M_17, Skeleton, convert_layout, convert_scores

_MAX_FRAMES = 10_000_000  # four days at 30 frames per second


def load_keypoints(
    path: str | os.PathLike,
    *,
    layout: str | None = None,
    target: Skeleton = H36M_17,
    min_score: float = MIN_SCORE,
    joint_names: Sequence[str] | None = None,
) -> dict[str, ClipSet]:
    """Reads a keypoint file as a data set of one split, `test`, without 3D poses; see `read_keypoints`.

    Args:
        path: The file, or a folder of them.
        layout: The joint order, where the file does not name it.
        target: The layout to convert to.
        min_score: A joint of a lower score, or of 0, was not seen.
        joint_names: The joints in the order of the file, where it is that of no layout.

    Returns:
        The split, with keypoints `[N, J, 2]` in normalised image units.

    Raises:
        UserError: The file cannot be read, does not say what is needed, or no joint was seen.
    """
    clips = read_keypoints(path, layout=layout, target=target, min_score=min_score, joint_names=joint_names)
    return {"test": clips}


def read_keypoints(
    path: str | os.PathLike,
    *,
    layout: str | None = None,
    target: Skeleton = H36M_17,
    min_score: float | None = None,
    image_size: tuple[float, float] | None = None,
    fps: float | None = None,
    joint_names: Sequence[str] | None = None,
) -> ClipSet:
    """Reads a keypoint file of any known tool and converts it to the `target` layout, one clip per person.

    Gives keypoints `[N, J, 2]` in normalised image units and, where the file has them or a joint was not seen, scores
    `[N, J]`; a joint that is constructed from others has the lowest of their scores, and was not seen (0) if one of
    them was not. Poses, roots and cameras are None.

    Args:
        path: The file, or a folder of them.
        layout: The joint order, where the file does not name it.
        target: The layout to convert to.
        min_score: A joint of a lower score, or of 0, was not seen; 0.1 by default.
        image_size: Width and height in pixels, where the file does not say.
        fps: Frames per second, where the file does not say; 50 by default.
        joint_names: The joints in the order of the file, where it is that of no layout: `left_knee`, `RHip`, ...

    Raises:
        UserError: The file cannot be read, does not say what is needed, or no joint was seen.
    """
    clips = read_clips(
        path, Reading(layout, image_size, fps, min_score, None if joint_names is None else tuple(joint_names))
    )
    for line in find_mistakes(clips):
        logging.warning("%s: %s", path, line)
    return ClipSet.build([_to_clip(clip, target) for clip in clips], target)


def read_people(path: str | os.PathLike, reading: Reading = Reading()) -> FilmedPeople:  # noqa: B008  # immutable
    """Reads a keypoint file of one video as the people that a detector found in it, in the layout of the file.

    Args:
        path: The file, or a folder of them.
        reading: What the file does not say, and what counts as seen.

    Raises:
        UserError: The file cannot be read, its clips differ in size or frame rate, or no joint was seen.
    """
    clips = read_clips(path, reading)
    for line in find_mistakes(clips):
        logging.warning("%s: %s", path, line)
    if len({(*clip.image_size, clip.fps, clip.skeleton.name) for clip in clips}) > 1:
        raise UserError(f"{path}: expected one video, found clips of several sizes, frame rates or layouts")
    frames = max(clip.start + len(clip.keypoints) for clip in clips)
    if frames > _MAX_FRAMES:
        raise UserError(f"{path}: expected at most {_MAX_FRAMES} frames, found frame {frames - 1}")
    names = dict.fromkeys(clip.subject for clip in clips)
    tracks = tuple(_to_track(name, [clip for clip in clips if clip.subject == name]) for name in names)
    width, height = (round(float(side)) for side in clips[0].image_size)
    return FilmedPeople(str(path), (width, height), np.arange(frames) / clips[0].fps, tracks)


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
        detected=clip.skeleton.marked_in_pictures,
    )


def _to_track(name: str, clips: Sequence[KeypointClip]) -> Track:
    """One person, in the frames in which a joint was seen."""
    scores = np.concatenate(
        [np.ones(clip.keypoints.shape[:2]) if clip.scores is None else clip.scores for clip in clips]
    )
    frames = np.concatenate([clip.start + np.arange(len(clip.keypoints)) for clip in clips])
    keypoints = np.concatenate([clip.keypoints for clip in clips])
    order = np.argsort(frames, kind="stable")
    order = order[(scores[order] > 0).any(axis=1)]
    return Track(name, frames[order], keypoints[order], scores[order], clips[0].skeleton)
