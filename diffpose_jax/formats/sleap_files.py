"""Analysis files of SLEAP (.csv, and .h5 where h5py is installed) of people, whose nodes are named as joints.

Written from https://docs.sleap.ai/latest/ (Analysis CSV: `track`, `frame_idx`, `instance.score`, then `NODE.x`,
`NODE.y`, `NODE.score`, pixels, empty where a node was not found) and from what `sleap/info/write_tracking_h5.py` of
https://github.com/talmolab/sleap saves: `tracks` `[tracks, 2, nodes, frames]`, `point_scores` `[tracks, nodes,
frames]`, `node_names`, `track_names`. An instance without a track is found again by overlap. Tables of this form from
other programs are read too: any with a column `frame` or `frame_idx` and columns `JOINT.x` or `JOINT_x`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import MAX_PIXELS, Detections, Row, build_detections, check_scores, look_normalised
from diffpose_jax.formats.joint_tables import check_widths, choose_layout, parse_cells, place_joints

_COLUMN = re.compile(r"(.+)[._](x|y|score|likelihood|visibility|confidence)", re.IGNORECASE)
_FRAME, _TRACK = ("frame_idx", "frame", "frame_id"), ("track", "track_id", "person", "id")


def is_joint_table(rows: list[list[str]]) -> bool:
    """Whether the first row of a table names x and y of joints."""
    header = [word.strip() for word in rows[0]] if rows else []
    return any(found.group(2).lower() == "x" for word in header if (found := _COLUMN.fullmatch(word)))


def parse_joint_table(path: Path, rows: list[list[str]], layout: str | None) -> Detections:
    """The people of one table, a row for each of them in each frame.

    Args:
        path: The file, which an error names.
        rows: Its cells.
        layout: The layout to place the joints in; the one that holds most of them if None.

    Raises:
        UserError: The table has another form, or its nodes do not make a person.
    """
    header = [word.strip() for word in rows[0]]
    check_widths(path, rows, 1, len(header))
    columns: dict[str, dict[str, int]] = {}
    for index, word in enumerate(header):
        if found := _COLUMN.fullmatch(word):
            channel = found.group(2).lower()
            columns.setdefault(found.group(1), {})["score" if channel not in ("x", "y") else channel] = index
    nodes = {name: where for name, where in columns.items() if {"x", "y"} <= set(where)}
    skeleton, places = choose_layout(path, list(nodes), layout)
    frame = next((header.index(name) for name in _FRAME if name in header), None)
    track = next((header.index(name) for name in _TRACK if name in header), None)
    order = [where.get(channel) for where in nodes.values() for channel in ("x", "y", "score")]
    found_rows = []
    for line, row in enumerate(rows[1:], start=2):
        values = parse_cells(path, line, ["" if index is None else row[index] for index in order])
        placed = place_joints(np.array(values).reshape(-1, 3), skeleton, places)
        scores = None if np.isnan(placed[:, 2]).all() else check_scores(str(path), placed[:, 2])
        number = line - 2 if frame is None else _parse_frame(path, line, row[frame])
        identity = row[track].strip() or None if track is not None else None
        if np.isfinite(placed[:, :2]).any():
            found_rows.append(Row(number, placed[:, :2], scores, identity))
    detections = build_detections(str(path), found_rows, skeleton)
    # Landmarks of MediaPipe are in units of the picture.
    return detections._replace(normalised=look_normalised(detections.keypoints))


def read_analysis(path: Path, layout: str | None) -> Detections:
    """The people of an analysis file (.h5).

    Raises UserError where it is of another form, its nodes do not make a person, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: expected the library h5py, found none: pip install diffpose_jax[mat]") from error
    try:
        with h5py.File(path) as file:
            if missing := {"tracks", "node_names"} - set(file):
                raise UserError(
                    f"{path}: expected SLEAP's analysis, found no {min(missing)}; of DeepLabCut give the .csv"
                )
            names = _words(file["node_names"])
            tracks, scores = _load(path, file["tracks"], 4), None
            if "point_scores" in file:
                scores = _load(path, file["point_scores"], 3)
            people = _words(file["track_names"]) if "track_names" in file else []
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected SLEAP's analysis (.h5), found {error}") from error
    return _from_arrays(path, names, people, tracks, scores, layout)


def _from_arrays(
    path: Path, names: list[str], people: list[str], tracks: np.ndarray, scores: np.ndarray | None, layout: str | None
) -> Detections:
    count, axes, nodes, frames = tracks.shape
    if axes != 2 or nodes != len(names) or (scores is not None and scores.shape != (count, nodes, frames)):
        raise UserError(f"{path}: expected tracks [tracks, 2, {len(names)} nodes, frames], found {list(tracks.shape)}")
    if (np.abs(tracks) > MAX_PIXELS).any():
        raise UserError(f"{path}: expected tracks within {MAX_PIXELS:g} pixels, found {np.nanmax(np.abs(tracks)):g}")
    skeleton, places = choose_layout(path, names, layout)
    rows = []
    for track, frame in np.argwhere(np.isfinite(tracks).any(axis=(1, 2))):
        table = place_joints(tracks[track, :, :, frame].T, skeleton, places)
        own = None
        if scores is not None and np.isfinite(scores[track, :, frame]).any():
            own = place_joints(scores[track, :, frame][:, None], skeleton, places)[:, 0]
            own = check_scores(str(path), own)
        name = people[track] if track < len(people) else (f"track {track}" if count > 1 else "person")
        rows.append(Row(int(frame), table, own, name))
    return build_detections(str(path), rows, skeleton)


def _load(path: Path, data: Any, dimensions: int) -> np.ndarray:
    """An array of a file, whose compressed size bounds what is believed of its shape."""
    size = path.stat().st_size
    if data.ndim != dimensions or data.dtype.kind != "f":
        raise UserError(
            f"{path}: expected {dimensions} dimensions of numbers, found {list(data.shape)} of {data.dtype}"
        )
    # NaN compress to a thousandth; a shape beyond that is not backed by data.
    if data.size * 8 > 1200 * size + 1_000_000:
        raise UserError(f"{path}: expected arrays that {size} bytes can hold, found shape {list(data.shape)}")
    return np.asarray(data, np.float64)


def _words(data: Any) -> list[str]:
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in data[:1000]]


def _parse_frame(path: Path, line: int, cell: str) -> int:
    word = cell.strip()
    if not re.fullmatch(r"\d{1,9}(\.0*)?", word):
        raise UserError(f"{path}: row {line}: expected a frame as a whole number, found {word[:40]!r}")
    return int(word.split(".")[0])
