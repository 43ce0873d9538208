"""Reads Acclaim motion capture: an .asf file with the skeleton and .amc files with its motion.

The format (Acclaim Skeleton File Definition 1.10): a bone is a vector from its start to its end, in world axes of the
base pose, and rotates about the axes of its own frame, `axis`. The words of `dof` name the angles that an .amc line
holds, applied in that order about fixed axes. Bone `b` becomes two nodes of a `Recording`: `b` at its start and `b_end`
at its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import Recording, TextFile, compose_hinges

INCH = 0.0254  # metres; a length in the file, divided by its `length` unit, is in inches (CMU: 0.45)
_AXES = {"rx": 0, "ry": 1, "rz": 2}

Line = tuple[int, list[str]]  # the line number and its words


class Bone(NamedTuple):
    """A bone of the base pose."""

    vector: np.ndarray  # [3] metres from start to end, world axes
    frame: np.ndarray  # [3, 3], its columns are the bone's axes
    dof: tuple[str, ...]  # degrees of freedom, such as ('rx', 'rz')


class AcclaimSkeleton(NamedTuple):
    """The contents of an .asf file."""

    bones: dict[str, Bone]
    parents: dict[str, str]  # of every bone; 'root' for those at the top
    root_order: tuple[str, ...]  # the root's six channels in the order of the .amc file
    unit: float  # metres per unit of length
    degrees: bool  # whether angles are in degrees


def read_asf(path: str | os.PathLike) -> AcclaimSkeleton:
    """Reads an Acclaim skeleton (.asf); lengths become metres. Raises UserError with the line of a mistake."""
    source = TextFile(path)
    sections = _split_sections(source)
    length, degrees = _parse_units(sections.get("units", []), source)
    root_order = _parse_root_order(sections.get("root", []), source)
    if "bonedata" not in sections or "hierarchy" not in sections:
        raise UserError(
            f"{path}: expected the sections :bonedata and :hierarchy, found {', '.join(sections) or 'none'}"
        )
    bones = dict(_parse_bones(sections["bonedata"], INCH / length, degrees, source))
    parents: dict[str, str] = {}
    for number, words in sections["hierarchy"]:
        if words[0] in ("begin", "end"):
            continue
        for word in words:
            if word != "root" and word not in bones:
                raise source.make_error(number, "a bone of :bonedata", word)
        for child in words[1:]:
            if child in parents or child == "root":
                raise source.make_error(number, "a bone with one parent", child)
            parents[child] = words[0]
    for name in bones:
        _check_reaches_root(name, parents, path)
    return AcclaimSkeleton(bones, parents, root_order, INCH / length, degrees)


def read_amc(path: str | os.PathLike, skeleton: AcclaimSkeleton, fps: float = 120.0) -> Recording:
    """Reads an Acclaim motion (.amc) of a skeleton. Raises UserError with the line of a mistake.

    `fps` is the frame rate in Hz, which the format does not hold; CMU's is 120.
    """
    source = TextFile(path)
    channels = {"root": skeleton.root_order} | {name: bone.dof for name, bone in skeleton.bones.items() if bone.dof}
    degrees = skeleton.degrees
    frames: list[dict[str, list[float]]] = []
    frame: dict[str, list[float]] = {}
    number = 0
    for number, words in source.split_lines():
        if words[0].startswith(":"):
            degrees = {":degrees": True, ":radians": False}.get(words[0].lower(), degrees)
        elif len(words) == 1 and words[0].isdigit():
            _check_complete(frames, channels, number, source)
            frame = {}
            frames.append(frame)
        elif not frames:
            raise source.make_error(number, "a frame number", " ".join(words))
        elif words[0] not in channels:
            raise source.make_error(number, "a bone of the .asf with degrees of freedom", words[0])
        elif words[0] in frame:
            raise source.make_error(number, "every bone once per frame", f"{words[0]} again")
        else:
            frame[words[0]] = source.parse_numbers(number, words[1:], len(channels[words[0]]), words[0])
    _check_complete(frames, channels, number, source)
    if not frames:
        raise UserError(f"{path}: expected frames of motion, found none")
    values = {name: np.array([frame[name] for frame in frames]) for name in channels}
    return _build_recording(skeleton, values, np.pi / 180 if degrees else 1.0, 1.0 / fps)


def _build_recording(
    skeleton: AcclaimSkeleton, values: dict[str, np.ndarray], angle: float, frame_time: float
) -> Recording:
    # A bone rotates by C M C^T relative to its parent, where the columns of C are its frame and M is the product of the
    # rotations that `dof` lists, about fixed axes: the first is applied first and stands rightmost. Since C R(e, a) C^T
    # = R(C e, a), the hinges are the columns of C in reversed order of `dof`.
    bones = skeleton.bones
    names = ["root", *_list_parents_first(skeleton.parents)]
    index = {name: node for node, name in enumerate(names)}
    frames = len(values["root"])
    parents, offsets = [-1], [np.zeros(3)]
    axes, angles = np.zeros((2 * len(names) - 1, 3, 3)), np.zeros((frames, 2 * len(names) - 1, 3))
    for name in names[1:]:
        parent = skeleton.parents[name]
        parents.append(index[parent])
        offsets.append(bones[parent].vector if parent in bones else np.zeros(3))
    for name, node in index.items():
        order = bones[name].dof if name in bones else skeleton.root_order
        frame = bones[name].frame if name in bones else np.eye(3)
        hinges = [(column, word) for column, word in enumerate(order) if word in _AXES]
        for slot, (column, word) in enumerate(reversed(hinges)):
            axes[node, slot] = frame[:, _AXES[word]]
            angles[:, node, slot] = values[name][:, column] * angle
    columns = [skeleton.root_order.index(word) for word in ("tx", "ty", "tz")]
    return Recording(
        names=(*names, *(f"{name}_end" for name in names[1:])),
        parents=(*parents, *(index[name] for name in names[1:])),
        offsets=np.array(offsets + [bones[name].vector for name in names[1:]]),
        axes=axes,
        angles=angles,
        translation=values["root"][:, columns] * skeleton.unit,
        frame_time=frame_time,
    )


def _list_parents_first(parents: dict[str, str]) -> Iterator[str]:
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    waiting = list(reversed(children.get("root", [])))
    while waiting:
        name = waiting.pop()
        yield name
        waiting.extend(reversed(children.get(name, [])))


def _split_sections(source: TextFile) -> dict[str, list[Line]]:
    sections: dict[str, list[Line]] = {}
    lines: list[Line] | None = None
    for number, words in source.split_lines():
        if words[0].startswith(":"):
            lines = sections.setdefault(words[0][1:].lower(), [])
        elif lines is None:
            raise source.make_error(number, "a keyword such as :version (an Acclaim .asf file)", words[0])
        else:
            lines.append((number, words))
    return sections


def _parse_units(lines: list[Line], source: TextFile) -> tuple[float, bool]:
    length, degrees = 1.0, True
    for number, words in lines:
        if words[0] == "length":
            (length,) = source.parse_numbers(number, words[1:], 1, "length")
            if length <= 0:
                raise source.make_error(number, "a positive length unit", words[1])
        elif words[0] == "angle":
            if len(words) != 2 or words[1].lower() not in ("deg", "rad"):
                raise source.make_error(number, "angle deg or angle rad", " ".join(words))
            degrees = words[1].lower() == "deg"
    return length, degrees


def _parse_root_order(lines: list[Line], source: TextFile) -> tuple[str, ...]:
    order: tuple[str, ...] = ("tx", "ty", "tz", "rx", "ry", "rz")
    for number, words in lines:
        if words[0] == "order":
            order = tuple(word.lower() for word in words[1:])
            if sorted(order) != ["rx", "ry", "rz", "tx", "ty", "tz"]:
                raise source.make_error(number, "TX TY TZ RX RY RZ in any order", " ".join(words[1:]))
        elif words[0] == "orientation" and any(source.parse_numbers(number, words[1:], 3, "orientation")):
            raise source.make_error(number, "a root orientation of 0 0 0", " ".join(words[1:]))
    return order


def _parse_bones(lines: list[Line], unit: float, degrees: bool, source: TextFile) -> Iterator[tuple[str, Bone]]:
    fields: dict[str, Line] = {}
    seen: set[str] = set()
    for number, words in lines:
        if words[0] == "begin":
            fields = {}
        elif words[0] == "end":
            missing = [
                field for field in ("name", "direction", "length") if field not in fields or not fields[field][1]
            ]
            if missing:
                raise source.make_error(number, "a bone with name, direction and length", f"no {missing[0]}")
            name = fields["name"][1][0]
            if name in seen or name == "root":
                raise source.make_error(fields["name"][0], "bones of different names", name)
            seen.add(name)
            yield name, _parse_bone(name, fields, unit, degrees, source)
        elif words[0][0].isalpha():
            fields[words[0].lower()] = (number, words[1:])


def _parse_bone(name: str, fields: dict[str, Line], unit: float, degrees: bool, source: TextFile) -> Bone:
    number, words = fields["direction"]
    direction = np.array(source.parse_numbers(number, words, 3, f"direction of {name}"))
    (length,) = source.parse_numbers(*fields["length"], 1, f"length of {name}")
    norm = np.linalg.norm(direction)
    if norm == 0 and length != 0:
        raise source.make_error(number, f"a direction of {name} that is not zero", "0 0 0")
    number, words = fields.get("dof", (0, []))
    dof = tuple(word.lower() for word in words)
    if not set(dof) <= set(_AXES) or len(set(dof)) != len(dof):
        raise source.make_error(number, f"dof of {name} among rx ry rz", " ".join(dof))
    number, axis = fields.get("axis", (0, ["0", "0", "0"]))
    angles = np.array(source.parse_numbers(number, axis[:3], 3, f"axis of {name}"))
    order = axis[3].lower() if len(axis) > 3 else "xyz"
    if sorted(order) != ["x", "y", "z"]:
        raise source.make_error(number, f"an axis order of {name} such as XYZ", axis[3])
    # Rotations about fixed axes, the first letter's applied first: it stands rightmost in the product. The three angles
    # always stand in the order x, y, z.
    slots = ["xyz".index(letter) for letter in reversed(order)]
    frame = compose_hinges(np.eye(3)[slots], angles[slots] * (np.pi / 180 if degrees else 1.0))
    return Bone(direction / max(norm, 1e-12) * length * unit, frame, dof)


def _check_complete(frames: list[dict], channels: dict[str, tuple[str, ...]], number: int, source: TextFile) -> None:
    if frames and (missing := [name for name in channels if name not in frames[-1]]):
        raise source.make_error(number, f"a line for every bone in frame {len(frames)}", f"none for {missing[0]}")


def _check_reaches_root(name: str, parents: dict[str, str], path: str | os.PathLike) -> None:
    node, visited = name, set()
    while node != "root":
        if node in visited or node not in parents:
            raise UserError(f"{Path(path)}: expected a hierarchy that ties every bone to the root, found {name} apart")
        visited.add(node)
        node = parents[node]
