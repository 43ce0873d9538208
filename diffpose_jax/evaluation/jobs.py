"""Lifting a whole set: windows are gathered, lifted and aggregated in one compiled call per chunk, on all devices.

Devices share the windows, those of all processes of a cluster, or where there are few of them the hypotheses of every
window. The noise of a frame derives from its index in the set, or from its clip's (`Sampling.noise`), so that results
depend neither on the batch size, the stride nor the number of devices. Hypotheses are aggregated on the device; only
the outputs that were asked for are copied back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import jax
import numpy as np
from jax import Array

from diffpose_jax import parallel
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import DeviceClips, Windows, centred_windows, end_aligned_windows, window_frames
from diffpose_jax.evaluation.aggregation import MEASURES, check_aggregates
from diffpose_jax.evaluation.compiled_jobs import JobData, Parts, compile_job, make_lift
from diffpose_jax.evaluation.padding import pad_batch, pad_clips, pad_windows
from diffpose_jax.evaluation.window_cameras import WindowCameras
from diffpose_jax.evaluation.workload import (
    SMALL_CALL,
    Needs,
    Workload,
    choose_workload,
    default_budget,
    measure_needs,
    shares_hypotheses,
)
from diffpose_jax.lifters.base import Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import lifted_frames
from diffpose_jax.lifters.wrappers import with_flips


@dataclasses.dataclass(frozen=True)
class Job:
    """How the windows of a set are lifted, and which outputs are kept.

    Attributes:
        sampling: How hypotheses are drawn.
        outputs: Names of `evaluation.aggregation.AGGREGATES`, or of its `MEASURES`, such as 'all' for every hypothesis.
        batch_size: Windows per device and compiled call.
        seed: The seed of all noise.
        occlusion: A pattern of `data.occlusions` that hides joints.
        occlusion_rate: Its rate, the share of hidden joints or frames; 0: the published one.
        memory: Gigabytes that a call may need on a device, 0: those of `workload.default_budget`. Windows of a call
            and hypotheses at a time are as many as fit; results do not depend on it.
    """

    sampling: Sampling
    outputs: tuple[str, ...]
    batch_size: int = 256
    seed: int = 0
    occlusion: str = "none"
    occlusion_rate: float = 0.0
    memory: float = 0.0

    def replace(self, **changes: object) -> Job:
        """The same job with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def spread_windows(lifter: Lifter, clips: ClipSet, frames: int) -> Windows:
    """As many windows as lift about `frames` frames, evenly spread over a set.

    They lie side by side; of a lifter of middle frames they are centred on single frames.
    """
    windows = (centred_windows if lifter.middle_frame else end_aligned_windows)(clips, lifter.frames)
    lifted = 1 if lifter.middle_frame else lifter.frames
    count = min(max(1, frames // lifted), len(windows.start))
    ids = np.linspace(0, len(windows.start) - 1, count).astype(np.int32)
    return windows.take(ids)


def strided_frames(clips: ClipSet, stride: int, seed: int = 0) -> np.ndarray:
    """The indices `[M]`, ascending, of every `stride`-th frame of each clip, from a first one drawn for each clip.

    The first is one of the clip's frames 0 to stride - 1, each as likely, so that every frame of a set is. A clip that
    ends before it has none: if all clips began with their first frames, short clips and the poses that recordings begin
    with would count too much.

    Args:
        clips: The set.
        stride: The distance of the frames, from 1; 1 takes all of them.
        seed: The seed of the draws. One seed gives the same frames to all that are measured on a set.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(stride, size=clips.num_clips)
    found = [
        np.arange(start + skipped, start + length, stride)
        for start, length, skipped in zip(clips.clip_start, clips.clip_length, first, strict=True)
    ]
    frames = np.concatenate(found) if found else np.zeros(0, np.int64)
    # A set that is much shorter than the stride may have none: one frame then stands for it.
    return frames if len(frames) or not clips.num_frames else rng.integers(clips.num_frames, size=1)


def predict_windows(
    lifter: Lifter,
    variables: Variables,
    clips: DeviceClips,
    windows: Windows,
    job: Job,
    cameras: WindowCameras | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Samples hypotheses for all windows and aggregates them on the device.

    A frame in several windows is lifted by each of them, and the last window's pose is kept.

    Args:
        lifter: The method, without the wrappers of flips and occlusion that the job asks for.
        variables: Its variables.
        clips: The frames of a set, on the device.
        windows: The windows to lift.
        job: How they are lifted and what is kept.
        cameras: Those of the windows; needed for outputs by reprojection.
        progress: Called after each chunk with the share of windows that are done, in 0..1.

    Returns:
        `{output: poses [M, J, 3]}`, root-relative metres (`[M, ...]` of `MEASURES`, see `reduce_hypotheses`), and the
        indices `[M]` of the frames that are lifted (of a lifter of middle frames, those), ascending.

    Raises:
        UserError: An output does not exist, or needs cameras that are not known.
    """
    indices, inside = frames_of(windows, lifter)
    frames = np.unique(indices[inside])
    found: dict[str, np.ndarray] = {}
    done = 0
    for ids, arrays in lift_windows(lifter, variables, clips, windows, job, cameras):
        here = inside[ids]
        rows = np.searchsorted(frames, indices[ids][here])
        for name, array in arrays.items():
            if name not in found:
                found[name] = np.zeros((len(frames), *array.shape[2:]), array.dtype)
            found[name][rows] = array[here]
        done += len(ids)
        if progress is not None:
            progress(done / len(indices))
    return found, frames


def lift_windows(
    lifter: Lifter,
    variables: Variables,
    clips: DeviceClips,
    windows: Windows,
    job: Job,
    cameras: WindowCameras | None = None,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Lifts windows in chunks: the indices `[B]` of the windows of each chunk, and its outputs `{output: [B, F, ...]}`.

    In a cluster all processes have to call it with the same arguments; they share the work, and get all of it.

    Args:
        lifter: The method, without the wrappers of flips and occlusion that the job asks for.
        variables: Its variables.
        clips: The frames of a set, on the device.
        windows: The windows to lift.
        job: How they are lifted and what is kept.
        cameras: Those of the windows; needed for outputs by reprojection.

    Raises:
        UserError: An output does not exist, or needs cameras that are not known.
    """
    check_aggregates([name for name in job.outputs if name not in MEASURES])
    count, devices = len(windows.start), parallel.local_device_count()
    shared = lifter.stochastic and shares_hypotheses(count, job.sampling.hypotheses, devices)
    parts = with_flips(lifter), job.occlusion, job.occlusion_rate or None
    clips, (windows, cameras) = pad_clips(clips), pad_windows(windows, cameras)
    data = JobData(clips, windows, cameras, jax.random.key(job.seed), job.sampling)
    # Few windows of many hypotheses: devices share the hypotheses of every window, and one call is for all of them.
    each = -(-job.sampling.hypotheses // devices) if shared else job.sampling.hypotheses
    devices = 1 if shared else parallel.device_count()
    most = pad_batch(-(-count // devices), job.batch_size)
    work = _bound_memory(parts, variables, data, job.replace(batch_size=most), each)
    sampling = job.sampling.replace(chunk=work.chunk, mesh=parallel.local_mesh() if shared else None)
    call = compile_job(parts, job.outputs, shared)
    variables, data = parallel.replicate((variables, data._replace(sampling=sampling)))
    yield from _run_chunks(partial(call, variables, data), count, work.windows, None if shared else devices)


def frames_of(windows: Windows, lifter: Lifter) -> tuple[np.ndarray, np.ndarray]:
    """The indices `[W, F]` of the frames that a lifter gives for each window, and which of them lie in the clip."""
    ids = np.arange(len(windows.start))
    indices, inside = window_frames(windows.take(ids), ids, lifter.frames)
    lifted = lifted_frames(lifter)
    return indices[:, lifted], inside[:, lifted]


def _bound_memory(parts: Parts, variables: Variables, data: JobData, job: Job, hypotheses: int) -> Workload:
    """The windows and hypotheses of a call on a device that do not need more memory than the job allows."""
    if job.sampling.chunk is not None:
        return Workload(job.batch_size, job.sampling.chunk)
    lifter = parts[0]
    # The most that any lifter here needs fits: nothing is traced for a call as small as a single frame's.
    if job.batch_size * hypotheses * lifter.frames <= SMALL_CALL and not job.memory:
        return Workload(job.batch_size, None)
    single = data._replace(sampling=job.sampling.replace(hypotheses=1))
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda *arguments: arguments, variables, single))
    needs = _needs_of(parts, tuple(leaves), tree)
    return choose_workload(needs, job.batch_size, hypotheses, int(1e9 * job.memory) or default_budget())


@lru_cache(maxsize=32)
def _needs_of(parts: Parts, leaves: tuple[jax.ShapeDtypeStruct, ...], tree: jax.tree_util.PyTreeDef) -> Needs:
    """What one window with one hypothesis needs, by the shapes of the variables and the data of a call."""
    ids = jax.ShapeDtypeStruct((1,), np.int32)
    return measure_needs(make_lift(parts, ("first",)), *tree.unflatten(leaves), ids)


def _run_chunks(
    call: Callable[[np.ndarray], dict[str, Array]], count: int, batch_size: int, cluster: int | None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    # The last chunk is filled up with window 0. JAX dispatches without waiting: the devices compute one chunk while the
    # one before is copied to the host. All devices of the cluster have windows of their own, or those of this process
    # share them.
    devices = cluster or 1
    size = devices * pad_batch(-(-count // devices), batch_size)
    waiting = None
    for first in range(0, count, size):
        ids = np.arange(first, min(first + size, count), dtype=np.int32)
        padded = np.concatenate([ids, np.zeros(size - len(ids), np.int32)]).reshape(devices, -1)
        under_way = ids, call(padded if cluster is None else parallel.own_part(padded))
        if waiting is not None:
            yield _fetch(*waiting, cluster is not None)
        waiting = under_way
    if waiting is not None:
        yield _fetch(*waiting, cluster is not None)


def _fetch(ids: np.ndarray, arrays: dict[str, Array], gathered: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The outputs of windows `[B]` on the host, without those that filled the chunk up."""
    found = {}
    for name, array in arrays.items():
        host = np.asarray(array)
        host = parallel.gather_from_processes(host) if gathered else host[None]
        found[name] = host.reshape(-1, *array.shape[2:])[: len(ids)]
    return ids, found
