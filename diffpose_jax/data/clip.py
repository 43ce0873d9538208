"""A clip of 2D-3D pairs, as loaders yield it: the names, shapes and limits of its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.packing import NUMBERS as MIXTURE_NUMBERS
from diffpose_jax.skeleton import Skeleton

VISIBILITY = ("visible", "occluded", "confused")  # what the codes 0, 1, 2 of `ClipSet.visibility` stand for

# The arrays with one entry per frame, and what they are stored as.
FRAME_ARRAYS: dict[str, type[np.generic]] = {
    "keypoints": np.float32,
    "poses": np.float32,
    "root": np.float32,
    "scores": np.float32,
    "valid_frame": np.bool_,
    "activity": np.int32,
    "visibility": np.uint8,
    "mixture": np.float16,
}
# What the frames of a clip without such an array get where another clip of the set has one. Without a value here the
# whole set goes without the array: nothing can stand for an unknown pose.
_UNMARKED = {"scores": 1.0, "valid_frame": True, "activity": 0, "visibility": VISIBILITY.index("visible")}
# The largest keypoints (half widths of the image), poses and roots (m) that are taken for real: squares stay finite.
LARGEST = {"keypoints": 1e6, "poses": 1e6, "root": 1e6}


class Clip(NamedTuple):
    """One uninterrupted recording of one subject in one camera, as loaders yield it.

    The arrays are those of `ClipSet`, of T frames, and `detected` is; `camera` is the index into the set's cameras (-1:
    unknown).
    """

    keypoints: np.ndarray
    poses: np.ndarray | None
    root: np.ndarray | None
    subject: str
    action: str
    camera: int = -1
    fps: float = 50.0
    scores: np.ndarray | None = None
    valid_frame: np.ndarray | None = None
    activity: np.ndarray | None = None
    visibility: np.ndarray | None = None
    mixture: np.ndarray | None = None
    detected: bool = False


def mark_missing(keypoints: Any, scores: Any) -> tuple[Any, Any]:
    """Keypoints `[N, J, 2]` and scores `[N, J]` or None, in which joints with a NaN are (0, 0) of score 0.

    Arrays that are not of this form are left as they are, for the checks to tell.
    """
    keypoints = np.asarray(keypoints)
    fits = keypoints.ndim == 3 and keypoints.dtype.kind == "f" and np.shape(scores) in ((), keypoints.shape[:2])
    if not fits:
        return keypoints, scores
    missing = np.isnan(keypoints).any(axis=-1)
    missing = missing if scores is None else missing | np.isnan(scores)
    if not missing.any():
        return keypoints, scores
    scores = np.where(missing, 0, 1 if scores is None else scores).astype(np.float32)
    return np.where(missing[..., None], 0, keypoints).astype(keypoints.dtype), scores


def frame_shapes(frames: int, joints: int, mixture: np.ndarray | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes of all `FRAME_ARRAYS`; the number of a mixture's components is taken from the mixture itself."""
    components = () if mixture is None else np.shape(mixture)[2:3]
    return {
        "keypoints": (frames, joints, 2),
        "poses": (frames, joints, 3),
        "root": (frames, 3),
        "scores": (frames, joints),
        "valid_frame": (frames,),
        "activity": (frames,),
        "visibility": (frames, joints),
        "mixture": (frames, joints, *components, MIXTURE_NUMBERS),
    }


def join_arrays(clips: Sequence[Clip], name: str) -> np.ndarray | None:
    """One array of all clips end to end; None where no clip has it, or one lacks it and nothing can stand for it."""
    given = [array for clip in clips if (array := getattr(clip, name)) is not None]
    if not given or (len(given) < len(clips) and name not in _UNMARKED):
        return None
    parts = []
    for clip in clips:
        array = getattr(clip, name)
        if array is None:
            array = np.full((len(clip.keypoints), *np.shape(given[0])[1:]), _UNMARKED[name])
        parts.append(np.asarray(array, FRAME_ARRAYS[name]))
    return np.concatenate(parts)


def check_clip(clip: Clip, skeleton: Skeleton) -> None:
    """Raise UserError for a clip without frames, and for arrays of other shapes, not finite or too large."""
    where = f"clip {clip.subject}/{clip.action}"
    if len(clip.keypoints) == 0:
        raise UserError(f"{where}: expected at least one frame, found none")
    for name, shape in frame_shapes(len(clip.keypoints), skeleton.num_joints, clip.mixture).items():
        array = getattr(clip, name)
        if array is None:
            continue
        if np.shape(array) != shape:
            raise UserError(f"{where}: expected {name} of shape {shape} ({skeleton.name}), found {np.shape(array)}")
        if not np.isfinite(array).all():
            frame = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UserError(f"{where}: expected finite {name}, found NaN or infinity first in frame {frame}")
        if name in LARGEST and np.abs(array).max() > LARGEST[name]:
            raise UserError(f"{where}: expected {name} within {LARGEST[name]:g}, found {np.abs(array).max():.3g}")
