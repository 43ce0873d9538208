"""Pose landmarks of MediaPipe (BlazePose, 33) that a program has written down, as JSON or CSV; the tool has no file.

Written from the fields of its results, https://ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker: each
landmark has `x`, `y`, `z` and `visibility`, x in units of the image's width and y of its height. Read are

* JSON: a list of frames, or an object with them under `frames`, `landmarks`, `pose_landmarks` or `results`, and perhaps
  `width`, `height` (or `image_size`) and `fps`. A frame is a list of 33 landmarks, a list of people, an object with
  `landmarks` or `pose_landmarks`, or null where nobody was found; a landmark an object or [x, y, z, visibility].

A table (.csv) with columns such as `NOSE_x`, `NOSE_y`, `NOSE_visibility` is read by `formats.sleap_files`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import (
    Detections,
    Row,
    build_detections,
    find_layout,
    look_normalised,
    parse_frame,
    parse_numbers,
)

LAYOUTS = {33: "blazepose33"}
_FRAMES = ("frames", "pose_landmarks", "landmarks", "results")
_LANDMARKS = 33


def is_mediapipe(content: Any) -> bool:
    """Whether parsed JSON is a list of frames of landmarks."""
    if isinstance(content, dict):
        content = next((content[key] for key in _FRAMES if key in content), None)
    if not isinstance(content, list):
        return False
    return any(_is_person(person) for frame in content[:1000] for person in _find_people(frame))


def parse_mediapipe(path: Path, content: Any, layout: str | None) -> Detections:
    """The people of one file.

    Args:
        path: The file, which an error names.
        content: Its JSON.
        layout: None or 'blazepose33'.

    Raises:
        UserError: The content has another form.
    """
    about = content if isinstance(content, dict) else {}
    frames = next((about[key] for key in _FRAMES if key in about), content)
    rows = []
    for index, frame in enumerate(frames):
        where = f"{path}, frame {index}"
        number = frame.get("frame", frame.get("frame_id", index)) if isinstance(frame, dict) else index
        for person in _find_people(frame):
            rows.append(_parse_person(where, person, parse_frame(where, number)))
    found = build_detections(str(path), rows, find_layout(str(path), _LANDMARKS, LAYOUTS, layout))
    normalised = look_normalised(found.keypoints)
    if normalised and np.mean(found.keypoints < -0.02) > 0.2:
        raise UserError(
            f"{path}: expected landmarks in units of the picture, found many below zero (pose_world_landmarks, which "
            "are metres from the hips?)"
        )
    return found._replace(normalised=normalised, image_size=_find_size(path, about), fps=_find_fps(path, about))


def _find_people(frame: Any) -> list[Any]:
    """The people of a frame in any of its forms."""
    if isinstance(frame, dict):
        frame = next((frame[key] for key in ("pose_landmarks", "landmarks", "people") if key in frame), None)
    if isinstance(frame, dict):  # the protocol buffer's own JSON
        frame = frame.get("landmark")
    if not isinstance(frame, list) or not frame:
        return []
    if _is_landmark(frame[0]):
        return [frame]
    return [person.get("landmarks") if isinstance(person, dict) else person for person in frame if person]


def _is_landmark(value: Any) -> bool:
    if isinstance(value, dict):
        return "x" in value and "y" in value
    return isinstance(value, list) and 2 <= len(value) <= 5 and not isinstance(value[0], (list, dict))


def _is_person(value: Any) -> bool:
    return isinstance(value, list) and len(value) == _LANDMARKS and _is_landmark(value[0])


def _parse_person(where: str, person: Any, frame: int) -> Row:
    if not _is_person(person):
        found = len(person) if isinstance(person, list) else type(person).__name__
        raise UserError(f"{where}: expected {_LANDMARKS} landmarks of a person, found {found}")
    table = np.full((_LANDMARKS, 3), np.nan)
    for joint, landmark in enumerate(person):
        if not _is_landmark(landmark):
            raise UserError(f"{where}: expected landmark {joint} with x and y, found {type(landmark).__name__}")
        if isinstance(landmark, dict):
            values = [landmark["x"], landmark["y"], landmark.get("visibility")]
        else:
            values = [*landmark[:2], landmark[3] if len(landmark) > 3 else None]
        table[joint] = parse_numbers(where, values, "a landmark")
    visibility = table[:, 2]
    if np.isnan(visibility).all():
        return Row(frame, table[:, :2], None)
    if (visibility < 0).any() or (visibility > 1).any():
        raise UserError(
            f"{where}: expected visibility between 0 and 1, found {visibility[np.argmax(np.abs(visibility))]:g}"
        )
    return Row(frame, table[:, :2], visibility)


def _find_size(path: Path, about: dict[str, Any]) -> tuple[float, float] | None:
    value = about.get("image_size") if "image_size" in about else [about.get("width"), about.get("height")]
    size = parse_numbers(str(path), value, "image_size")
    if len(size) != 2 or not (np.isnan(size).all() or (size > 0).all()):
        raise UserError(f"{path}: expected image_size as [width, height] in pixels, found {size.tolist()}")
    return None if np.isnan(size).all() else (float(size[0]), float(size[1]))


def _find_fps(path: Path, about: dict[str, Any]) -> float | None:
    if about.get("fps") is None:
        return None
    return float(parse_numbers(str(path), [about["fps"]], "fps")[0])
