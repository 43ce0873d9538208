"""JSON files of lists of frames, written frame by frame, so that no more than one frame stands in memory as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import numpy as np

# Numbers of a JSON file of about 30 MB; a larger one is only written where it is asked for.
MAX_JSON_VALUES = 4_000_000


def write_frame_lists(
    stream: TextIO,
    header: Mapping[str, Any],
    name: str,
    lists: Iterable[tuple[Mapping[str, Any], Iterable[Mapping[str, Any]]]],
) -> None:
    """Writes a JSON object, in which each of several things has a list of frames, one frame a line.

    Args:
        stream: Where to.
        header: What stands before the lists, not empty.
        name: The key of the things, such as 'people'.
        lists: What is said of each thing, not empty, and its frames, which are read once, in order.
    """
    stream.write(f'{_open(header)},\n"{name}": [')
    for number, (about, frames) in enumerate(lists):
        stream.write((",\n" if number else "\n") + _open(about) + ', "frames": [')
        for index, frame in enumerate(frames):
            stream.write(",\n" if index else "\n")
            json.dump(frame, stream, separators=(",", ":"))
        stream.write("\n]}")
    stream.write("\n]}\n")


def _open(content: Mapping[str, Any]) -> str:
    """The JSON text of an object without its closing brace."""
    return json.dumps(content, default=str)[:-1]


def round_numbers(values: np.ndarray, decimals: int) -> Any:
    """Nested lists of rounded numbers; None in place of what is not finite, which JSON has no number for."""
    rounded = np.round(np.asarray(values, np.float64), decimals)
    if np.isfinite(rounded).all():
        return rounded.tolist()
    return [round_numbers(part, decimals) for part in rounded] if rounded.ndim else None
