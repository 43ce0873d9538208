"""Keypoints of VideoPose3D's own videos: `data_2d_custom_NAME.npz`, and what its detector script writes.

Written from https://github.com/facebookresearch/VideoPose3D/blob/main/INFERENCE.md and DATASETS.md: the member
`positions_2d` is a dictionary of videos, each of them `{'custom': [keypoints [T, J, 2]]}` in pixels, and `metadata` has
`layout_name`, `num_joints`, `keypoints_symmetry` and `video_metadata`, `{video: {'w', 'h'}}`. `infer_video_d2.py`
writes one file per video with `boxes` and `keypoints`, pairs of (class 0, class 1) per frame, people in boxes of
(x0, y0, x1, y1, score), keypoints `[people, 4, J]`, and `metadata`, `{'w', 'h'}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import MAX_PIXELS, Detections, Row, build_detections, find_layout, look_normalised

LAYOUTS = {17: "coco17", 15: "humaneva15", 16: "h36m16"}
_NAMED = {"coco": "coco17", "h36m": "h36m17", "humaneva15": "humaneva15", "humaneva20": "humaneva15"}


def is_videopose3d(members: Mapping[str, Any]) -> bool:
    """Whether the members of an archive are VideoPose3D's."""
    return "positions_2d" in members or ({"keypoints", "boxes", "metadata"} <= set(members))


def parse_videopose3d(path: Path, members: Mapping[str, Any], layout: str | None) -> list[tuple[str, Detections]]:
    """The people of one archive, by the name of their video; each camera of an action is a recording.

    Args:
        path: The file, which an error names.
        members: What `read_npz` gives.
        layout: The joint order, where the metadata do not name it.

    Raises:
        UserError: A member has another form.
    """
    metadata = members.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if "positions_2d" not in members:
        return [(path.stem, _parse_detector(path, members, metadata, layout))]
    videos = members["positions_2d"]
    if not isinstance(videos, dict):
        raise UserError(f"{path}: expected positions_2d as a dictionary of videos, found {type(videos).__name__}")
    named = layout or _find_named(metadata)
    sizes = metadata.get("video_metadata")
    found = []
    for video, actions in videos.items():
        if not isinstance(actions, dict):
            raise UserError(
                f"{path}, video {video!r}: expected a dictionary of actions, found {type(actions).__name__}"
            )
        size = _find_size(sizes.get(video)) if isinstance(sizes, dict) else None
        for action, views in actions.items():
            several = isinstance(views, (list, tuple)) or (isinstance(views, np.ndarray) and views.dtype.hasobject)
            views = list(views) if several else [views]
            for camera, view in enumerate(views):
                where = f"{path}, {video}/{action}"
                name = "-".join([str(video), *([str(action)] if action != "custom" else []),
                                 *([str(camera)] if len(views) > 1 else [])])  # fmt: skip
                found.append((name, _parse_view(where, view, size, named)))
    if not found:
        raise UserError(f"{path}: expected videos in positions_2d, found none")
    return found


def _parse_view(where: str, view: Any, size: tuple[float, float] | None, layout: str | None) -> Detections:
    array = _check(where, view, 3)
    if array.shape[-1] not in (2, 3):
        raise UserError(f"{where}: expected [T, J, 2] or [T, J, 3], found {list(array.shape)}")
    scores = np.maximum(array[..., 2], 0) if array.shape[-1] == 3 else None
    return Detections(
        find_layout(where, array.shape[1], LAYOUTS, layout),
        np.arange(len(array)),
        array[..., :2],
        scores,
        ("person",) * len(array),
        size,
        normalised=size is None and look_normalised(array[..., :2]),
    )


def _parse_detector(path: Path, members: Mapping[str, Any], metadata: dict, layout: str | None) -> Detections:
    """All people of each frame, with the score of their box for each joint, which is the only one of (0, 1)."""
    boxes, keypoints = members["boxes"], members["keypoints"]
    if len(boxes) != len(keypoints):
        raise UserError(f"{path}: expected boxes and keypoints of as many frames, found {len(boxes)}, {len(keypoints)}")
    rows: list[Row] = []
    for frame, (box, points) in enumerate(zip(boxes, keypoints, strict=True)):
        where = f"{path}, frame {frame}"
        try:
            box, points = box[1], points[1]
        except (IndexError, TypeError) as error:
            raise UserError(f"{where}: expected boxes and keypoints of two classes, found another form") from error
        if np.size(box) == 0 or np.size(points) == 0:
            continue
        box, points = _check(where, box, 2), _check(where, points, 3)
        if box.shape != (len(points), 5) or points.shape[1] < 2:
            raise UserError(
                f"{where}: expected boxes [people, 5], keypoints [people, 4, J], found {list(points.shape)}"
            )
        for person, corners in zip(points, box, strict=True):
            scores = np.full(person.shape[1], np.clip(corners[4], 0, 1))
            rows.append(Row(frame, person[:2].T, scores))
    if odd := [row for row in rows if len(row.keypoints) != len(rows[0].keypoints)]:
        raise UserError(f"{path}: expected {len(rows[0].keypoints)} joints, found {len(odd[0].keypoints)}")
    joints = len(rows[0].keypoints) if rows else 17
    skeleton = find_layout(str(path), joints, LAYOUTS, layout)
    return build_detections(str(path), rows, skeleton, image_size=_find_size(metadata))


def _check(where: str, value: Any, dimensions: int) -> np.ndarray:
    """A numeric array of so many dimensions, none of them empty, NaN allowed."""
    if not isinstance(value, np.ndarray) or value.ndim != dimensions or value.dtype.kind not in "fiu" or not value.size:
        found = f"{list(value.shape)} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{where}: expected numbers of {dimensions} dimensions, found {found}")
    array = value.astype(np.float64)
    if (np.abs(array) > MAX_PIXELS).any():
        raise UserError(f"{where}: expected numbers within {MAX_PIXELS:g}, found {np.nanmax(np.abs(array)):g}")
    return array


def _find_size(about: Any) -> tuple[float, float] | None:
    if not isinstance(about, dict):
        return None
    size = about.get("w"), about.get("h")
    if not all(isinstance(side, (int, float, np.number)) and 0 < side < MAX_PIXELS for side in size):
        return None
    return float(size[0]), float(size[1])  # type: ignore[arg-type]  # numbers, as just checked


def _find_named(metadata: dict) -> str | None:
    """The layout that the metadata name; VideoPose3D's 'h36m' has 17 joints of 32 left."""
    name = metadata.get("layout_name")
    return _NAMED.get(name) if isinstance(name, str) else None
