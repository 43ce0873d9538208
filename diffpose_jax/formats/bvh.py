"""Reads Biovision motion capture (.bvh): any hierarchy, joint names, channel order and frame rate."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import Recording, TextFile

_AXES = {"xrotation": 0, "yrotation": 1, "zrotation": 2}
_POSITIONS = {"xposition": 0, "yposition": 1, "zposition": 2}


class _Hierarchy(NamedTuple):
    names: list[str]
    parents: list[int]
    offsets: list[list[float] | None]
    channels: list[tuple[int, str]]  # node and channel, in the order of the columns


def read_bvh(path: str | os.PathLike, unit: float) -> Recording:
    """Reads a BVH file whose unit of length is `unit` metres; an End Site of joint `X` is called `X_end`.

    Bones are rigid: only the root's position channels are used, other joints keep their OFFSET. Raises UserError with
    the line of a mistake.
    """
    source = TextFile(path)
    lines = list(source.split_lines(blank=""))
    if not lines or lines[0][1][0].upper() != "HIERARCHY":
        raise source.make_error(
            lines[0][0] if lines else 1, "HIERARCHY (a .bvh file)", " ".join(lines[0][1] if lines else [])
        )
    hierarchy, position = _parse_hierarchy(lines, source)
    frame_time, values = _parse_motion(lines[position:], len(hierarchy.channels), source)
    return _build_recording(hierarchy, frame_time, values, unit)


def _parse_hierarchy(lines: list[tuple[int, list[str]]], source: TextFile) -> tuple[_Hierarchy, int]:
    """Parses up to the line MOTION; returns the position after it."""
    tree = _Hierarchy([], [], [], [])
    open_nodes: list[int] = []
    named: int | None = None
    for position, (number, words) in enumerate(lines[1:], start=1):
        word = words[0].upper()
        if word == "MOTION":
            if open_nodes or not tree.names:
                raise source.make_error(number, "as many } as {" if open_nodes else "a ROOT before MOTION", "MOTION")
            return tree, position + 1
        if named is not None and word != "{":
            raise source.make_error(number, f"{{ after {tree.names[named]}", " ".join(words))
        if word in ("ROOT", "JOINT", "END"):
            named = _add_node(tree, word, words, open_nodes, number, source)
        elif word == "{" and named is not None:
            open_nodes.append(named)
            named = None
        elif word == "}" and open_nodes:
            if tree.offsets[open_nodes[-1]] is None:
                raise source.make_error(number, f"an OFFSET of {tree.names[open_nodes[-1]]}", "}")
            open_nodes.pop()
        elif word == "OFFSET" and open_nodes:
            tree.offsets[open_nodes[-1]] = source.parse_numbers(number, words[1:], 3, "OFFSET")
        elif word == "CHANNELS" and open_nodes:
            _add_channels(tree, open_nodes[-1], words, number, source)
        else:
            raise source.make_error(
                number, "ROOT, JOINT, End Site, OFFSET, CHANNELS, braces or MOTION", " ".join(words)
            )
    raise source.make_error(lines[-1][0], "MOTION after the hierarchy", "the end of the file")


def _add_node(
    tree: _Hierarchy, word: str, words: list[str], open_nodes: list[int], number: int, source: TextFile
) -> int:
    if (word == "ROOT") != (not tree.names) or (word != "ROOT" and not open_nodes):
        raise source.make_error(number, "one ROOT, and everything else inside it", " ".join(words))
    name = f"{tree.names[open_nodes[-1]]}_end" if word == "END" else " ".join(words[1:])
    if not name or name in tree.names:
        raise source.make_error(number, "joints of different names", name)
    tree.names.append(name)
    tree.parents.append(open_nodes[-1] if open_nodes else -1)
    tree.offsets.append(None)
    return len(tree.names) - 1


def _add_channels(tree: _Hierarchy, node: int, words: list[str], number: int, source: TextFile) -> None:
    channels = [word.lower() for word in words[2:]]
    known = all(channel in _AXES or channel in _POSITIONS for channel in channels)
    if not known or len(set(channels)) != len(channels) or words[1:2] != [str(len(channels))]:
        raise source.make_error(
            number, "CHANNELS, their count and names such as Xposition or Zrotation", " ".join(words)
        )
    if any(owner == node for owner, _ in tree.channels):
        raise source.make_error(number, f"the CHANNELS of {tree.names[node]} once", " ".join(words))
    tree.channels.extend((node, channel) for channel in channels)


def _parse_motion(lines: list[tuple[int, list[str]]], columns: int, source: TextFile) -> tuple[float, np.ndarray]:
    """The frame time and the table `[T, columns]`."""
    last = lines[-1][0] if lines else len(source.lines)
    header = [(number, " ".join(words)) for number, words in lines[:2]]
    if len(header) < 2 or not header[0][1].lower().startswith("frames:"):
        raise source.make_error(last, "Frames: and Frame Time: after MOTION", header[0][1] if header else "")
    (count,) = source.parse_numbers(header[0][0], header[0][1].split(":")[1].split(), 1, "Frames")
    if not header[1][1].lower().startswith("frame time:"):
        raise source.make_error(header[1][0], "Frame Time: in seconds", header[1][1])
    (frame_time,) = source.parse_numbers(header[1][0], header[1][1].split(":")[1].split(), 1, "Frame Time")
    if not 1e-5 <= frame_time <= 10:  # slower motion than this would be interpolated to any number of frames
        raise source.make_error(header[1][0], "a Frame Time of 0.00001 to 10 seconds", header[1][1])
    rows = lines[2:]
    if len(rows) != count or count < 1:
        raise UserError(f"{source.path}: expected {count:g} frames of motion as its header says, found {len(rows)}")
    for number, words in rows:
        if len(words) != columns:
            raise source.make_error(number, f"{columns} values, one per channel", f"{len(words)}")
    try:
        values = np.array([words for _, words in rows], dtype=np.float64)
    except ValueError:
        values = np.full((len(rows), columns), np.nan)
    if not np.isfinite(values).all():
        for number, words in rows:
            source.parse_numbers(number, words, columns, "the channels")
    return frame_time, values.reshape(len(rows), columns)


def _build_recording(tree: _Hierarchy, frame_time: float, values: np.ndarray, unit: float) -> Recording:
    # A joint rotates about its own moving axes in the order of its CHANNELS: with Zrotation Yrotation Xrotation its
    # rotation is R_z R_y R_x, so that the hinges stand in the order of the columns. The root's OFFSET is added to its
    # position channels.
    nodes = len(tree.names)
    offsets = np.array(tree.offsets, dtype=np.float64) * unit
    axes, angles = np.zeros((nodes, 3, 3)), np.zeros((len(values), nodes, 3))
    translation = np.broadcast_to(offsets[0], (len(values), 3)).copy()
    used = [0] * nodes
    for column, (node, channel) in enumerate(tree.channels):
        if channel in _AXES:
            axes[node, used[node], _AXES[channel]] = 1
            angles[:, node, used[node]] = np.deg2rad(values[:, column])
            used[node] += 1
        elif node == 0:
            translation[:, _POSITIONS[channel]] += values[:, column] * unit
    offsets[0] = 0
    return Recording(tuple(tree.names), tuple(tree.parents), offsets, axes, angles, translation, frame_time)
