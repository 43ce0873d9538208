"""Sampling a whole split: windows gathered, lifted and aggregated in one compiled call per chunk, on all devices.

The noise of a frame derives from its number in the set, so figures depend neither on the batch size, the stride nor the
number of devices. Aggregation happens on the device: of `[H, M, J, 3]` only what was asked for comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax import parallel
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import (
    Batch,
    DeviceClips,
    Windows,
    centred_windows,
    device_clips,
    gather,
    tiled_windows,
    window_frames,
)
from diffpose_jax.diffusion.hypotheses import aggregate
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera, project, solve_root
from diffpose_jax.lifters.base import Lifter, Variables

Array = jax.Array
Progress = Callable[[int, int], None]
# hypotheses [H, b, F, J, 3], the batch, its cameras [b] or None -> arrays [b, F, ...] by name
Reduce = Callable[[Array, Batch, Camera | None], dict[str, Array]]


class Choice(NamedTuple):
    """One way to one pose: the aggregation, its options, and what a report calls it."""

    aggregation: str
    label: str
    options: Mapping[str, str] = {}  # noqa: RUF012 (never written to)
    oracle: bool = False
    needs_camera: bool = False


CHOICES: dict[str, Choice] = {
    "first": Choice("first", "one hypothesis"),
    "mean": Choice("mean", "mean"),
    "medoid": Choice("medoid", "medoid"),
    "joint_median": Choice("joint_median", "per-joint median"),
    "reprojection": Choice("reprojection", "best reprojection per joint", {"per": "joint"}, needs_camera=True),
    "oracle_best": Choice("oracle_best", "best hypothesis", {"per": "pose"}, oracle=True),
    "oracle_best_joint": Choice("oracle_best", "best hypothesis per joint", {"per": "joint"}, oracle=True),
}


class JobData(NamedTuple):
    """What a job reads besides the variables: frames, windows, the camera of every window (or None), the key of all noise."""

    clips: DeviceClips
    windows: Windows
    cameras: Camera | None
    window_camera: Array | None
    key: Array


class Job(NamedTuple):
    """A lifter and a reduction, mapped over devices; compiled once per shape, so keep it where it is called again."""

    mapped: Callable[[Variables, JobData, Array], dict[str, Array]]
    frames: int


def check_aggregations(names: Sequence[str]) -> None:
    """Raises UserError naming an aggregation that does not exist."""
    for name in names:
        if name not in CHOICES:
            raise UserError(f"aggregation: expected one of {', '.join(CHOICES)}, found {name!r}")


def make_job(lifter: Lifter, num_hypotheses: int, reduce: Reduce) -> Job:
    """The job that samples `num_hypotheses` for every window and keeps what `reduce` makes of them."""

    def sample_and_reduce(variables: Variables, data: JobData, ids: Array) -> dict[str, Array]:
        batch = gather(data.clips, data.windows, ids, lifter.frames)
        batch = batch._replace(index=data.windows.start[ids])
        camera = None
        if data.cameras is not None:
            camera = jax.tree.map(lambda field: field[data.window_camera[ids]], data.cameras)
        return reduce(lifter.sample(variables, data.key, batch, num_hypotheses), batch, camera)

    return Job(parallel.pmap_each(sample_and_reduce), lifter.frames)


def aggregations(names: Sequence[str]) -> Reduce:
    """The reduction to one pose `[b, F, J, 3]` for each of the named `CHOICES`."""
    check_aggregations(names)

    def reduce(hypotheses: Array, batch: Batch, camera: Camera | None) -> dict[str, Array]:
        errors = None
        if any(CHOICES[name].needs_camera for name in names):
            errors = reprojection_errors(hypotheses, batch.keypoints, camera)
        poses = {}
        for name in names:
            choice = CHOICES[name]
            if name == "first":
                poses[name] = hypotheses[0]
            else:
                poses[name] = aggregate(choice.aggregation, hypotheses, errors, batch.poses, **choice.options)
        return poses

    return reduce


def all_hypotheses(hypotheses: Array, batch: Batch, camera: Camera | None) -> dict[str, Array]:
    """The reduction that reduces nothing: `{'hypotheses': [b, F, H, J, 3]}`."""
    return {"hypotheses": jnp.moveaxis(hypotheses, 0, 2)}


def reprojection_errors(hypotheses: Array, keypoints: Array, camera: Camera | None) -> Array:
    """How far every joint of every hypothesis falls from its keypoint, `[H, B, F, J]` in normalised image units.

    hypotheses `[H, B, F, J, 3]`, keypoints `[B, F, J, 2]`, camera `[B]`. The root is solved from the keypoints for
    every hypothesis and frame: no ground truth. Raises UserError without a camera.
    """
    if camera is None:
        raise UserError("aggregation reprojection: expected data with known cameras, found none")

    def errors(poses: Array) -> Array:
        root = solve_root(poses, keypoints, camera)
        return jnp.linalg.norm(project(poses + root[..., None, :], camera) - keypoints, axis=-1)

    return jax.lax.map(errors, hypotheses)


def run_job(
    job: Job,
    variables: Variables,
    clips: ClipSet,
    *,
    stride: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Runs a job on every `stride`-th frame of each clip, in chunks of `batch_size` windows per device.

    Returns the frame numbers `[M]` in the set, ascending, and the arrays `[M, ...]` of the reduction by name, on the
    host. `progress(done, total)` is called with frames.
    """
    wanted = np.asarray(centred_windows(clips, 1, stride).start)
    windows = centred_windows(clips, 1, stride) if job.frames == 1 else tiled_windows(clips, job.frames)
    numbers, inside = (np.asarray(part) for part in window_frames(windows, np.arange(len(windows.start)), job.frames))
    inside = inside & np.isin(numbers, wanted)
    ids = np.flatnonzero(inside.any(axis=1)).astype(np.int32)
    variables, data = parallel.place((variables, _job_data(clips, windows, seed)))
    found, done = {}, 0
    for part, arrays in _chunks(partial(job.mapped, variables, data), ids, batch_size):
        place = np.searchsorted(wanted, numbers[part][inside[part]])
        for name, array in arrays.items():
            if name not in found:
                found[name] = np.zeros((len(wanted), *array.shape[2:]), array.dtype)
            found[name][place] = array[inside[part]]
        done += len(place)
        if progress is not None:
            progress(done, len(wanted))
    return wanted, found


def _job_data(clips: ClipSet, windows: Windows, seed: int) -> JobData:
    cameras = window_camera = None
    if knows_cameras(clips):
        cameras = Camera(*(jnp.asarray(field, jnp.float32) for field in clips.cameras))
        clip = np.searchsorted(clips.clip_start, np.asarray(windows.low), side="right") - 1
        window_camera = jnp.asarray(clips.camera[clip])
    return JobData(device_clips(clips), windows, cameras, window_camera, jax.random.key(seed))


def knows_cameras(clips: ClipSet) -> bool:
    """Whether every clip names the camera that saw it."""
    return clips.cameras is not None and bool((clips.camera >= 0).all())


def _chunks(
    call: Callable[[np.ndarray], dict[str, Array]], ids: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    # The last chunk is filled up with the first window; one chunk is always under way while the one before is fetched.
    devices = parallel.local_devices()
    size = devices * min(batch_size, -(-len(ids) // devices))
    waiting = None
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        padded = np.concatenate([part, np.full(size - len(part), ids[0], ids.dtype)])
        under_way = part, call(parallel.split_devices(padded))
        if waiting is not None:
            yield _fetch(*waiting)
        waiting = under_way
    if waiting is not None:
        yield _fetch(*waiting)


def _fetch(part: np.ndarray, arrays: dict[str, Array]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    host = {name: np.asarray(array) for name, array in arrays.items()}
    return part, {name: array.reshape(-1, *array.shape[2:])[: len(part)] for name, array in host.items()}
