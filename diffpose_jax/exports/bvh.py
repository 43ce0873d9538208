"""Biovision files (.bvh) of one person for Blender and other animation programs: metres, y up.

The format has no specification of its own; https://research.cs.wisc.edu/graphics/Courses/cs-838-1999/Jeff/BVH.html
describes it: a hierarchy of joints with offsets, then per frame the root's position and the angles of all joints.
"""

from __future__ import annotations

from typing import TextIO

import numpy as np

from diffpose_jax.exports.rig import NODES, Rig, rest_direction

ROTATION_ORDER = "ZXY"
# Where the last bones end, m: a foot points forward, a hand and the head on.
_ENDS = {"Foot": np.array([0.0, 0.0, 0.12]), "Hand": 0.08, "HeadTop_End": 0.02}


def write_bvh(stream: TextIO, rig: Rig, frame_time: float) -> None:
    """Writes a figure: metres, y up, angles in degrees about moving axes in the order z, x, y.

    Args:
        stream: The text file.
        rig: The figure.
        frame_time: Seconds from frame to frame.
    """
    stream.write("HIERARCHY\n")
    order: list[int] = []
    _write_node(stream, rig, 0, order)
    # Angles run on beyond 180 degrees, or programs that interpolate between frames would turn joints the long way
    # round.
    angles = np.degrees(np.unwrap(to_euler_zxy(rig.rotations[:, order]), axis=0)).reshape(len(rig.root), -1)
    stream.write(f"MOTION\nFrames: {len(rig.root)}\nFrame Time: {frame_time:.9g}\n")
    np.savetxt(stream, np.concatenate([rig.root, angles], axis=1), fmt="%.6f")


def _write_node(stream: TextIO, rig: Rig, node: int, order: list[int]) -> None:
    """Writes a node and all below it; adds their indices to `order`, the order of the channels."""
    order.append(node)
    depth, above = 0, rig.parents[node]
    while above >= 0:
        depth, above = depth + 1, rig.parents[above]
    pad = "\t" * depth
    stream.write(f"{pad}{'JOINT' if depth else 'ROOT'} {rig.names[node]}\n{pad}{{\n")
    stream.write(f"{pad}\tOFFSET {_words(rig.offsets[node])}\n")
    rotations = " ".join(f"{axis}rotation" for axis in ROTATION_ORDER)
    stream.write(f"{pad}\tCHANNELS {'3 ' if depth else '6 Xposition Yposition Zposition '}{rotations}\n")
    children = [child for child, parent in enumerate(rig.parents) if parent == node]
    for child in children:
        _write_node(stream, rig, child, order)
    if not children:
        stream.write(f"{pad}\tEnd Site\n{pad}\t{{\n{pad}\t\tOFFSET {_words(_find_end(node))}\n{pad}\t}}\n")
    stream.write(f"{pad}}}\n")


def _find_end(node: int) -> np.ndarray:
    length = next(end for name, end in _ENDS.items() if NODES[node].name.endswith(name))
    return length if isinstance(length, np.ndarray) else length * rest_direction(NODES[node].joint)


def _words(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values + 0.0)


def to_euler_zxy(rotations: np.ndarray) -> np.ndarray:
    """The angles a, b, c (radians, `[..., 3]`) of rotations `[..., 3, 3]` = R_z(a) R_x(b) R_y(c)."""
    # The product has sin b in row 2, column 1; -sin a cos b and cos a cos b above it; -cos b sin c and cos b cos c
    # beside it. Where cos b vanishes only a + c or a - c is known, and c is set to zero.
    entry = rotations[..., 2, 1]
    steep = np.abs(entry) > 1 - 1e-9
    first = np.where(
        steep,
        np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]),
        np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1]),
    )
    third = np.where(steep, 0.0, np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2]))
    return np.stack([first, np.arcsin(np.clip(entry, -1, 1)), third], axis=-1)
