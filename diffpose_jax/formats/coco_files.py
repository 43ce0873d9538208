"""COCO keypoint files: annotations (an object with `images` and `annotations`), and results (a list of people).

Written from https://cocodataset.org/#format-data and #format-results, and for COCO-WholeBody from
https://github.com/jin-s13/COCO-WholeBody/blob/master/data_format.md. A person has `image_id`, a number, and `keypoints`
x1, y1, v1, ... in pixels; v is 0 where a joint is not labelled, 1 or 2 where it is, or a detector's confidence.
COCO-WholeBody has `foot_kpts`, `face_kpts`, `lefthand_kpts` and `righthand_kpts` beside the body's 17. `track_id`, as
CVAT exports it, is the person. `images` give the size and, by `frame_id` or the order of their names, the frame.
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
    parse_frame,
    parse_identity,
    parse_triples,
)

LAYOUTS = {17: "coco17", 133: "coco_wholebody133", 26: "halpe26"}
_PARTS = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")


def is_coco(content: Any) -> bool:
    """Whether parsed JSON is COCO's annotations or results."""
    if isinstance(content, dict):
        return "annotations" in content
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "keypoints" in first and isinstance(first.get("image_id"), int)


def parse_coco(path: Path, content: Any, layout: str | None) -> Detections:
    """The people of one file.

    Args:
        path: The file, which an error names.
        content: Its JSON.
        layout: The joint order, where it is not that of COCO, COCO-WholeBody or Halpe-26.

    Raises:
        UserError: The content has another form, or images differ in size.
    """
    annotated = isinstance(content, dict)
    people = content["annotations"] if annotated else content
    if not isinstance(people, list):
        raise UserError(f"{path}: expected annotations as a list, found {type(people).__name__}")
    people = [person for person in people if not (isinstance(person, dict) and "keypoints" not in person)]
    for index, person in enumerate(people):
        if not isinstance(person, dict) or not isinstance(person.get("image_id"), int):
            raise UserError(f"{path}, entry {index}: expected a person with a number as image_id, found none")
    images = _parse_images(path, content.get("images")) if annotated else {}
    frames = _index(path, images, [person["image_id"] for person in people])
    rows = [_parse_person(path, index, person, frames) for index, person in enumerate(people)]
    rows = [row for row in rows if row.scores is None or (row.scores > 0).any()]  # nobody labelled: crowds
    if not rows:
        raise UserError(f"{path}: expected people, found none in any frame")
    if odd := [row for row in rows if len(row.keypoints) != len(rows[0].keypoints)]:
        expected = len(rows[0].keypoints)
        raise UserError(f"{path}: expected {expected} joints of every person, found {len(odd[0].keypoints)}")
    if all(row.scores is None or np.isin(row.scores, (0, 1, 2)).all() for row in rows):
        # Visibility, not confidence: a joint that is hidden behind another one is labelled too.
        rows = [row._replace(scores=None if row.scores is None else np.minimum(row.scores, 1)) for row in rows]
    skeleton = find_layout(str(path), len(rows[0].keypoints), LAYOUTS, layout)
    return build_detections(str(path), rows, skeleton, image_size=_common_size(path, images, people))


def _parse_images(path: Path, images: Any) -> dict[int, dict[str, Any]]:
    if not isinstance(images, list) or not all(
        isinstance(image, dict) and isinstance(image.get("id"), int) for image in images
    ):
        raise UserError(f"{path}: expected images as a list of objects with an id, found {type(images).__name__}")
    return {image["id"]: image for image in images}


def _index(path: Path, images: dict[int, dict[str, Any]], wanted: list[int]) -> dict[int, int]:
    """The frame of each image: its `frame_id`, else by the numbers in the names, else by its own number."""
    if images:
        if lost := sorted(set(wanted) - set(images)):
            raise UserError(f"{path}: expected every image_id among the images, found {str(lost[0])[:20]}")
        if all("frame_id" in image for image in images.values()):
            return {number: parse_frame(str(path), image["frame_id"]) for number, image in images.items()}
        names = {number: image.get("file_name") for number, image in images.items()}
        words = [name for name in names.values() if isinstance(name, str)]
        if len(set(words)) == len(images):
            order = index_frames(words)
            return {number: order[name] for number, name in names.items() if isinstance(name, str)}
    numbers = sorted(images) if images else sorted(set(wanted))
    order = index_frames([str(number) for number in numbers])
    return {number: order[str(number)] for number in numbers}


def _parse_person(path: Path, index: int, person: dict[str, Any], frames: dict[int, int]) -> Row:
    where = f"{path}, entry {index}"
    parts = [parse_triples(where, person["keypoints"])]
    if all(name in person for name in _PARTS):
        parts += [parse_triples(where, person[name], name) for name in _PARTS]
    keypoints, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    identity = person.get("track_id", (person.get("attributes") or {}).get("track_id")
                          if isinstance(person.get("attributes"), dict) else None)  # fmt: skip
    return Row(frames[person["image_id"]], keypoints, scores, parse_identity(where, identity))


def _common_size(path: Path, images: dict[int, dict[str, Any]], people: list[Any]) -> tuple[float, float] | None:
    """The one size of all images that show somebody; None where they do not say."""
    shown = [images[number] for number in dict.fromkeys(person["image_id"] for person in people) if number in images]
    sizes = {(image.get("width"), image.get("height")) for image in shown if _has_size(image)}
    if len(sizes) > 1:
        raise UserError(f"{path}: expected images of one size, found {' and '.join(map(str, sorted(sizes)[:2]))}")
    return next(iter(sizes), None)  # type: ignore[return-value]  # numbers, by `_has_size`


def _has_size(image: dict[str, Any]) -> bool:
    return all(isinstance(image.get(name), (int, float)) and 0 < image[name] < 1e6 for name in ("width", "height"))
