"""The parts of a track between its gaps: at the frame rate that a lifter was trained at, and back at the video's times.

A lifter of sequences was trained at one frame rate, and a track has gaps: each uninterrupted part is brought to that
rate, lifted as a clip of its own, and read at the video's own times again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.formats.keypoint_files import MIN_SCORE
from diffpose_jax.people import Track
from diffpose_jax.skeleton import Skeleton, convert_layout, convert_scores

# Frame rate that lifters of sequences are trained at: Human3.6M's, and that of the CMU motion.
TRAINED_FPS = 50.0
# A track that is interrupted for longer is lifted in parts.
LONGEST_GAP = 0.5


class Part(NamedTuple):
    """An uninterrupted part of a track.

    Attributes:
        rows: Its rows of the track, `[T]`.
        times: Times of these rows, `[T]` s.
        sampled: Times of what is lifted, `[M]` s.
        keypoints: `[M, J, 2]` pixels, in the lifter's layout.
        scores: `[M, J]`.
    """

    rows: np.ndarray
    times: np.ndarray
    sampled: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray


def to_layout(track: Track, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints `[T, J, 2]` (pixels) and scores `[T, J]` of a track in a layout, 0 where a joint was not seen.

    Of such a joint a detector may say anything, NaN too, in whose place 0 stands.
    """
    keypoints = convert_layout(np.asarray(track.keypoints, np.float64), track.skeleton, skeleton)
    scores = convert_scores(np.asarray(track.scores, np.float32), track.skeleton, skeleton)
    seen = (scores >= MIN_SCORE) & np.isfinite(keypoints).all(axis=-1)
    return np.where(np.isfinite(keypoints), keypoints, 0.0), np.where(seen, scores, np.float32(0))


def split_track(track: Track, times: np.ndarray, skeleton: Skeleton, rate: float | None) -> list[Part]:
    """The uninterrupted parts of a track, in a layout; those in which no joint was seen are left out.

    Args:
        track: The track.
        times: Times of the video's frames, `[N]` s.
        skeleton: The layout that they are brought to.
        rate: Frames per second that they are brought to; None: as they are.
    """
    own = np.asarray(times, np.float64)[track.frames]
    keypoints, scores = to_layout(track, skeleton)
    breaks = np.flatnonzero(np.diff(own) > LONGEST_GAP) + 1
    parts = []
    for rows in np.split(np.arange(len(own)), breaks):
        if scores[rows].any():
            sampled = own[rows] if rate is None else own[rows[0]] + np.arange(_count(own[rows], rate)) / rate
            resampled = resample(keypoints[rows], scores[rows], own[rows], sampled)
            parts.append(Part(rows, own[rows], sampled, *resampled))
    return parts


def _count(times: np.ndarray, rate: float) -> int:
    return max(1, int(np.ceil((times[-1] - times[0]) * rate)) + 1)


def resample(
    keypoints: np.ndarray, scores: np.ndarray, times: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and scores at other times: in a straight line between two frames that both show a joint.

    Where one of the two does not, the joint is that of the nearer frame, seen or not.

    Args:
        keypoints: `[T, J, 2]`, any unit.
        scores: `[T, J]`, 0 where a joint was not seen.
        times: `[T]` s, ascending.
        wanted: `[M]` s.

    Returns:
        Keypoints `[M, J, 2]` and scores `[M, J]`.
    """
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    if len(times) == 1:
        after = np.zeros(len(wanted), int)
    before = np.maximum(after - 1, 0)
    span = np.maximum(times[after] - times[before], 1e-9)
    share = np.clip((wanted - times[before]) / span, 0, 1)[:, None]
    both = (scores[before] > 0) & (scores[after] > 0)
    nearer = np.where(share < 0.5, before[:, None], after[:, None])
    joints = np.arange(scores.shape[1])[None]
    line = keypoints[before] + share[..., None] * (keypoints[after] - keypoints[before])
    level = scores[before] + share * (scores[after] - scores[before])
    return (
        np.where(both[..., None], line, keypoints[nearer, joints]),
        np.where(both, level, scores[nearer, joints]).astype(np.float32),
    )


def interpolate(values: np.ndarray, part: Part) -> np.ndarray:
    """Values `[M, ...]` of what was lifted of a part at the times of its rows, `[T, ...]`; straight lines between."""
    if np.array_equal(part.sampled, part.times):
        return values
    last = len(values) - 1
    after = np.minimum(np.clip(np.searchsorted(part.sampled, part.times), 1, None), last)
    before = np.maximum(after - 1, 0)
    span = np.maximum(part.sampled[after] - part.sampled[before], 1e-9)
    share = np.clip((part.times - part.sampled[before]) / span, 0, 1).astype(values.dtype)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[before] + share * (values[after] - values[before])
