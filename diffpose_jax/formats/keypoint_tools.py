"""Keypoint files of all tools: what a file is, is told by its content.

    | tool | file | recognised by |
    | this package | `.npz`, `.json` | `keypoints` beside `image_size` or `layout` |
    | MMPose | `.json`, folder of them | `instance_info`, `instances` or `keypoint_scores` |
    | AlphaPose | `.json` | people with a word as `image_id`; images with `bodies` |
    | OpenPose | folder of `.json`, or one | `people` |
    | COCO, COCO-WholeBody | `.json` | `annotations`; people with a number as `image_id` |
    | MediaPipe | `.json`, `.csv` | frames of 33 landmarks with x and y |
    | VideoPose3D | `.npz` | `positions_2d`; `boxes` and `keypoints` |
    | DeepLabCut | `.csv` | header rows `scorer`, `bodyparts`, `coords` |
    | SLEAP, other tables | `.csv`, `.h5` | columns `JOINT.x`, `JOINT.y`; `tracks` and `node_names` |

Anything else is refused in one line.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from diffpose_jax.errors import UserError
from diffpose_jax.formats import (
    alphapose_files,
    coco_files,
    deeplabcut_files,
    mediapipe_files,
    mmpose_files,
    openpose_files,
    sleap_files,
    videopose3d_files,
)
from diffpose_jax.formats.detections import Detections, read_json
from diffpose_jax.formats.joint_tables import choose_layout, place_joints, read_cells
from diffpose_jax.formats.keypoint_files import KeypointClip, parse_array, parse_recordings
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.formats.tracks import Reading, make_clips


class Tool(NamedTuple):
    """A tool whose files are read: how its content is recognised, and what becomes people of it."""

    name: str
    recognises: Callable[[Any], bool]
    parse: Callable[[Path, Any, str | None], Detections]


# The first that recognises a file reads it.
JSON_TOOLS = (
    Tool("MMPose", mmpose_files.is_mmpose, mmpose_files.parse_mmpose),
    Tool("AlphaPose", alphapose_files.is_alphapose, alphapose_files.parse_alphapose),
    Tool("OpenPose", openpose_files.is_openpose, openpose_files.parse_openpose),
    Tool("COCO", coco_files.is_coco, coco_files.parse_coco),
    Tool("MediaPipe", mediapipe_files.is_mediapipe, mediapipe_files.parse_mediapipe),
)
TABLE_TOOLS = (
    Tool("DeepLabCut", deeplabcut_files.is_deeplabcut, deeplabcut_files.parse_deeplabcut),
    Tool("SLEAP", sleap_files.is_joint_table, sleap_files.parse_joint_table),
)
SUFFIXES = (".json", ".npz", ".csv", ".h5", ".hdf5")
_TOOLS = "MMPose, AlphaPose, OpenPose, COCO, MediaPipe, VideoPose3D, DeepLabCut or SLEAP, or of this package"


def read_clips(path: str | os.PathLike, reading: Reading = Reading()) -> list[KeypointClip]:  # noqa: B008  # immutable
    """Reads keypoints of any tool in the module's table, one clip per person (and per recording of a file).

    Args:
        path: The file, or the folder.
        reading: What the caller knows that the file does not say.

    Raises:
        UserError: The file is missing, of another kind, damaged, or does not say what is needed; no joint was seen.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, reading)
    if not path.is_file():
        raise UserError(f"{path}: expected a keypoint file, found no such file")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a keypoint file ({', '.join(SUFFIXES)}), found suffix '{path.suffix}'")
    if path.suffix == ".npz":
        return _parse_archive(path, reading)
    if path.suffix.lower() == ".json":
        return _parse_json(path, read_json(path), reading)
    if path.suffix.lower() == ".csv":
        return _parse_table(path, reading)
    return make_clips(str(path), sleap_files.read_analysis(path, reading.layout), path.stem, reading)


def _parse_json(path: Path, content: Any, reading: Reading) -> list[KeypointClip]:
    for tool in JSON_TOOLS:
        if tool.recognises(content):
            return make_clips(str(path), tool.parse(path, content, reading.layout), path.stem, reading)
    if content == []:
        raise UserError(f"{path}: expected at least one clip, found an empty list")
    return _parse_own(path, content if isinstance(content, list) else [content], reading)


def _parse_own(path: Path, recordings: list[Any], reading: Reading) -> list[KeypointClip]:
    """Clips of this package's own form; what the caller says stands where a recording does not."""
    if not any(isinstance(entries, dict) and "keypoints" in entries for entries in recordings):
        raise UserError(f"{path}: expected a keypoint file of {_TOOLS}, found {_describe(recordings)}")
    said = {"image_size": reading.image_size, "fps": reading.fps}
    filled = [
        {**{key: value for key, value in said.items() if value is not None}, **entries}
        if isinstance(entries, dict)
        else entries
        for entries in recordings
    ]
    if reading.joint_names is not None:
        filled = [_name_joints(path, entries, reading) for entries in filled]
    return parse_recordings(path, filled, reading.layout, reading.least_score)


def _name_joints(path: Path, entries: Any, reading: Reading) -> Any:
    """A recording whose joints, named by the caller in the order of the file, are put in the order of a layout."""
    names = reading.joint_names or ()
    if not isinstance(entries, dict) or "keypoints" not in entries:
        return entries
    if "layout" in entries:
        raise UserError(f"{path}: expected joint_names or a layout, found both: the file names {entries['layout']}")
    skeleton, places = choose_layout(path, names, reading.layout)
    keypoints = parse_array(str(path), entries, "keypoints", (2, 3, 4))
    scores = parse_array(str(path), entries, "scores", (1, 2, 3))
    placed = {**entries, "layout": skeleton.name}
    for key, values in (("keypoints", keypoints), ("scores", None if scores is None else scores[..., None])):
        if values is not None and values.shape[-2] != len(names):
            raise UserError(f"{path}: expected {len(names)} joints in {key} as named, found {values.shape[-2]}")
        if values is not None:
            arranged = place_joints(values, skeleton, places)
            placed[key] = arranged if key == "keypoints" else arranged[..., 0]
    return placed


def _parse_archive(path: Path, reading: Reading) -> list[KeypointClip]:
    members = read_npz(path)
    if not videopose3d_files.is_videopose3d(members):
        return _parse_own(path, [members], reading)
    clips = []
    for name, found in videopose3d_files.parse_videopose3d(path, members, reading.layout):
        clips += make_clips(f"{path}, {name}", found, name, reading)
    return clips


def _parse_table(path: Path, reading: Reading) -> list[KeypointClip]:
    rows = read_cells(path)
    for tool in TABLE_TOOLS:
        if tool.recognises(rows):
            return make_clips(str(path), tool.parse(path, rows, reading.layout), path.stem, reading)
    found = ", ".join(rows[0][:8]) if rows else "nothing"
    raise UserError(
        f"{path}: expected a table of DeepLabCut (scorer, bodyparts, coords) or with columns such as left_hip.x, found "
        f"{found[:100]}"
    )


def _read_folder(folder: Path, reading: Reading) -> list[KeypointClip]:
    """A folder of OpenPose's or MMPose's files, one per frame; or of other files, each a recording."""
    inner = folder / "predictions"  # where MMPose's `out_dir` has them
    if inner.is_dir() and not any(folder.glob("*.json")):
        folder = inner
    single = folder / "alphapose-results.json"
    files = [single] if single.is_file() else sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: expected a folder of .json files of OpenPose or MMPose, found none in it")
    if len(files) == 1:
        return _parse_json(files[0], read_json(files[0]), reading)
    first = next((content for file in files if (content := read_json(file))), None)
    if openpose_files.is_openpose(first):
        found = openpose_files.read_folder(folder, files, reading.layout)
    elif mmpose_files.is_mmpose(first) and isinstance(first, list) and "instances" not in first[0]:
        found = mmpose_files.read_folder(folder, files, reading.layout)
    elif isinstance(first, list) and alphapose_files.is_alphapose(first):
        people = [person for file in files for person in _read_list(file)]
        found = alphapose_files.parse_alphapose(folder, people, reading.layout)
    else:
        return [clip for file in files for clip in _parse_json(file, read_json(file), reading)]
    return make_clips(str(folder), found, folder.name, reading)


def _read_list(path: Path) -> list[Any]:
    """The list in a JSON file. Raises UserError for anything else."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of people as in the other files, found {type(content).__name__}")
    return content


def _describe(recordings: list[Any]) -> str:
    first = recordings[0]
    if isinstance(first, dict):
        return f"an object with {', '.join(map(str, list(first)[:6])) or 'nothing'}"
    return f"a list of {type(first).__name__}"
