"""What the files of 2D detectors have in common: people found frame by frame, as many as there are in each.

The reader of a tool's files gives `Detections`, one row per person and frame; `formats.tracks` makes people of them.
All readers take numbers from parsed JSON or text through the checks here, so that whatever a file holds ends in arrays
or in a `UserError`, and no array is larger than what the file holds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import SKELETONS, Skeleton

# Beyond this many pixels no camera has any: a number that large is damage, or no coordinate.
MAX_PIXELS = 1e6
_LONGEST_FRAME = 10**9


class Detections(NamedTuple):
    """People that a detector found in a recording, a row for each person in each frame.

    Attributes:
        skeleton: The layout of the J joints.
        frames: Index of the frame, `[K]` int64, in any order.
        keypoints: `[K, J, 2]`, pixels unless `normalised`; NaN where there is none.
        scores: Confidence `[K, J]`, or None where the tool gives none.
        identities: Who it is by the tool's own tracking, None where it says nothing, K of them.
        image_size: Width and height in pixels, or None where the file does not say.
        fps: Frames per second, or None where the file does not say.
        normalised: Whether x is in units of the image's width and y of its height.
    """

    skeleton: Skeleton
    frames: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray | None
    identities: tuple[str | None, ...]
    image_size: tuple[float, float] | None = None
    fps: float | None = None
    normalised: bool = False


class Row(NamedTuple):
    """One person in one frame: keypoints `[J, 2]`, scores `[J]` or None."""

    frame: int
    keypoints: np.ndarray
    scores: np.ndarray | None
    identity: str | None = None


def read_json(path: Path) -> Any:
    """The content of a JSON file; a `UserError` for anything else."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found {type(error).__name__}: {error}") from error


def build_detections(where: str, rows: Sequence[Row], skeleton: Skeleton, **about: Any) -> Detections:
    """Stacks rows, all of the skeleton's joints.

    Args:
        where: What an error names.
        rows: At least one.
        skeleton: The layout of their joints.
        **about: Further fields of `Detections`.

    Raises:
        UserError: There are no rows.
    """
    if not rows:
        raise UserError(f"{where}: expected people, found none in any frame")
    scored = any(row.scores is not None for row in rows)
    ones = np.ones(skeleton.num_joints)
    return Detections(
        skeleton,
        np.array([row.frame for row in rows], np.int64),
        np.stack([row.keypoints for row in rows]),
        np.stack([ones if row.scores is None else row.scores for row in rows]) if scored else None,
        tuple(row.identity for row in rows),
        **about,
    )


def find_layout(where: str, joints: int, expected: Mapping[int, str], asked: str | None) -> Skeleton:
    """The layout of a tool's file by its number of joints, or the one that the caller names.

    Args:
        where: What an error names.
        joints: How many there are.
        expected: The tool's layouts by number of joints.
        asked: The caller's layout, or None.

    Raises:
        UserError: The tool has no layout of so many joints, or the caller's has another number.
    """
    if asked is not None:
        if asked not in SKELETONS:
            raise UserError(f"{where}: expected a layout of {', '.join(SKELETONS)}, found '{asked}'")
        if SKELETONS[asked].num_joints != joints:
            raise UserError(f"{where}: expected {SKELETONS[asked].num_joints} joints of {asked}, found {joints}")
        return SKELETONS[asked]
    if joints not in expected:
        known = ", ".join(f"{count} ({name})" for count, name in expected.items())
        raise UserError(f"{where}: expected {known} joints, found {joints}; give the layout if it is another")
    return SKELETONS[expected[joints]]


def parse_numbers(where: str, value: Any, what: str) -> np.ndarray:
    """A list of numbers, null for NaN, as `[N]` float64; refuses all else, infinity, and numbers beyond any picture."""
    if not isinstance(value, list) or not all(part is None or _is_number(part) for part in value):
        found = next((part for part in value if not (part is None or _is_number(part))), "") if isinstance(
            value, list
        ) else value  # fmt: skip
        raise UserError(f"{where}: expected {what} as a list of numbers, found {_show(found)}")
    numbers = np.array([math.nan if part is None else to_float(part) for part in value], np.float64)
    if (np.abs(numbers) > MAX_PIXELS).any():
        worst = numbers[np.nanargmax(np.abs(numbers))]
        raise UserError(f"{where}: expected {what} within {MAX_PIXELS:g}, found {worst:g}")
    return numbers


def parse_triples(where: str, value: Any, what: str = "keypoints") -> tuple[np.ndarray, np.ndarray]:
    """A flat list x1, y1, c1, x2, ... as keypoints `[J, 2]` and scores `[J]`."""
    numbers = parse_numbers(where, value, what)
    if len(numbers) == 0 or len(numbers) % 3:
        raise UserError(f"{where}: expected {what} as x, y, score of each joint, found {len(numbers)} numbers")
    table = numbers.reshape(-1, 3)
    return table[:, :2], check_scores(where, table[:, 2])


def parse_pairs(where: str, value: Any, what: str = "keypoints") -> np.ndarray:
    """A list of [x, y] or [x, y, ...] lists as keypoints `[J, 2]`; null in place of a joint is NaN."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: expected {what} as a list of [x, y], found {_show(value)}")
    rows = [[None, None] if joint is None else joint for joint in value]
    if not all(isinstance(joint, list) and 2 <= len(joint) <= 4 for joint in rows):
        odd = next(joint for joint in rows if not (isinstance(joint, list) and 2 <= len(joint) <= 4))
        raise UserError(f"{where}: expected {what} as a list of [x, y], found {_show(odd)}")
    return np.stack([parse_numbers(where, joint[:2], what) for joint in rows])


def look_normalised(keypoints: np.ndarray) -> bool:
    """Whether keypoints are in units of the picture: landmarks may lie outside it, but not most of them by its size."""
    known = np.abs(keypoints[np.isfinite(keypoints)])
    return bool(len(known)) and bool(np.median(known) <= 2)


def check_scores(where: str, scores: np.ndarray) -> np.ndarray:
    """The same scores, none of them negative."""
    if (scores < 0).any():
        raise UserError(f"{where}: expected scores of 0 or more, found {np.nanmin(scores):g}")
    return scores


def parse_frame(where: str, value: Any) -> int:
    """A frame's index: a whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LONGEST_FRAME:
        raise UserError(f"{where}: expected a frame as a whole number, found {_show(value)}")
    return value


def parse_identity(where: str, value: Any) -> str | None:
    """A person's identity: a number or a word; None where there is none, also in a list of one, as AlphaPose writes."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UserError(f"{where}: expected an identity as a number or a word, found {_show(value)}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)[:100]


def index_frames(names: Sequence[str]) -> dict[str, int]:
    """The frames' indices by the names of their images: the last number in each, or their order.

    Numbers count where all names have different ones, without what all distances between them have in common. Where
    most numbers are left out, as in the names of unrelated pictures, only their order counts.
    """
    distinct = list(dict.fromkeys(names))
    found = [re.findall(r"\d{1,12}", Path(name).stem) for name in distinct]
    numbers = [int(digits[-1]) for digits in found if digits]
    if len(set(numbers)) == len(distinct):
        first = min(numbers)
        step = math.gcd(*(number - first for number in numbers)) or 1
        indices = [(number - first) // step for number in numbers]
        if max(indices) < 4 * len(distinct) + 100:
            return dict(zip(distinct, indices, strict=True))
    ordered = sorted(distinct, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d{1,12})", name)])
    return {name: index for index, name in enumerate(ordered)}


def to_float(value: float) -> float:
    """A number of JSON as float64; a whole number beyond its range is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _show(value: Any) -> str:
    """A value of a file in an error: what it is, and its beginning."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {str(value)[:40]!r}" if not isinstance(value, int) else f"int {to_float(value):.6g}"
