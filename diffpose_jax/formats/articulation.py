"""Articulated figures as ASF/AMC and BVH files hold them: a tree of rigid bones, and joint angles of every frame."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax import geometry, quaternions
from diffpose_jax.errors import UserError


class Recording(NamedTuple):
    """A motion of an articulated figure with K nodes in T frames, in the axes of its file.

    The local rotation of a node is the product, left to right, of the rotations about its up to three hinges.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the root; parents come first
    offsets: np.ndarray  # [K, 3] metres from the parent, in the parent's axes
    axes: np.ndarray  # [K, 3, 3] unit rows, the axes of the hinges; zero where there is no hinge
    angles: np.ndarray  # [T, K, 3] radians about the hinges
    translation: np.ndarray  # [T, 3] metres, of the root
    frame_time: float  # seconds

    def rest_positions(self) -> np.ndarray:
        """The positions `[K, 3]` (m) of the nodes when all angles are zero and the root is at the origin."""
        positions = np.zeros_like(self.offsets)
        for node, parent in enumerate(self.parents):
            positions[node] = self.offsets[node] + (positions[parent] if parent >= 0 else 0)
        return positions


class TextFile:
    """The lines of a text file, with errors that name file and line."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: expected a motion capture file, found no such file")
        try:
            self.lines = self.path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error

    def split_lines(self, blank: str = ",()") -> Iterator[tuple[int, list[str]]]:
        """The numbered lines as words, without `#` comments and empty lines; `blank` characters count as spaces."""
        spaces = str.maketrans(dict.fromkeys(blank, " "))
        for number, line in enumerate(self.lines, start=1):
            if words := line.partition("#")[0].translate(spaces).split():
                yield number, words

    def make_error(self, number: int, expected: str, found: str) -> UserError:
        """An error about line `number`, to be raised."""
        return UserError(f"{self.path}: line {number}: expected {expected}, found {found[:60] or 'nothing'}")

    def parse_numbers(self, number: int, words: Sequence[str], count: int, what: str) -> list[float]:
        """Parses exactly `count` finite numbers.

        Args:
            number: The line they stand in.
            words: The words to parse.
            count: How many there must be.
            what: What the numbers are, for the error.

        Raises:
            UserError: There are more or fewer words, or one is not a finite number.
        """
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count or not np.isfinite(values).all():
            raise self.make_error(number, f"{count} finite numbers for {what}", " ".join(words))
        return values


def compose_hinges(axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The product, left to right, `[..., 3, 3]` of rotations about axes `[..., 3, 3]` (rows) by angles `[..., 3]`."""
    axes, angles = np.asarray(axes, np.float32), np.asarray(angles, np.float32)
    return np.asarray(quaternions.to_matrix(_compose_hinges(axes, angles)))


def _compose_hinges(axes: geometry.Array, angles: geometry.Array) -> jax.Array:
    rotations = quaternions.from_axis_angle(axes * angles[..., None])
    return functools.reduce(quaternions.multiply, [rotations[..., hinge, :] for hinge in range(3)])


@functools.partial(jax.jit, static_argnames="parents")
def _pose(
    axes: jax.Array, offsets: jax.Array, before: jax.Array, after: jax.Array, share: jax.Array, parents: tuple[int, ...]
) -> jax.Array:
    axes, offsets = (jnp.broadcast_to(x, (len(share), *x.shape)) for x in (axes, offsets))
    shares = jnp.broadcast_to(share[:, None], before.shape[:2])
    local = quaternions.slerp(_compose_hinges(axes, before), _compose_hinges(axes, after), shares)
    return geometry.forward_kinematics(quaternions.to_matrix(local), offsets, parents)[0]


def node_positions(recording: Recording, fps: float | None = None) -> np.ndarray:
    """Poses the figure: the position `[T', K, 3]` (metres, the file's axes, float32) of every node.

    With `fps`, the motion is resampled to that rate: local rotations are interpolated on the sphere before the figure
    is posed, and the root's translation linearly. Interpolated positions would shorten the bones.
    """
    frames = len(recording.angles)
    rate = 1.0 / recording.frame_time
    count = frames if fps is None else int(np.floor((frames - 1) / rate * fps + 1e-6)) + 1
    times = np.arange(count) * (1.0 if fps is None else rate / fps)  # in frames of the recording
    low = np.minimum(times.astype(int), frames - 1)
    high = np.minimum(low + 1, frames - 1)
    share = times - low
    # Padding up to a power of two keeps the number of compiled shapes small in a folder of clips.
    pad = np.minimum(np.arange(max(256, 1 << (count - 1).bit_length())), count - 1)
    angles = np.asarray(recording.angles, np.float32)
    posed = _pose(
        np.asarray(recording.axes, np.float32),
        np.asarray(recording.offsets, np.float32),
        angles[low[pad]],
        angles[high[pad]],
        np.asarray(share, np.float32)[pad],
        recording.parents,
    )
    after = share[:, None]
    translation = recording.translation[low] * (1 - after) + recording.translation[high] * after
    return (np.asarray(posed)[:count] + translation[:, None]).astype(np.float32)
