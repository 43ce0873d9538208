"""2D detectors of other makers: a function from a picture to people's keypoints, found by its import path."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import Skeleton, get_skeleton
from diffpose_jax.video.frames import Frame
from diffpose_jax.video.tracking import Body

DEFAULT_LAYOUT = "coco17"


class Detector(Protocol):
    """A function that finds the people in one picture.

    An attribute `layout` of the function names the order of its joints (`skeleton.SKELETONS`); without one it is
    coco17. Whatever runs a network may hold it in a closure, or be an object that can be called.
    """

    def __call__(self, image: np.ndarray, time: float, /) -> Sequence[np.ndarray]:
        """Find all people, in any order.

        Args:
            image: `[h, w, 3]` uint8, RGB, upright, at most 1280 pixels along its longer side.
            time: Seconds since the first frame.

        Returns:
            For each person `[J, 2]` or `[J, 3]`: x and y in pixels of `image`, from the upper left corner of the first
            one, and a score from 0 to 1. A joint that was not seen has the score 0 or is NaN.
        """
        ...


def get_detector(path: str) -> Detector:
    """The detector of an import path such as 'mypackage.mymodule.detect'; a `UserError` where there is none."""
    expected = "detector: expected the import path of a function (image, time) -> keypoints of people"
    if "." not in path and ":" not in path:
        raise UserError(f"{expected}, found {path!r}")
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{expected}, found {path!r}: {error}") from error
    if not callable(found):
        raise UserError(f"{expected}, found {path!r}, which cannot be called")
    return found


def detector_layout(detector: Detector) -> Skeleton:
    """The layout of a detector's joints."""
    return get_skeleton(getattr(detector, "layout", DEFAULT_LAYOUT))


def detect_bodies(detector: Detector, frame: Frame) -> list[Body]:
    """The people that a detector finds in a frame, in pixels of the original picture; those without a joint left out.

    Raises `UserError` for keypoints of another shape than the layout's.
    """
    skeleton = detector_layout(detector)
    bodies = []
    for person in detector(frame.image, frame.time):
        values = np.asarray(person, float)
        if values.shape not in ((skeleton.num_joints, 2), (skeleton.num_joints, 3)):
            expected = f"[{skeleton.num_joints}, 2 or 3] for {skeleton.name}"
            raise UserError(f"detector: expected the keypoints of a person as {expected}, found {list(values.shape)}")
        keypoints = values[:, :2] * frame.scale
        scores = values[:, 2] if values.shape[1] == 3 else np.ones(len(values))
        seen = np.isfinite(keypoints).all(axis=1) & (np.nan_to_num(scores) > 0)
        if seen.any():
            bodies.append(Body(np.where(seen[:, None], keypoints, np.nan), np.where(seen, scores, 0.0)))
    return bodies
