"""Windows of F frames, the examples of training and evaluation, gathered from clips that stay on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import bridge_scores, fill_gaps, measure_gaps
from diffpose_jax.data.views import ASSUMED_FOCAL, pinhole
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import unpack_mixture


class Batch(NamedTuple):
    """B windows of F frames, all that a lifter is given.

    Attributes:
        keypoints: `[B, F, J, 2]` normalised image units.
        poses: `[B, F, J, 3]` metres, camera frame, root-relative.
        mask: `[B, F, J]` in 0..1, the confidence with which a joint was seen: 0 where it was not, 1 where it was and no
            scores are known. Where it is 0, what the keypoints hold means nothing.
        index: `[B]` int32, the global index of each example, from which all its noise derives, so that results depend
            neither on batch size nor on the number of devices.
        mixture: `[B, F, J, M]`, the mixture of each joint's heatmap in the units of the keypoints, or None.
        camera: `[B]`, the camera of each window, or None where no camera is known.
        root: `[B, F, 3]` metres, camera frame, the root's path where it is asked for, or None.
        fold: `[B]` int32, the fold of each example's subject where a context is cross-fitted, or None.
    """

    keypoints: jax.Array
    poses: jax.Array
    mask: jax.Array
    index: jax.Array  # type: ignore[assignment]  # a tuple's method of that name is not used
    mixture: Mixture | None = None
    camera: Camera | None = None
    root: jax.Array | None = None
    fold: jax.Array | None = None


class DeviceClips(NamedTuple):
    """The frames of a split on the device.

    keypoints `[N, J, 2]`, with guesses for joints that were not seen (`data.gaps`); poses `[N, J, 3]`; mixture `[N, J,
    M, 6]` as `mixtures.packing` stores it, or None; the K cameras or None, and which of them filmed a frame, `[N]`;
    root `[N, 3]`, m, or None where nothing asks for it; scores `[N, J]` in 0..1, 0 where a joint was not seen, or None;
    gap `[N, J]`, s, how far a joint is from a frame that shows it, infinite without one, or None where all were seen;
    fold `[N]`, of each frame's subject, or None.
    """

    keypoints: jax.Array
    poses: jax.Array
    mixture: jax.Array | None = None
    cameras: Camera | None = None
    camera: jax.Array | None = None
    root: jax.Array | None = None
    scores: jax.Array | None = None
    gap: jax.Array | None = None
    fold: jax.Array | None = None


class Windows(NamedTuple):
    """Where W windows lie, each field `[W]` int32, as indices of frames in the set.

    start is a window's first frame, which may lie outside its clip; low and high are the clip's first and last frame.
    """

    start: jax.Array
    low: jax.Array
    high: jax.Array

    def take(self, which: np.ndarray) -> Windows:
        """Some of the windows, in numpy: on the device every number of them would compile a program."""
        return Windows(*(np.asarray(part)[which] for part in self))


def device_clips(clips: ClipSet, dtype: DTypeLike = jnp.float32, *, root: bool = False) -> DeviceClips:
    """The frames of a set as device arrays; poses are zero where the set has none.

    Args:
        clips: The set.
        dtype: The type of keypoints, poses and root.
        root: Whether to take the root's path along.

    Raises:
        UserError: The set is empty, has no root and should, or has a clip of which no joint was seen.
    """
    if clips.num_frames == 0:
        raise UserError("data: expected at least one clip, found none")
    poses = np.zeros((clips.num_frames, clips.skeleton.num_joints, 3)) if clips.poses is None else clips.poses
    mixture = None if clips.mixture is None else jnp.asarray(clips.mixture)
    if root and clips.root is None:
        raise UserError("data: expected the root's path in the camera's frame, found none")
    path = jnp.asarray(clips.root, dtype) if root else None
    bridged = bridge_scores(clips)
    scores = None if bridged is None else jnp.asarray(np.minimum(bridged, 1), dtype)
    gap = None if clips.seen.all() else jnp.asarray(measure_gaps(clips), dtype)
    arrays = jnp.asarray(fill_gaps(clips).keypoints, dtype), jnp.asarray(poses, dtype), mixture
    return DeviceClips(*arrays, *_cameras(clips), path, scores, gap)


def _cameras(clips: ClipSet) -> tuple[Camera | None, jax.Array | None]:
    """The cameras `[K + 1]` of a set, the last one assumed for clips of unknown ones, and each frame's, `[N]`."""
    if clips.cameras is None:
        return None, None
    known = Camera(*(jnp.asarray(field, jnp.float32) for field in clips.cameras))
    parts = zip(known, pinhole(ASSUMED_FOCAL, (1,)), strict=True)
    cameras = Camera(*(jnp.concatenate(fields) for fields in parts))
    chosen = np.where(clips.camera < 0, len(clips.cameras.focal), clips.camera)
    return cameras, jnp.asarray(np.repeat(chosen, clips.clip_length), jnp.int32)


def centred_windows(clips: ClipSet, frames: int, stride: int = 1) -> Windows:
    """One window around every `stride`-th frame of each clip, as VideoPose3D's generator makes them."""
    # An even F has one frame more before the middle one than after it.
    return _windows(clips, [np.arange(0, length, stride) - frames // 2 for length in clips.clip_length])


def tiled_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows side by side that hold each frame once: the training windows of MixSTE and its descendants.

    The `-length % frames` frames by which the windows are longer than the clip are padding, half of it (rounded down)
    before the clip and the rest after it.
    """
    return _windows(clips, [np.arange(0, n, frames) - (-n % frames) // 2 for n in clips.clip_length])


def end_aligned_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows side by side, the last one moved back to end with its clip: real frames instead of padding.

    The evaluation windows of MixSTE and its descendants. The last window repeats frames of the one before; a clip
    shorter than a window is padded at its end.
    """
    return _windows(clips, [np.minimum(np.arange(0, n, frames), max(n - frames, 0)) for n in clips.clip_length])


def overlapping_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows of which each overlaps the next by half or more, evenly spread from a clip's first frame to its last.

    A clip shorter than a window is padded at its end.
    """
    spare = np.maximum(clips.clip_length - frames, 0)
    # As many windows as it takes for starts to be half a window apart or less.
    counts = -(-spare // max(1, frames // 2)) + 1
    return _windows(
        clips, [np.rint(np.linspace(0, last, count)).astype(int) for last, count in zip(spare, counts, strict=True)]
    )


def unpadded_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows side by side as far as they fit: the remainder of each clip is left out (Rommel et al. 2023's release).

    Raises UserError where no clip is as long as a window.
    """
    if clips.num_clips and clips.clip_length.max() < frames:
        longest = clips.clip_length.max()
        raise UserError(
            f"data: expected a clip of at least {frames} frames for whole windows, the longest has {longest}"
        )
    return _windows(clips, [np.arange(n // frames) * frames for n in clips.clip_length])


WINDOW_KINDS = {
    "centred": centred_windows,
    "tiled": tiled_windows,
    "random": unpadded_windows,
    "random_release": unpadded_windows,
}


def training_windows(clips: ClipSet, frames: int, kind: str) -> Windows:
    """The examples of one epoch.

    Args:
        clips: The split.
        frames: F, the length of a window.
        kind: 'centred' (one around every frame), 'tiled', or 'random' and 'random_release', which have an example for
            each window that fits into a clip and draw its start anew in every epoch (`draw_starts`).

    Raises:
        UserError: For another kind, and for 'random' where no clip is long enough.
    """
    if kind not in WINDOW_KINDS:
        raise UserError(f"config.data.windows: expected one of {', '.join(WINDOW_KINDS)}, found {kind!r}")
    return WINDOW_KINDS[kind](clips, frames)


def draw_starts(keys: jax.Array, windows: Windows, frames: int, *, release: bool = False) -> Windows:
    """Move windows `[B]` within their clips, each to a start drawn uniformly from those at which it fits.

    Args:
        keys: One per window, `[B]`.
        windows: The windows `[B]`; only their clips matter.
        frames: F, the length of a window.
        release: Never draw the last start that fits, as the release of Rommel et al. 2023.

    Returns:
        The windows with new starts.
    """
    # The first frame of a window that fits is one of low, ..., high + 1 - F.
    fitting = windows.high - windows.low + 2 - frames
    # A clip shorter than a window has one start, its first frame, and is padded at its end.
    choices = jnp.maximum(fitting - 1 if release else fitting, 1)
    offset = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count))(keys, choices)
    return windows._replace(start=windows.low + offset)


def _windows(clips: ClipSet, offsets: list[np.ndarray]) -> Windows:
    """The windows that start at `offsets` from their clips' first frames, an array for each clip."""
    if not offsets:
        raise UserError("data: expected at least one clip, found none")
    counts = [len(part) for part in offsets]
    low = np.repeat(clips.clip_start, counts)
    high = np.repeat(clips.clip_start + clips.clip_length - 1, counts)
    start = low + np.concatenate(offsets)
    return Windows(*(jnp.asarray(part, jnp.int32) for part in (start, low, high)))


def window_frames(windows: Windows, ids: Any, frames: int) -> tuple[Any, Any]:
    """The indices `[B, F]` of the frames of the windows `ids [B]`, and which slots `[B, F]` lie inside the clip.

    A slot before or after its clip gets the clip's first or last frame: edges are padded by repetition. Of windows in
    numpy the result is in numpy.
    """
    # A window around frame t asks for frames t - F // 2, ..., t - F // 2 + F - 1, also beyond the ends of its clip.
    wanted = windows.start[ids][:, None] + np.arange(frames, dtype=np.int32)[None, :]
    low, high = windows.low[ids][:, None], windows.high[ids][:, None]
    return wanted.clip(low, high), (wanted >= low) & (wanted <= high)


def gather(clips: DeviceClips, windows: Windows, ids: jax.Array, frames: int) -> Batch:
    """Gather windows from the clips on the device, padded at their edges.

    Args:
        clips: The frames of the split.
        windows: The W windows.
        ids: Which of them, `[B]` int32.
        frames: F, the length of a window.

    Returns:
        The batch, with `ids` as its index and a mask of the scores, 1 where there are none: `occlude` hides joints
        later.
    """
    index, _ = window_frames(windows, ids, frames)
    keypoints, mixture = _take(clips.keypoints, index), None
    if clips.mixture is not None:
        mixture = unpack_mixture(_take(clips.mixture, index), keypoints)
    mask = jnp.ones(keypoints.shape[:-1], keypoints.dtype) if clips.scores is None else _take(clips.scores, index)
    camera, root = None, None if clips.root is None else _take(clips.root, index)
    if clips.cameras is not None and clips.camera is not None:
        # All frames of a window are of one clip, and a clip has one camera.
        chosen = _take(clips.camera, index[:, 0])
        camera = jax.tree.map(lambda field: field[chosen], clips.cameras)
    fold = None if clips.fold is None else _take(clips.fold, index[:, 0])
    return Batch(keypoints, _take(clips.poses, index), mask, ids, mixture, camera, root, fold)


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    # The indices lie inside a clip: without the check of bounds the gather is 1.1 to 1.2 times as fast on CPU.
    return array.at[index].get(mode="promise_in_bounds")
