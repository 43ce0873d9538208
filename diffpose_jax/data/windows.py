"""Windows of frames, gathered on the device; batch order is a pure function of (seed, example number)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import unpack_mixture


class Batch(NamedTuple):
    """What a window gather yields, and all that a lifter sees.

    keypoints `[B, F, J, 2]` normalised image units; poses `[B, F, J, 3]` metres, camera frame, root-relative; mask
    `[B, F, J]` one where a joint is observed; index `[B]` int32, the identity of the example, from which all its noise
    derives, so that results depend neither on batch size nor on the number of devices; mixture `[B, F, J, M]` of each
    joint's 2D Gaussians in the units of the keypoints, or None.
    """

    keypoints: jax.Array
    poses: jax.Array
    mask: jax.Array
    index: jax.Array
    mixture: Mixture | None = None


class DeviceClips(NamedTuple):
    """Frames of a split on the device: keypoints `[N, J, 2]`, poses `[N, J, 3]`, mask `[N, J]` or None (all seen),
    mixture packed `[N, J, M, 6]` or None.
    """

    keypoints: jax.Array
    poses: jax.Array
    mask: jax.Array | None = None
    mixture: jax.Array | None = None


class Windows(NamedTuple):
    """Where windows lie, `[W]`: their first frame, maybe outside their clip, and the clip's first and last frame."""

    start: jax.Array
    low: jax.Array
    high: jax.Array


def device_clips(clips: ClipSet, dtype: jnp.dtype = jnp.float32) -> DeviceClips:
    """The frames of a set as device arrays; poses are zero where the set has none. Raises UserError on an empty set."""
    if clips.num_frames == 0:
        raise UserError("data: expected at least one clip, found none")
    joints = clips.skeleton.num_joints
    poses = np.zeros((clips.num_frames, joints, 3), np.float32) if clips.poses is None else clips.poses
    mixture = None if clips.mixture is None else jnp.asarray(clips.mixture)
    return DeviceClips(jnp.asarray(clips.keypoints, dtype), jnp.asarray(poses, dtype), mixture=mixture)


def centred_windows(clips: ClipSet, frames: int, stride: int = 1) -> Windows:
    """One window around every `stride`-th frame of each clip, as VideoPose3D's generator makes them."""
    return _windows(clips, [np.arange(0, length, stride) - frames // 2 for length in clips.clip_length])


def tiled_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows side by side that hold each frame once; what the first and the last one lack is shared between the ends.

    The training clips of VideoPose3D's descendants (MixSTE and others).
    """
    return _windows(clips, [np.arange(0, n, frames) - (-n % frames) // 2 for n in clips.clip_length])


def end_aligned_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows side by side, the last one moved back to end with its clip: real frames instead of padding.

    The evaluation windows of MixSTE and its descendants. A clip shorter than a window is padded at its end. Frames in
    two windows: see `counted_once`.
    """
    return _windows(clips, [np.minimum(np.arange(0, n, frames), max(n - frames, 0)) for n in clips.clip_length])


def whole_windows(clips: ClipSet, frames: int) -> Windows:
    """Windows side by side as far as they fit: the remainder of each clip is left out (Rommel et al. 2023, released).

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
    "random": whole_windows,
    "random_release": whole_windows,
}


def training_windows(clips: ClipSet, frames: int, kind: str) -> Windows:
    """The examples of one epoch: 'centred' (one around every frame), 'tiled', or the items of 'random'.

    'random' and 'random_release' have an item for each window that fits into a clip, and every epoch
    `at_random_starts` puts it anew. Raises UserError on another name.
    """
    if kind not in WINDOW_KINDS:
        raise UserError(f"config.data.windows: expected one of {', '.join(WINDOW_KINDS)}, found {kind!r}")
    return WINDOW_KINDS[kind](clips, frames)


def at_random_starts(keys: jax.Array, windows: Windows, frames: int, last: bool = True) -> Windows:
    """The windows `[B]` moved within their clips, each start uniform over those that fit, from its own key of `[B]`.

    last=False leaves out the last start that fits, as Rommel et al. 2023 released it.
    """
    fitting = windows.high - windows.low + 2 - frames
    choices = jnp.maximum(fitting if last else fitting - 1, 1)
    offset = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count))(keys, choices)
    return windows._replace(start=windows.low + offset)


def counted_once(windows: Windows, frames: int) -> np.ndarray:
    """Which slots `[W, F]` of windows show a frame inside their clip that no window before them shows."""
    number, inside = (np.asarray(part) for part in window_frames(windows, _all_of(windows), frames))
    first = np.zeros(number.size, bool)
    shown = np.flatnonzero(inside)
    first[shown[np.unique(number.ravel()[shown], return_index=True)[1]]] = True
    return first.reshape(number.shape)


def _all_of(windows: Windows) -> jax.Array:
    return jnp.arange(len(windows.start), dtype=jnp.int32)


def _windows(clips: ClipSet, offsets: list[np.ndarray]) -> Windows:
    if not offsets:
        raise UserError("data: expected at least one clip, found none")
    counts = [len(part) for part in offsets]
    low = np.repeat(clips.clip_start, counts)
    high = np.repeat(clips.clip_start + clips.clip_length - 1, counts)
    start = low + np.concatenate(offsets)
    return Windows(*(jnp.asarray(part, jnp.int32) for part in (start, low, high)))


def window_frames(windows: Windows, ids: jax.Array, frames: int) -> tuple[jax.Array, jax.Array]:
    """Frame numbers `[B, F]` of the windows `ids [B]`, clamped to their clips, and which `[B, F]` lie inside."""
    wanted = windows.start[ids][:, None] + jnp.arange(frames, dtype=jnp.int32)[None, :]
    low, high = windows.low[ids][:, None], windows.high[ids][:, None]
    return jnp.clip(wanted, low, high), (wanted >= low) & (wanted <= high)


def gather(clips: DeviceClips, windows: Windows, ids: jax.Array, frames: int) -> Batch:
    """The windows `ids [B]`, their edges repeated where they leave their clip; the batch's index is `ids`."""
    number, _ = window_frames(windows, ids, frames)
    mask = jnp.ones((*number.shape, clips.keypoints.shape[1]), clips.keypoints.dtype)
    if clips.mask is not None:
        mask = _frames(clips.mask, number)
    keypoints, mixture = _frames(clips.keypoints, number), None
    if clips.mixture is not None:
        mixture = unpack_mixture(_frames(clips.mixture, number), keypoints)
    return Batch(keypoints, _frames(clips.poses, number), mask, ids, mixture)


def _frames(array: jax.Array, number: jax.Array) -> jax.Array:
    # The numbers lie inside a clip: without the check of bounds the gather is 1.1 to 1.2 times as fast on CPU.
    return array.at[number].get(mode="promise_in_bounds")


def shuffled(position: jax.Array, epoch: jax.Array, count: int, seed: int) -> jax.Array:
    """The `position`-th window of a random order of `count` windows, without ever storing that order.

    position, epoch `[B]` int32 -> `[B]` int32. Each epoch is another permutation: a four-round Feistel network over
    the smallest square domain that holds `count`, walked until the value falls inside (Black and Rogaway 2002).
    """
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    low_mask = jnp.uint32((1 << half_bits) - 1)
    stream = _mixed(epoch.astype(jnp.uint32) * _GOLDEN + _mixed(jnp.uint32(seed & 0xFFFFFFFF)))
    round_keys = [_mixed(stream + jnp.uint32(i) * _GOLDEN) for i in range(4)]

    def encrypt(value: jax.Array) -> jax.Array:
        left, right = value >> half_bits, value & low_mask
        for i in range(4):
            left, right = right, left ^ (_mixed(right ^ round_keys[i]) & low_mask)
        return (left << half_bits) | right

    inside = encrypt(position.astype(jnp.uint32))
    walked = jax.lax.while_loop(
        lambda value: jnp.any(value >= count), lambda value: jnp.where(value >= count, encrypt(value), value), inside
    )
    return walked.astype(jnp.int32)


_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: its multiples are spread evenly


def _mixed(value: jax.Array) -> jax.Array:
    """A 32-bit integer hash with full avalanche (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
