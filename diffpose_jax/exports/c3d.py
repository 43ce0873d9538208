"""Marker files of biomechanics (.c3d, https://www.c3d.org) by the library ezc3d: millimetres, z up.

The residual of a point, a marker's error in the systems that made the format, is its standard deviation in whole mm;
the format has room for 127 at most.
"""

from __future__ import annotations

import os

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.exports.opensim import MARKERS


def write_c3d(path: str | os.PathLike, positions: np.ndarray, spread: np.ndarray, frame_time: float) -> None:
    """Writes the markers of one person.

    Args:
        path: The file.
        positions: `[T, 17, 3]` m, z up.
        spread: Standard deviation of each joint, `[T, 17]` m.
        frame_time: Seconds from frame to frame.

    Raises:
        UserError: ezc3d is not installed.
    """
    try:
        import ezc3d
    except ImportError as error:
        raise UserError("poses.c3d: expected the library ezc3d, found none: pip install diffpose_jax[c3d]") from error
    file = ezc3d.c3d()
    point = file["parameters"]["POINT"]
    point["RATE"]["value"] = [1 / frame_time]
    point["UNITS"]["value"] = ["mm"]
    point["LABELS"]["value"] = list(MARKERS)
    points = np.ones((4, len(MARKERS), len(positions)))
    points[:3] = 1000 * np.moveaxis(positions, -1, 0).swapaxes(1, 2)
    file["data"]["points"] = points
    file["data"]["meta_points"]["residuals"] = np.clip(np.round(1000 * spread.T[None]), 0, 127)
    file.write(str(path))
