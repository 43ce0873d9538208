"""What ASF/AMC and BVH files have in common: a tree of rigid bones with hinges, and the joint angles of every frame."""

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
    """A motion of an articulated figure, in the axes of its file.

    names and parents (-1 for the root, parents first) of K nodes; offsets `[K, 3]` metres from the parent, in the
    parent's axes; the local rotation of a node is the product over its (up to) three hinges, left to right, of the
    rotation about axes `[K, 3, 3]` (unit rows; zero: no hinge) by angles `[T, K, 3]` radians; translation `[T, 3]` of
    the root in metres; frame_time in seconds.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    axes: np.ndarray
    angles: np.ndarray
    translation: np.ndarray
    frame_time: float

    def rest(self) -> dict[str, np.ndarray]:
        """The position `[3]` of every node when all angles are zero and the root is at the origin."""
        positions = np.zeros_like(self.offsets)
        for node, parent in enumerate(self.parents):
            positions[node] = self.offsets[node] + (positions[parent] if parent >= 0 else 0)
        return dict(zip(self.names, positions, strict=True))


class Source:
    """A text file being read: it words the errors, with file and line."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: expected a motion capture file, found no such file")
        try:
            self.lines = self.path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error

    def error(self, number: int, expected: str, found: str) -> UserError:
        """The error of line `number`, for raising."""
        return UserError(f"{self.path}: line {number}: expected {expected}, found {found[:60] or 'nothing'}")

    def numbers(self, number: int, words: Sequence[str], count: int, what: str) -> list[float]:
        """`words` as exactly `count` finite numbers."""
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count or not np.isfinite(values).all():
            raise self.error(number, f"{count} finite numbers for {what}", " ".join(words))
        return values


def read_lines(source: Source, comment: str = "#", blank: str = ",()") -> Iterator[tuple[int, list[str]]]:
    """The numbered lines of a file as words, without comments and empty lines; `blank` characters count as spaces."""
    spaces = str.maketrans(dict.fromkeys(blank, " "))
    for number, line in enumerate(source.lines, start=1):
        if words := line.partition(comment)[0].translate(spaces).split():
            yield number, words


def axis_rotations(axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The product, left to right, `[..., 3, 3]` of turns about axes `[..., 3, 3]` (rows) by angles `[..., 3]`."""
    return np.asarray(quaternions.to_matrix(_hinges(np.float32(axes), np.float32(angles))))


def _hinges(axes: jax.Array, angles: jax.Array) -> jax.Array:
    turns = quaternions.from_axis_angle(axes * angles[..., None])
    return functools.reduce(quaternions.multiply, [turns[..., hinge, :] for hinge in range(3)])


@functools.partial(jax.jit, static_argnames="parents")
def _positions(
    axes: jax.Array, offsets: jax.Array, before: jax.Array, after: jax.Array, share: jax.Array, parents: tuple[int, ...]
) -> jax.Array:
    axes, offsets = (jnp.broadcast_to(x, (len(share), *x.shape)) for x in (axes, offsets))
    shares = jnp.broadcast_to(share[:, None], before.shape[:2])
    local = quaternions.slerp(_hinges(axes, before), _hinges(axes, after), shares)
    return geometry.forward_kinematics(quaternions.to_matrix(local), offsets, parents)[0]


def node_positions(recording: Recording, fps: float | None = None) -> np.ndarray:
    """Poses the figure: the position `[T', K, 3]` (metres, the file's axes, float32) of every node.

    With `fps`, local rotations are interpolated on the sphere to that rate before the figure is posed, so that no bone
    shrinks; the root's translation is interpolated linearly.
    """
    frames = len(recording.angles)
    rate = 1.0 / recording.frame_time
    count = frames if fps is None else int(np.floor((frames - 1) / rate * fps + 1e-6)) + 1
    times = np.arange(count) * (1.0 if fps is None else rate / fps)
    low = np.minimum(times.astype(int), frames - 1)
    high = np.minimum(low + 1, frames - 1)
    share = times - low
    # Padding up to a power of two keeps the number of compiled shapes small in a folder of clips.
    pad = np.minimum(np.arange(max(256, 1 << (count - 1).bit_length())), count - 1)
    posed = _positions(
        np.float32(recording.axes),
        np.float32(recording.offsets),
        np.float32(recording.angles)[low[pad]],
        np.float32(recording.angles)[high[pad]],
        np.float32(share)[pad],
        recording.parents,
    )
    steps = share[:, None]
    translation = recording.translation[low] * (1 - steps) + recording.translation[high] * steps
    return (np.asarray(posed)[:count] + translation[:, None]).astype(np.float32)
