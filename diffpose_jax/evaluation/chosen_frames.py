"""Lifting chosen frames of a set, as an evaluation measures them, by the windows that hold them.

With one noise per frame (`Sampling.noise`) windows lie side by side, as published protocols have them. With one noise
per clip they overlap and are blended (`overlapping`): what is measured then is what `predict` and `lift` write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import (
    Batch,
    DeviceClips,
    Windows,
    centred_windows,
    device_clips,
    end_aligned_windows,
    overlapping_windows,
)
from diffpose_jax.evaluation.aggregation import ALL, is_estimate, reduce_hypotheses
from diffpose_jax.evaluation.frame_blocks import count_block_frames
from diffpose_jax.evaluation.jobs import Job, frames_of, lift_windows, predict_windows
from diffpose_jax.evaluation.overlapping import (
    add_windows,
    ask_for_blending,
    average_windows,
    blends_windows,
    weigh_windows,
)
from diffpose_jax.evaluation.padding import pad_batch
from diffpose_jax.evaluation.window_cameras import window_cameras
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.progress import Progress
from diffpose_jax.skeleton import Skeleton

_Arrays = dict[str, np.ndarray]


def predict_frames(
    label: str, lifter: Lifter, variables: Variables, clips: ClipSet, frames: np.ndarray, job: Job
) -> dict[str, np.ndarray]:
    """Lifts frames of a set: `{output: poses [M, J, 3]}`, root-relative metres.

    A frame's hypotheses do not depend on which others are asked for.

    Args:
        label: What the progress bar is called.
        lifter: The method.
        variables: Its variables.
        clips: The set.
        frames: Indices `[M]` of its frames, ascending.
        job: How they are lifted.
    """
    lifting, blended = _Lifting(lifter, variables, clips, device_clips(clips), job), blends_windows(lifter, job)
    lift = _lift_blended if blended else _lift_beside
    # Blended, a frame has all its hypotheses in memory: so many frames at a time as a block has.
    size = count_block_frames(job.sampling.hypotheses, clips.skeleton.num_joints) if blended else max(1, len(frames))
    parts = []
    with Progress(label, len(frames), "frames", enabled=jax.process_index() == 0) as progress:
        for done in range(0, max(1, len(frames)), size):
            chosen = frames[done : done + size]
            parts.append(lift(lifting, chosen, partial(_report, progress, done, len(chosen))))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _report(progress: Progress, done: int, count: int, share: float) -> None:
    progress.update(done + round(share * count))


class _Lifting(NamedTuple):
    """A method and a set to lift with it; clips and the frames of them on the device are the same."""

    lifter: Lifter
    variables: Variables
    clips: ClipSet
    on_device: DeviceClips
    job: Job


def _lift_beside(lifting: _Lifting, frames: np.ndarray, report: Callable[[float], None]) -> _Arrays:
    """The outputs of frames, by windows side by side or, for a lifter of middle frames, around each of them."""
    lifter, variables, clips, on_device, job = lifting
    # Windows side by side are the same whatever is wanted, so that a frame has the same context and, by the window's
    # first frame, the same noise in every call.
    if lifter.middle_frame:
        windows = centred_windows(clips, lifter.frames).take(frames)
    else:
        windows = _windows_with(end_aligned_windows(clips, lifter.frames), lifter, frames)
    cameras = window_cameras(clips, windows)
    poses, found = predict_windows(lifter, variables, on_device, windows, job, cameras, report)
    rows = np.searchsorted(found, frames)
    return {name: array[rows] for name, array in poses.items()}


def _lift_blended(lifting: _Lifting, frames: np.ndarray, report: Callable[[float], None]) -> _Arrays:
    """The outputs of frames, averages over the overlapping windows that hold them."""
    lifter, variables, clips, on_device, job = lifting
    windows = _windows_with(overlapping_windows(clips, lifter.frames), lifter, frames)
    cameras, sums, done = window_cameras(clips, windows), _Arrays(), 0
    for ids, arrays in lift_windows(lifter, variables, on_device, windows, ask_for_blending(job), cameras):
        weighted = weigh_windows(arrays)
        for name, array in weighted.items():
            sums.setdefault(name, np.zeros((len(frames), *array.shape[2:]), array.dtype))
        indices, inside = frames_of(windows.take(ids), lifter)
        add_windows(sums, np.searchsorted(frames, indices), inside & np.isin(indices, frames), weighted)
        done += len(ids)
        report(done / len(windows.start))
    estimates = [name for name in job.outputs if is_estimate(name)]
    found = average_windows(sums, [ALL, *estimates])
    found |= _reduce([name for name in job.outputs if name not in found], found[ALL], clips, frames)
    return {name: found[name] for name in job.outputs}


def _windows_with(windows: Windows, lifter: Lifter, wanted: np.ndarray) -> Windows:
    """Those of the windows that lift any of the frames `wanted [M]`."""
    indices, inside = frames_of(windows, lifter)
    return windows.take(np.flatnonzero((inside & np.isin(indices, wanted)).any(axis=1)))


def _reduce(names: Sequence[str], hypotheses: np.ndarray, clips: ClipSet, frames: np.ndarray) -> _Arrays:
    """What shows or judges the distribution, `{output: [M, ...]}`, of hypotheses `[M, H, J, 3]` of the frames, m."""
    # Padded with copies of the first frame: any number of frames is reduced by a handful of compiled programs.
    count = pad_batch(len(frames), 1 << 30)
    rows = np.concatenate([np.arange(len(frames)), np.zeros(count - len(frames), np.int64)])
    truth = np.zeros_like(hypotheses[:, 0]) if clips.poses is None else clips.poses[frames]
    keypoints, seen, index = clips.keypoints[frames][rows], clips.seen[frames][rows], frames[rows]
    batch = Batch(jnp.asarray(keypoints), jnp.asarray(truth[rows]), jnp.asarray(seen), jnp.asarray(index))
    found = _reducer(tuple(names), clips.skeleton)(jnp.asarray(np.moveaxis(hypotheses[rows], 1, 0)), batch)
    return {name: np.asarray(array)[: len(frames)] for name, array in found.items()}


@lru_cache(maxsize=8)
def _reducer(names: tuple[str, ...], skeleton: Skeleton) -> Callable[[Array, Batch], dict[str, Array]]:
    return jax.jit(lambda hypotheses, batch: reduce_hypotheses(names, hypotheses, batch, skeleton))
