"""Sampling a whole split: windows gathered, lifted and aggregated in one compiled call per chunk, on all devices.

The noise of a frame derives from its number in the set, so figures depend neither on the batch size, the stride nor the
number of devices. Aggregation happens on the device: of `[H, M, J, 3]` only what was asked for comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

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
    end_aligned_windows,
    gather,
    window_frames,
)
from diffpose_jax.diffusion.hypotheses import aggregate
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.calibration import central_rank
from diffpose_jax.geometry import Camera, project, solve_root
from diffpose_jax.lifters.base import Lifter, Variables, lifted_frames, lifted_part

Array = jax.Array

ALL = "all"
RANK = "rank"


class Choice(NamedTuple):
    """One way to one pose: the aggregation, its options, and what a report calls it."""

    aggregation: str
    label: str
    options: Mapping[str, Any] = {}
    oracle: bool = False
    needs_camera: bool = False


CHOICES: dict[str, Choice] = {
    "first": Choice("first", "one hypothesis"),
    "mean": Choice("mean", "mean"),
    "medoid": Choice("medoid", "medoid"),
    "joint_median": Choice("joint_median", "per-joint median"),
    "reprojection": Choice("reprojection", "best reprojection per joint", {"per": "joint"}, needs_camera=True),
    "reprojection_expectation": Choice(
        "reprojection_expectation",
        "mean weighted by reprojection",
        {"per": "joint", "temperature": 0.01},
        needs_camera=True,
    ),
    "oracle_best": Choice("oracle_best", "best hypothesis", {"per": "pose"}, oracle=True),
    "oracle_best_joint": Choice("oracle_best", "best hypothesis per joint", {"per": "joint"}, oracle=True),
}


class WindowCameras(NamedTuple):
    """The cameras `[K]` of a set and which of them saw each window, `[W]`."""

    cameras: Camera
    number: Array

    def of(self, ids: Array) -> Camera:
        """The cameras `[B]` of the windows `ids [B]`."""
        return jax.tree.map(lambda field: field[self.number[ids]], self.cameras)


class JobData(NamedTuple):
    """What a job reads beside the variables: frames, windows, their cameras (or None) and the key of all noise."""

    clips: DeviceClips
    windows: Windows
    cameras: WindowCameras | None
    key: Array


def check_aggregations(names: Sequence[str]) -> None:
    """Raises UserError naming an aggregation that does not exist."""
    for name in names:
        if name not in CHOICES:
            raise UserError(f"aggregation: expected one of {', '.join(CHOICES)}, found {name!r}")


def predict_clips(
    lifter: Lifter,
    variables: Variables,
    clips: ClipSet,
    *,
    stride: int = 1,
    frames: np.ndarray | None = None,
    **options: Any,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lifts every `stride`-th frame of each clip of a set, or the given `frames [M]` (numbers in the set, ascending).

    Options and result as in `predict_windows`; a frame's hypotheses do not depend on which others are asked for.
    """
    wanted = strided_frames(clips, stride) if frames is None else frames
    windows = _windows_for(lifter, clips, wanted)
    cameras = window_cameras(clips, windows)
    poses, found = predict_windows(lifter, variables, device_clips(clips), windows, cameras=cameras, **options)
    rows = np.searchsorted(found, wanted)
    return {name: array[rows] for name, array in poses.items()}, wanted


def _windows_for(lifter: Lifter, clips: ClipSet, wanted: np.ndarray) -> Windows:
    """One window around each of the frames `wanted [M]`, or the windows side by side that hold any of them."""
    if lifter.middle_frame:
        return Windows(*(part[wanted] for part in centred_windows(clips, lifter.frames)))
    windows = end_aligned_windows(clips, lifter.frames)
    numbers, inside = _frames_of(windows, lifter)
    needed = np.flatnonzero((inside & np.isin(numbers, wanted)).any(axis=1))
    return Windows(*(part[needed] for part in windows))


def spread_windows(lifter: Lifter, clips: ClipSet, frames: int) -> Windows:
    """As many windows, evenly spread over a set, as have `frames` frames to lift: around each where only one is."""
    windows = (centred_windows if lifter.middle_frame else end_aligned_windows)(clips, lifter.frames)
    lifted = 1 if lifter.middle_frame else lifter.frames
    count = min(max(1, frames // lifted), len(windows.start))
    ids = np.linspace(0, len(windows.start) - 1, count).astype(np.int32)
    return Windows(*(part[ids] for part in windows))


def strided_frames(clips: ClipSet, stride: int) -> np.ndarray:
    """The numbers `[M]` of every `stride`-th frame of each clip, each clip beginning with its first frame."""
    return np.asarray(centred_windows(clips, 1, stride).start)


def predict_windows(
    lifter: Lifter,
    variables: Variables,
    clips: DeviceClips,
    windows: Windows,
    *,
    num_hypotheses: int,
    aggregations: Sequence[str],
    batch_size: int = 256,
    seed: int = 0,
    cameras: WindowCameras | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Samples hypotheses for all windows, `batch_size` per device and compiled call, and aggregates them on the device.

    Returns `{aggregation: poses [M, J, 3]}` in metres, root-relative, and the numbers `[M]` of the frames that are
    lifted (of a lifter of middle frames, those), ascending; 'all' is `[M, H, J, 3]`, 'rank' `[M, J]`. Where windows
    overlap, the last one counts. `progress` is called after each chunk with the share that is done. Aggregation
    'reprojection' raises UserError without cameras.
    """
    check_aggregations([name for name in aggregations if name not in (ALL, RANK)])
    numbers, inside = _frames_of(windows, lifter)
    frames = np.unique(numbers[inside])
    job = _mapped_job(lifter, num_hypotheses, tuple(aggregations))
    data = JobData(clips, windows, cameras, jax.random.key(seed))
    variables, data = parallel.replicate((variables, data))
    found, done = {}, 0
    for ids, arrays in _chunks(partial(job, variables, data), len(numbers), batch_size):
        here = inside[ids]
        rows = np.searchsorted(frames, numbers[ids][here])
        for name, array in arrays.items():
            if name not in found:
                found[name] = np.zeros((len(frames), *array.shape[2:]), array.dtype)
            found[name][rows] = array[here]
        done += len(ids)
        if progress is not None:
            progress(done / len(numbers))
    return found, frames


def _frames_of(windows: Windows, lifter: Lifter) -> tuple[np.ndarray, np.ndarray]:
    """The numbers `[W, F]` of the frames that a lifter gives for each window, and which of them lie in the clip."""
    ids = jnp.arange(len(windows.start), dtype=jnp.int32)
    numbers, inside = (np.asarray(part) for part in window_frames(windows, ids, lifter.frames))
    lifted = lifted_frames(lifter)
    return numbers[:, lifted], inside[:, lifted]


# Validation calls this every few minutes with the same lifter, which must not compile anew each time.
@lru_cache(maxsize=8)
def _mapped_job(lifter: Lifter, num_hypotheses: int, names: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
    def lift(variables: Variables, data: JobData, ids: Array) -> dict[str, Array]:
        batch = gather(data.clips, data.windows, ids, lifter.frames)
        # The first frame's number, not the window's: the noise of a frame is then the same whatever the stride.
        batch = batch._replace(index=data.windows.start[ids])
        camera = None if data.cameras is None else data.cameras.of(ids)
        hypotheses = lifter.sample(variables, data.key, batch, num_hypotheses)
        return reduce_hypotheses(names, hypotheses, lifted_part(lifter, batch), camera)

    return parallel.pmap_each(lift)


def reduce_hypotheses(
    names: Sequence[str], hypotheses: Array, batch: Batch, camera: Camera | None = None
) -> dict[str, Array]:
    """One pose `[B, F, J, 3]` for each of the named `CHOICES` from hypotheses `[H, B, F, J, 3]`; camera `[B]`.

    'all' gives `[B, F, H, J, 3]`, 'rank' how far out the truth lies among them, `[B, F, J]` (`central_rank`).
    """
    errors = None
    if any(name in CHOICES and CHOICES[name].needs_camera for name in names):
        errors = reprojection_errors(hypotheses, batch.keypoints, camera)
    poses = {}
    for name in names:
        if name == ALL:
            poses[name] = jnp.moveaxis(hypotheses, 0, 2)
        elif name == RANK:
            poses[name] = central_rank(hypotheses, batch.poses)
        elif name == "first":
            poses[name] = hypotheses[0]
        else:
            choice = CHOICES[name]
            poses[name] = aggregate(choice.aggregation, hypotheses, errors, batch.poses, **choice.options)
    return poses


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


def knows_cameras(clips: ClipSet) -> bool:
    """Whether every clip names the camera that saw it."""
    return clips.cameras is not None and bool((clips.camera >= 0).all())


def window_cameras(clips: ClipSet, windows: Windows) -> WindowCameras | None:
    """The camera of every window of a set, or None where any clip's camera is unknown."""
    if not knows_cameras(clips):
        return None
    cameras = Camera(*(jnp.asarray(field, jnp.float32) for field in clips.cameras))
    clip = np.searchsorted(clips.clip_start, np.asarray(windows.low), side="right") - 1
    return WindowCameras(cameras, jnp.asarray(clips.camera[clip], jnp.int32))


def _chunks(
    call: Callable[[np.ndarray], dict[str, Array]], count: int, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    # The last chunk is filled up with window 0; one chunk is always under way while the one before is fetched.
    devices = parallel.local_device_count()
    size = devices * min(batch_size, -(-count // devices))
    waiting = None
    for first in range(0, count, size):
        ids = np.arange(first, min(first + size, count), dtype=np.int32)
        padded = np.concatenate([ids, np.zeros(size - len(ids), np.int32)])
        under_way = ids, call(parallel.shard(padded))
        if waiting is not None:
            yield _fetch(*waiting)
        waiting = under_way
    if waiting is not None:
        yield _fetch(*waiting)


def _fetch(ids: np.ndarray, arrays: dict[str, Array]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    host = {name: np.asarray(array) for name, array in arrays.items()}
    return ids, {name: array.reshape(-1, *array.shape[2:])[: len(ids)] for name, array in host.items()}
