"""Windows/s of the on-device window gather over many frames, beside a plain numpy generator of the same windows.

Both sides shuffle, pad and mirror. What numpy copies: each window into a buffer, the buffer once per batch. What the
device copies: the gathered windows once, and once more where half of them are mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from random_data import random_clips
from timing import Report, Row, counts_cpu_time, interleaved, timed, turn_clocks

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.shuffling import permute_index
from diffpose_jax.data.windows import Windows, centred_windows, device_clips, gather
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.training.step import Examples, examples_of_steps, flip_half


def benchmark_gather(clip_count: int, batches: dict[int, int], repeats: int, report: Report) -> None:
    """Windows/s on the device (shuffled order, edge padding, flips) beside the numpy generator, in turns.

    Args:
        clip_count: Clips of 2500 frames.
        batches: Windows per batch for every length of a window.
        repeats: Turns.
        report: Called with every figure.
    """
    config = config_for("modulated_gcn")
    config.lifter.update(width=32)
    lifter = build_lifter(config)
    clips = random_clips(clip_count)
    resident = device_clips(clips)
    for frames, batch in batches.items():
        windows = centred_windows(clips, frames)
        for flip in (True, False):
            compiled, compiling, device = _device_batches(resident, windows, batch, frames, lifter if flip else None)
            host = numpy_batches(clips, windows, batch, frames, np.random.default_rng(0), flip)
            # Many calls a turn: one takes about a millisecond.
            calls = {"numpy": partial(next, host), "device": lambda c=compiled, d=device: c(*next(d))}
            seconds = interleaved(calls, repeats, 20 if repeats > 2 else 2)
            counted = {name: part[..., int(counts_cpu_time())] for name, part in seconds.items()}
            ratio = np.median(counted["numpy"], axis=1) / np.median(counted["device"], axis=1)
            what = f"{clips.num_frames:,} frames, F = {frames}, batch {batch}, {'half flipped' if flip else 'no flips'}"
            report(Row("gather", f"{what}, numpy", "windows", batch, **turn_clocks(seconds["numpy"])))
            row = Row("gather", f"{what}, on the device", "windows", batch, **turn_clocks(seconds["device"]))
            report(row._replace(compile_seconds=compiling, ratio=ratio.tolist()))


def _device_batches(
    clips: Any, windows: Windows, batch: int, frames: int, flipping: Lifter | None
) -> tuple[Callable, float, Iterator[tuple]]:
    """What the training step does to get a batch, compiled; its compile time; and its arguments, call by call."""
    count = len(windows.start)

    @jax.jit
    def make(clips: Any, windows: Windows, examples: Examples) -> tuple[jax.Array, jax.Array]:
        ids = permute_index(examples.position, examples.epoch, count, 0)
        found = gather(clips, windows, ids, frames)._replace(index=examples.index)
        found = flip_half(jax.random.key(1), found, flipping) if flipping else found
        return found.keypoints, found.poses

    def arguments() -> Iterator[tuple]:
        call = 0
        while True:
            examples = examples_of_steps(call, 1, batch, count)
            yield clips, windows, Examples(*(part[0] for part in examples))
            call += 1

    compiled, compiling = timed(make.lower(*next(arguments())).compile)
    return compiled, compiling, arguments()


def numpy_batches(
    clips: ClipSet, windows: Windows, batch: int, frames: int, rng: np.random.Generator, flip: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of windows as VideoPose3D's generator makes them: keypoints `[B, F, J, 2]`, poses `[B, F, J, 3]`.

    Buffers are allocated once; each window is sliced from its clip, padded with its edges where it leaves it, and
    mirrored in place if its coin says so; a batch is handed out as a float32 copy.
    """
    start, low, high = (np.asarray(part) for part in windows)
    left, right = list(clips.skeleton.left), list(clips.skeleton.right)
    buffers = [np.empty((batch, frames, *array.shape[1:]), np.float32) for array in (clips.keypoints, clips.poses)]
    while True:
        order = rng.permutation(len(start))
        for first in range(0, len(order) - batch + 1, batch):
            mirrored = flip & (rng.random(batch) < 0.5)
            for row, window in enumerate(order[first : first + batch]):
                begin, end = max(start[window], low[window]), min(start[window] + frames, high[window] + 1)
                before, after = begin - start[window], start[window] + frames - end
                for buffer, array in zip(buffers, (clips.keypoints, clips.poses), strict=True):
                    chunk = array[begin:end]
                    if before or after:
                        chunk = np.pad(chunk, ((before, after), (0, 0), (0, 0)), "edge")
                    buffer[row] = chunk
                    if mirrored[row]:
                        buffer[row, :, :, 0] *= -1
                        buffer[row, :, left + right] = buffer[row, :, right + left]
            yield buffers[0].copy(), buffers[1].copy()
