"""Predictions of MMPose 1.x: of its inferencer (`pred_out_dir`), of its demos, a file or a folder of files.

Written from https://mmpose.readthedocs.io/en/latest/user_guides/inference.html (Dump Results) and from what
`mmpose/apis/inferencers/base_mmpose_inferencer.py` and `mmpose/structures/utils.py` of
https://github.com/open-mmlab/mmpose save:

* a video is a list of `{"frame_id": i, "instances": [...]}`, an image a list of instances, a folder of images a folder
  of such files;
* the demos with `--save-predictions` write `{"meta_info": {...}, "instance_info": [...]}`, the list as of a video or of
  an image, whose `meta_info` may name the joints;
* an instance has `keypoints` `[[x, y], ...]` in pixels, `keypoint_scores`, and `track_id` where a tracker ran.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import (
    Detections,
    Row,
    build_detections,
    check_scores,
    find_layout,
    index_frames,
    parse_frame,
    parse_identity,
    parse_numbers,
    parse_pairs,
    read_json,
)

LAYOUTS = {17: "coco17", 26: "halpe26", 133: "coco_wholebody133"}


def is_mmpose(content: Any) -> bool:
    """Whether parsed JSON is one of the forms that MMPose saves."""
    if isinstance(content, dict):
        return "instance_info" in content
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and ("instances" in first or "keypoint_scores" in first)


def parse_mmpose(path: Path, content: Any, layout: str | None) -> Detections:
    """The people of one file.

    Args:
        path: The file, which an error names.
        content: Its JSON.
        layout: The joint order, where it is not that of COCO, Halpe-26 or COCO-WholeBody.

    Raises:
        UserError: The content has another form.
    """
    names = None
    if isinstance(content, dict):
        about, content = content.get("meta_info"), content["instance_info"]
        names = _find_names(about)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected instance_info as a list, found {type(content).__name__}")
    rows: list[Row] = []
    for index, frame in enumerate(content):
        where = f"{path}, entry {index}"
        if not isinstance(frame, dict):
            raise UserError(f"{where}: expected a frame or an instance, found {type(frame).__name__}")
        if "instances" in frame:
            number = parse_frame(where, frame.get("frame_id", index))
            rows += _parse_instances(where, frame["instances"], number)
        else:
            rows += _parse_instances(where, [frame], 0)
    return _build(str(path), rows, layout or _named_layout(names))


def read_folder(folder: Path, files: list[Path], layout: str | None) -> Detections:
    """The people of a folder of files, one of each image, in the order of the numbers in their names."""
    frames = index_frames([file.name for file in files])
    rows = []
    for file in files:
        rows += _parse_instances(str(file), read_json(file), frames[file.name])
    return _build(str(folder), rows, layout)


def _parse_instances(where: str, instances: Any, frame: int) -> list[Row]:
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise UserError(f"{where}: expected a list of instances, found {type(instances).__name__}")
    rows = []
    for number, instance in enumerate(instances):
        here = f"{where}, instance {number}"
        keypoints = parse_pairs(here, instance.get("keypoints"))
        scores = None
        if instance.get("keypoint_scores") is not None:
            scores = check_scores(here, parse_numbers(here, instance["keypoint_scores"], "keypoint_scores"))
            if len(scores) != len(keypoints):
                raise UserError(f"{here}: expected {len(keypoints)} keypoint_scores, found {len(scores)}")
        rows.append(Row(frame, keypoints, scores, parse_identity(here, instance.get("track_id"))))
    return rows


def _build(where: str, rows: list[Row], layout: str | None) -> Detections:
    joints = len(rows[0].keypoints) if rows else 0
    if odd := [row for row in rows if len(row.keypoints) != joints]:
        raise UserError(f"{where}: expected {joints} joints of every person, found {len(odd[0].keypoints)}")
    skeleton = find_layout(where, joints, LAYOUTS, layout) if rows else None
    return build_detections(where, rows, skeleton)  # type: ignore[arg-type]  # without rows it raises


def _find_names(about: Any) -> list[str] | None:
    """The joints' names in `meta_info`, in their order."""
    found = about.get("keypoint_id2name") if isinstance(about, dict) else None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        return None
    try:
        return [found[key] for key in sorted(found, key=int)]
    except ValueError:
        return None


def _named_layout(names: list[str] | None) -> str | None:
    """The layout that a file says it has, where COCO's number of joints is also that of others."""
    if names and len(names) == 17 and names[0] in ("root", "pelvis", "Hip"):
        return "h36m17"
    return None
