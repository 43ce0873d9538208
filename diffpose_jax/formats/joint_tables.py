"""Tables whose columns are named by joints: comma-separated text, and the layout that their names make."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import MAX_PIXELS
from diffpose_jax.skeleton import SKELETONS, Skeleton

# Joints of one place under other names, without their side, small letters and digits only.
_PLACES = {
    **{name: name for name in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist", "eye", "ear", "heel")},
    **{"foot": "ankle", "hand": "wrist", "bigtoe": "big_toe", "smalltoe": "small_toe", "footindex": "foot_index"},
    **{"eyeinner": "eye_inner", "eyeouter": "eye_outer", "pinky": "pinky", "index": "index", "thumb": "thumb"},
    **{"mouth": "mouth", "mouthcorner": "mouth", "upleg": "hip", "leg": "knee", "arm": "shoulder", "forearm": "elbow"},
}
_MIDDLE = {
    **{"nose": "nose", "neck": "neck", "thorax": "thorax", "spine": "spine", "pelvis": "pelvis", "root": "pelvis"},
    **{"hip": "pelvis", "hips": "pelvis", "midhip": "pelvis", "headtop": "head_top", "topofhead": "head_top"},
    **{"vertex": "head_top", "necknose": "neck_nose", "chest": "thorax", "torso": "spine", "belly": "spine"},
}
_SIDES = (r"(?P<side>left|right|l|r)(?P<place>.+)", r"(?P<place>.+?)(?P<side>left|right|l|r)")
# Of layouts that hold equally many of a table's joints the first one is taken.
_PREFERRED = ("coco17", "h36m17", "halpe26", "body25", "blazepose33", "openpose18", "mpi_inf_3dhp17")
_FEWEST = 8  # joints that make a person


def read_cells(path: Path) -> list[list[str]]:
    """The rows of a comma-separated file, without empty ones; a `UserError` where it is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return [row for row in csv.reader(stream) if any(row)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected comma-separated text, found {error}") from error


def parse_cells(path: Path, line: int, cells: Sequence[str]) -> list[float]:
    """The numbers of a row, NaN where a cell is empty. Raises UserError that names the row."""
    values = []
    for cell in cells:
        word = cell.strip()
        try:
            value = float(word) if word else math.nan
        except ValueError:
            raise UserError(f"{path}: row {line}: expected numbers, found {word[:40]!r}") from None
        if abs(value) > MAX_PIXELS:
            raise UserError(f"{path}: row {line}: expected numbers within {MAX_PIXELS:g}, found {value:g}")
        values.append(value)
    return values


def check_widths(path: Path, rows: Sequence[Sequence[str]], first: int, width: int) -> None:
    """Checks that all rows of a table have as many cells as its header.

    Args:
        path: The file, for the message.
        rows: The cells of each row.
        first: The number of the first of these rows in the file.
        width: How many cells the header has.

    Raises:
        UserError: for a row of another width, with its number in the file.
    """
    for line, row in enumerate(rows, start=first):
        if len(row) != width:
            raise UserError(f"{path}: row {line}: expected {width} cells as in the header, found {len(row)}")


def match_joint(name: str) -> str | None:
    """The joint that a column's name means, such as 'left_knee' for 'L_Knee', 'kneeLeft' or 'LKNEE'; None: none."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain in _MIDDLE:
        return _MIDDLE[plain]
    for pattern in _SIDES:
        found = re.fullmatch(pattern, plain)
        if found and found["place"] in _PLACES:
            return f"{'left' if found['side'][0] == 'l' else 'right'}_{_PLACES[found['place']]}"
    return None


def choose_layout(path: Path, names: Sequence[str], asked: str | None) -> tuple[Skeleton, dict[int, int]]:
    """The layout that holds most of a table's joints, and where each column of joints goes in it.

    Args:
        path: The file, which an error names.
        names: Of the joints in the table.
        asked: A layout to take instead, or None.

    Returns:
        The layout and `{index in names: joint}`; joints of the layout that the table lacks were not seen.

    Raises:
        UserError: The names do not make a person, or two mean the same joint.
    """
    joints = {index: joint for index, name in enumerate(names) if (joint := match_joint(name)) is not None}
    if doubled := [name for name in joints.values() if list(joints.values()).count(name) > 1]:
        raise UserError(f"{path}: expected each joint once, found {doubled[0]} twice among {', '.join(names[:40])}")
    if asked is not None and asked not in SKELETONS:
        raise UserError(f"{path}: expected a layout of {', '.join(SKELETONS)}, found '{asked}'")
    candidates = [SKELETONS[name] for name in ((asked,) if asked is not None else _PREFERRED)]
    held = [sum(joint in skeleton.joints for joint in joints.values()) for skeleton in candidates]
    best = candidates[int(np.argmax(held))]
    if max(held) < _FEWEST or not {"left_hip", "right_hip"} <= set(joints.values()):
        raise UserError(
            f"{path}: expected joints named such as left_hip, RKnee, nose ({_FEWEST} or more, with both hips), found "
            f"{', '.join(names[:20]) or 'none'}"
        )
    return best, {index: best.joints.index(joint) for index, joint in joints.items() if joint in best.joints}


def place_joints(values: np.ndarray, skeleton: Skeleton, places: dict[int, int]) -> np.ndarray:
    """Values `[..., columns, C]` of a table's joints at the joints of a layout, `[..., J, C]`; NaN elsewhere."""
    placed = np.full((*values.shape[:-2], skeleton.num_joints, values.shape[-1]), np.nan)
    placed[..., list(places.values()), :] = values[..., list(places), :]
    return placed
