"""Results of AlphaPose (`alphapose-results.json`) with 17 joints of COCO, 26 or 136 of Halpe.

Written from https://github.com/MVIG-SJTU/AlphaPose/blob/master/docs/output.md: a list of people, each with `image_id`
(the image's name), `keypoints` x1, y1, c1, ... in pixels, `score`, and `idx`, the person, where tracking is on. With
`--format cmu` or `open` the file is an object of images with `bodies` or `people`; COCO's joints then come in
OpenPose's order of 18. The scores of COCO's model may be above 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import (
    Detections,
    Row,
    build_detections,
    find_layout,
    index_frames,
    parse_identity,
    parse_triples,
)

LAYOUTS = {17: "coco17", 26: "halpe26", 133: "coco_wholebody133"}
_OPEN_LAYOUTS = {18: "openpose18", 26: "halpe26", 17: "coco17"}
_HALPE_136 = 136  # of which the first 26 are the body


def is_alphapose(content: Any) -> bool:
    """Whether parsed JSON is AlphaPose's: people with the name of their image, or images with their people."""
    if isinstance(content, list):
        first = content[0] if content else None
        return isinstance(first, dict) and "keypoints" in first and isinstance(first.get("image_id"), str)
    if not isinstance(content, dict) or not content:
        return False
    first = next(iter(content.values()))
    return isinstance(first, dict) and ("bodies" in first or "people" in first)


def parse_alphapose(path: Path, content: Any, layout: str | None) -> Detections:
    """The people of one file.

    Args:
        path: The file, which an error names.
        content: Its JSON.
        layout: The joint order, where it is another than the tool's.

    Raises:
        UserError: The content has another form.
    """
    people = list(content) if isinstance(content, list) else _flatten(path, content)
    known = LAYOUTS if isinstance(content, list) else _OPEN_LAYOUTS
    names = []
    for index, person in enumerate(people):
        if not isinstance(person, dict) or not isinstance(person.get("image_id"), str):
            raise UserError(f"{path}, entry {index}: expected a person with image_id, the name of an image")
        names.append(person["image_id"])
    frames = index_frames(names) if names else {}
    rows: list[Row] = []
    for index, person in enumerate(people):
        where = f"{path}, entry {index}"
        keypoints, scores = parse_triples(where, person.get("keypoints"))
        if len(keypoints) == _HALPE_136:
            keypoints, scores = keypoints[:26], scores[:26]
        if rows and len(keypoints) != len(rows[0].keypoints):
            raise UserError(f"{where}: expected {len(rows[0].keypoints)} joints as before, found {len(keypoints)}")
        rows.append(Row(frames[names[index]], keypoints, scores, parse_identity(where, person.get("idx"))))
    if not rows:
        raise UserError(f"{path}: expected people, found none in any frame")
    return build_detections(str(path), rows, find_layout(str(path), len(rows[0].keypoints), known, layout))


def _flatten(path: Path, images: dict[str, Any]) -> list[Any]:
    """The people of `--format cmu` and `open` in the form of the others."""
    people = []
    for name, image in images.items():
        found = image.get("bodies", image.get("people")) if isinstance(image, dict) else None
        if not isinstance(found, list) or not all(isinstance(person, dict) for person in found):
            raise UserError(f"{path}, image {name[:40]!r}: expected a list of bodies or people, found none")
        people += [
            {"image_id": name, "keypoints": person.get("joints", person.get("pose_keypoints_2d")),
             "idx": person.get("idx")}
            for person in found
        ]  # fmt: skip
    return people
