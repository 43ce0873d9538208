"""Tables of DeepLabCut (.csv) of people, whose body parts are named as joints.

Written from https://deeplabcut.github.io/DeepLabCut/docs/HelperFunctions.html and #analyze_videos: three header rows
`scorer`, `bodyparts`, `coords`, with several individuals a fourth, `individuals`, after the first; then per frame x, y
(pixels) and likelihood of each body part. The first column is the frame; in labelled data, whose first columns are
paths of images, it is the order of the rows. Cells may be empty.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import Detections, Row, build_detections, check_scores
from diffpose_jax.formats.joint_tables import check_widths, choose_layout, parse_cells, place_joints

_COORDS = ("x", "y", "likelihood")


def is_deeplabcut(rows: list[list[str]]) -> bool:
    """Whether the first rows of a table are DeepLabCut's header."""
    return len(rows) > 2 and rows[0][0] == "scorer" and any(row[0] == "bodyparts" for row in rows[:3])


def parse_deeplabcut(path: Path, rows: list[list[str]], layout: str | None) -> Detections:
    """The people of one table.

    Args:
        path: The file, which an error names.
        rows: Its cells.
        layout: The layout to place the joints in; the one that holds most of them if None.

    Raises:
        UserError: The table has another form, or its body parts do not make a person.
    """
    header = {row[0]: row for row in rows[:4] if row[0] in ("scorer", "individuals", "bodyparts", "coords")}
    if "coords" not in header or "bodyparts" not in header:
        raise UserError(f"{path}: expected header rows scorer, bodyparts, coords, found {', '.join(header)}")
    body, width = rows[len(header) :], len(header["scorer"])
    check_widths(path, [*header.values(), *body], 1, width)
    columns = [index for index, word in enumerate(header["coords"]) if word in _COORDS]
    if not columns:
        raise UserError(f"{path}: expected coords x, y, likelihood, found {', '.join(header['coords'][1:9])}")
    people = list(dict.fromkeys(header["individuals"][index] for index in columns)) if "individuals" in header else [""]
    numbered = columns[0] == 1 and all(row[0].strip().isdigit() and len(row[0]) < 10 for row in body)
    found, skeleton = [], None
    for person in people:
        own = [index for index in columns if not person or header["individuals"][index] == person]
        names = list(dict.fromkeys(header["bodyparts"][index] for index in own))
        skeleton, places = choose_layout(path, names, layout if skeleton is None else skeleton.name)
        where = {(header["bodyparts"][index], header["coords"][index]): index for index in own}
        for line, row in enumerate(body):
            table = _parse_row(
                path, line + len(header) + 1, row, [[where.get((name, c)) for c in _COORDS] for name in names]
            )
            placed = place_joints(table, skeleton, places)
            if np.isnan(placed[:, :2]).all():
                continue  # nobody in this frame
            scores = None if np.isnan(placed[:, 2]).all() else check_scores(str(path), placed[:, 2])
            found.append(Row(int(row[0]) if numbered else line, placed[:, :2], scores, person or "person"))
    if skeleton is None or not found:
        raise UserError(f"{path}: expected people, found none in any frame")
    return build_detections(str(path), found, skeleton)


def _parse_row(path: Path, line: int, row: list[str], places: list[list[int | None]]) -> np.ndarray:
    """x, y, likelihood `[joints, 3]` of one person in one row."""
    cells = ["" if index is None else row[index] for joint in places for index in joint]
    return np.array(parse_cells(path, line, cells)).reshape(-1, 3)
