"""Lifting all frames of a set in order, block by block: memory is that of a block, however many frames there are.

What a frame gets depends neither on the size of the blocks nor on the other frames of its block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Windows, centred_windows, device_clips, end_aligned_windows, overlapping_windows
from diffpose_jax.evaluation.jobs import Job, frames_of, lift_windows
from diffpose_jax.evaluation.overlapping import (
    add_windows,
    ask_for_blending,
    average_windows,
    blends_windows,
    weigh_windows,
)
from diffpose_jax.evaluation.window_cameras import window_cameras
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.progress import Progress

# Bytes of the hypotheses of a block.
BLOCK_BYTES = 64 << 20

_Arrays = Mapping[str, np.ndarray]


class FrameBlock(NamedTuple):
    """Consecutive frames of a set, and `{output: [n, ...]}` of them."""

    frames: slice
    outputs: dict[str, np.ndarray]


def count_block_frames(hypotheses: int, joints: int) -> int:
    """The frames of a block whose hypotheses `[n, H, J, 3]` take `BLOCK_BYTES`, at least one."""
    return max(1, BLOCK_BYTES // (hypotheses * joints * 3 * 4))


def lift_blocks(
    label: str, lifter: Lifter, variables: Variables, clips: ClipSet, job: Job, size: int
) -> Iterator[FrameBlock]:
    """Lifts all frames of a set; sequences are blended where their windows overlap (`overlapping`), if the job allows.

    Args:
        label: What the progress bar is called.
        lifter: The method.
        variables: Its variables.
        clips: The set.
        job: How they are lifted; for methods of sequences its outputs are 'all' and names of `AGGREGATES`.
        size: Frames of each block but the last.

    Yields:
        Blocks of `size` frames in order, root-relative metres.
    """
    blended = blends_windows(lifter, job)
    windows = _windows_in_order(lifter, clips, blended)
    asked = ask_for_blending(job) if blended else job
    chunks = lift_windows(lifter, variables, device_clips(clips), windows, asked, window_cameras(clips, windows))
    rows = _Rows(clips.num_frames, size, add_windows if blended else _keep_last)
    with Progress(label, clips.num_frames, "frames") as progress:
        for ids, arrays in chunks:
            rows.add(*frames_of(windows.take(ids), lifter), weigh_windows(arrays) if blended else arrays)
            whole = _first_frame(windows, int(ids[-1]) + 1, lifter, clips.num_frames)
            progress.update(whole)
            for frames, found in rows.pop(whole):
                yield FrameBlock(frames, average_windows(found, job.outputs) if blended else found)


def _windows_in_order(lifter: Lifter, clips: ClipSet, blended: bool) -> Windows:
    if lifter.middle_frame:
        windows = centred_windows(clips, lifter.frames)
    else:
        windows = (overlapping_windows if blended else end_aligned_windows)(clips, lifter.frames)
    return windows.take(np.arange(len(windows.start)))


def _first_frame(windows: Windows, window: int, lifter: Lifter, frames: int) -> int:
    """The first frame that a window lifts: those before it are whole once the windows before it are done."""
    if window >= len(windows.start):
        return frames
    indices, inside = frames_of(windows.take(np.array([window])), lifter)
    return int(indices[inside].min())


def _keep_last(rows: _Arrays, places: np.ndarray, inside: np.ndarray, arrays: _Arrays) -> None:
    """Of a frame in several windows the last one's outputs are kept."""
    for name, array in arrays.items():
        rows[name][places[inside]] = array[inside]


class _Rows:
    """Rows of the frames under way, from the first one that was not given away to the last one lifted so far.

    Args:
        total: Frames of the set.
        size: Frames of a block.
        put: How outputs of windows come into the rows.
    """

    def __init__(self, total: int, size: int, put: Callable[[_Arrays, np.ndarray, np.ndarray, _Arrays], None]):
        self._total, self._size, self._put = total, size, put
        self._first = self._length = 0
        self._arrays: dict[str, np.ndarray] = {}

    def add(self, indices: np.ndarray, inside: np.ndarray, arrays: _Arrays) -> None:
        """Puts in the outputs `{name: [B, F, ...]}` of the frames `indices [B, F]`, of those that lie in their clip."""
        self._reserve(int(indices.max()) + 1 - self._first, arrays)
        self._put(self._arrays, indices - self._first, inside, arrays)

    def pop(self, whole: int) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Gives away whole blocks of the frames before `whole`, and all that is left at the end of the set."""
        while whole - self._first >= self._size or (whole == self._total and self._first < whole):
            count = min(self._size, whole - self._first)
            found = {name: array[:count] for name, array in self._arrays.items()}
            self._arrays = {name: array[count:] for name, array in self._arrays.items()}
            frames = slice(self._first, self._first + count)
            self._first, self._length = frames.stop, self._length - count
            yield frames, found

    def _reserve(self, count: int, arrays: _Arrays) -> None:
        if count <= self._length:
            return
        # At once as many rows as a block has, so that each is copied at most once.
        length = min(max(count, self._size), self._total - self._first)
        for name, array in arrays.items():
            grown = np.zeros((length, *array.shape[2:]), array.dtype)
            grown[: self._length] = self._arrays.get(name, grown[:0])
            self._arrays[name] = grown
        self._length = length
