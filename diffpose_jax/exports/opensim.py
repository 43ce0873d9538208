"""Marker files (.trc) and motion files (.mot) of one person for OpenSim, Pose2Sim and Sports2D.

Written from https://opensimconfluence.atlassian.net/wiki/spaces/OpenSim/pages/53089972 (Marker Files) and
https://opensimconfluence.atlassian.net/wiki/spaces/OpenSim/pages/53089996 (Storage Files).
"""

from __future__ import annotations

from typing import TextIO

import numpy as np

from diffpose_jax.exports.angles import ANGLES

# Marker names as Pose2Sim and Sports2D have them, in the order of Human3.6M's 17 joints.
MARKERS = (
    *("Hip", "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Spine", "Neck", "Nose", "Head"),
    *("LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist"),
)


def write_trc(stream: TextIO, name: str, positions: np.ndarray, times: np.ndarray, frame_time: float) -> None:
    """Writes markers: metres, y up.

    Args:
        stream: The text file.
        name: The file's name, which its first line repeats.
        positions: `[T, 17, 3]` m, y up.
        times: `[T]` seconds.
        frame_time: Seconds from frame to frame.
    """
    count, rate = len(times), 1 / frame_time
    stream.write(f"PathFileType\t4\t(X/Y/Z)\t{name}\n")
    stream.write(
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames\n"
    )
    stream.write(f"{rate:.6g}\t{rate:.6g}\t{count}\t{len(MARKERS)}\tm\t{rate:.6g}\t1\t{count}\n")
    stream.write("Frame#\tTime\t" + "\t\t\t".join(MARKERS) + "\t\t\n")
    stream.write("\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(MARKERS) + 1)) + "\n\n")
    rows = np.column_stack([np.arange(1, count + 1), times, positions.reshape(count, -1)])
    np.savetxt(stream, rows, fmt=["%d"] + ["%.6f"] * (rows.shape[1] - 1), delimiter="\t")


def write_mot(stream: TextIO, times: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    """Writes joint angles in degrees, each with its standard deviation in the column beside it.

    Args:
        stream: The text file.
        times: `[T]` seconds.
        mean: `[T, A]` degrees, in the order of `ANGLES`.
        std: `[T, A]` degrees.
    """
    columns = ["time", *(column for name in ANGLES for column in (name, f"{name}_std"))]
    stream.write(f"angles\nversion=1\nnRows={len(times)}\nnColumns={len(columns)}\ninDegrees=yes\nendheader\n")
    stream.write("\t".join(columns) + "\n")
    values = np.stack([mean, std], axis=-1).reshape(len(times), -1)
    np.savetxt(stream, np.column_stack([times, values]), fmt="%.6f", delimiter="\t")
