"""A folder of OpenPose's JSON files, one per frame (`--write_json`), with BODY_25 or COCO-18 joints; or one such file.

Written from https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md: each file has
`people`, each of them `pose_keypoints_2d` x0, y0, c0, ... and `person_id` `[-1]` where nobody is tracked. A part that
was not found is 0, 0, 0. Coordinates are pixels; `--keypoint_scale 3` writes them in units of width and height. The
frame is the number in the name, `clip_000000000012_keypoints.json`.
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
    index_frames,
    parse_identity,
    parse_triples,
    read_json,
)

LAYOUTS = {25: "body25", 18: "openpose18", 26: "halpe26"}  # Halpe's in AlphaPose's `--format open`


def is_openpose(content: Any) -> bool:
    """Whether parsed JSON is one frame of OpenPose."""
    return isinstance(content, dict) and isinstance(content.get("people"), list)


def parse_openpose(path: Path, content: Any, layout: str | None) -> Detections:
    """The people of one frame.

    Args:
        path: The file, which an error names.
        content: Its JSON.
        layout: The joint order, where it is neither BODY_25 nor COCO-18.

    Raises:
        UserError: The content has another form.
    """
    return _build(path, _parse_people(path, content, 0), layout)


def read_folder(folder: Path, files: list[Path], layout: str | None) -> Detections:
    """The people of all frames of a folder; frames without people are gaps."""
    frames = index_frames([file.name.removesuffix("_keypoints.json") for file in files])
    rows: list[Row] = []
    for file in files:
        rows += _parse_people(file, read_json(file), frames[file.name.removesuffix("_keypoints.json")])
    return _build(folder, rows, layout)


def _parse_people(path: Path, content: Any, frame: int) -> list[Row]:
    if not is_openpose(content):
        raise UserError(f"{path}: expected an object with people, as OpenPose writes, found {type(content).__name__}")
    rows = []
    for number, person in enumerate(content["people"]):
        where = f"{path}, person {number}"
        if not isinstance(person, dict) or "pose_keypoints_2d" not in person:
            raise UserError(f"{where}: expected pose_keypoints_2d, found none")
        keypoints, scores = parse_triples(where, person["pose_keypoints_2d"], "pose_keypoints_2d")
        identity = parse_identity(where, person.get("person_id"))
        rows.append(Row(frame, keypoints, scores, None if identity == "-1" else identity))
    return rows


def _build(path: Path, rows: list[Row], layout: str | None) -> Detections:
    if not rows:
        raise UserError(f"{path}: expected people, found none in any frame")
    joints = len(rows[0].keypoints)
    if odd := [row for row in rows if len(row.keypoints) != joints]:
        raise UserError(f"{path}: expected {joints} joints of every person, found {len(odd[0].keypoints)}")
    found = build_detections(str(path), rows, find_layout(str(path), joints, LAYOUTS, layout))
    seen = found.keypoints[found.scores > 0] if found.scores is not None else found.keypoints
    normalised = bool(len(seen)) and float(np.nanmax(np.abs(seen), initial=0)) <= 2
    return found._replace(normalised=normalised)
