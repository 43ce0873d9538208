"""Keypoint noise: exact keypoints as a good 2D detector would find them.

A lifter trained on exact projections fails on detections. Simulated errors are heavy-tailed, last for several frames,
grow with speed and behind limbs, and are larger at wrists and ankles (`error_model`); limbs are confused with their
partners, and single joints are found somewhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.error_model import (
    CPN_LIKE,
    SURE,
    DetectorSettings,
    bias_matrix,
    confusion_probability,
    draw_persistent_noise,
    estimate_occlusion,
    find_paired_limbs,
    occurs,
    visible_std,
)
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import image_scale
from diffpose_jax.progress import track
from diffpose_jax.skeleton import Skeleton

_BIAS_STREAM = 1


def simulate_detector(
    key: jax.Array,
    keypoints: jax.Array,
    poses: jax.Array,
    skeleton: Skeleton,
    settings: DetectorSettings = CPN_LIKE,
    fps: float | jax.Array = 50.0,
) -> tuple[jax.Array, jax.Array]:
    """Add to the exact keypoints of one clip the errors that a detector would make.

    Args:
        key: One key.
        keypoints: Exact keypoints `[T, J, 2]`, in any image units.
        poses: `[T, J, 3]` metres, camera frame, root-relative, which tell depth and scale.
        skeleton: The joint layout.
        settings: How good the detector is.
        fps: Frames per second.

    Returns:
        Keypoints `[T, J, 2]` in the same units, and scores `[T, J]` in (0, 1]: how sure the detector would be, low
        behind limbs and at fast joints.
    """
    scale = image_scale(keypoints, poses)[:, None]
    plane = keypoints / scale[..., None]
    hidden = estimate_occlusion(plane, poses[..., 2], skeleton)
    # A hidden joint is guessed from the rest of the body: three times the error of a visible one by default.
    std = visible_std(plane, skeleton, settings, fps) * (1 + settings.occlusion * hidden)

    # One draw for everything compiles several times faster than one for each purpose.
    limbs = find_paired_limbs(skeleton)
    shape = (len(plane), skeleton.num_joints, 7)
    drawn = draw_persistent_noise(key, (shape[0], shape[1] * shape[2] + len(limbs)), settings.persistence * fps)
    confused, drawn = drawn[:, shape[1] * shape[2] :], drawn[:, : shape[1] * shape[2]].reshape(shape)
    # A normal error whose size is log-normal: heavy tails.
    size = jnp.exp(settings.tail * drawn[..., 0])
    noise = (std * size)[..., None] * drawn[..., 1:3]
    lost = occurs(drawn[..., 3], settings.outlier * (1 + 2 * hidden))
    # A key of its own, so that a detector without bias makes the errors that it always made.
    biases = settings.bias * bias_matrix(skeleton)
    lasting = biases @ jax.random.normal(jax.random.fold_in(key, _BIAS_STREAM), (biases.shape[1], 2))
    jump = jnp.where(lost[..., None], settings.outlier_distance * drawn[..., 4:6], 0.0)
    swapped = _confuse(confused, plane, limbs, settings)
    detected = swapped + settings.strength * (noise + jump + lasting[None])
    # The score falls with the scale of the error, about which it is wrong by a factor: exp(-1) at `SURE`. It is halved
    # (exp(-0.7)) for an outlier.
    error = jnp.hypot(std * size, jnp.linalg.norm(biases, axis=1)[None])
    doubt = error * jnp.exp(0.3 * drawn[..., 6]) / SURE + jnp.where(lost, 0.7, 0.0)
    return detected * scale[..., None], jnp.exp(-settings.strength * doubt)


def add_keypoint_noise(
    clips: ClipSet, seed: int, settings: DetectorSettings = CPN_LIKE, *, strength: float = 1.0, label: str | None = None
) -> ClipSet:
    """Replace exact keypoints by simulated detections and set the scores; a function of seed and clips alone.

    Args:
        clips: A set with exact keypoints and 3D poses.
        seed: Seed of all draws.
        settings: How good the detector is.
        strength: Multiplies the strength of the settings.
        label: What a progress bar calls the data; None shows none.

    Raises:
        UserError: For a set without 3D poses, from which occlusion could not be told.
    """
    if clips.poses is None:
        raise UserError("simulated detections: expected a data set with 3D poses, found keypoints only")
    settings = settings._replace(strength=settings.strength * strength)
    keypoints, scores = np.empty_like(clips.keypoints), np.empty(clips.keypoints.shape[:2], np.float32)
    for index in track(label and f"keypoint noise of {label}", range(clips.num_clips), "clips"):
        key, frames, *padded, fps = pad_clip(clips, index, seed)
        found = _simulate(key, *padded, clips.skeleton, settings, fps)
        keypoints[frames], scores[frames] = (np.asarray(array)[: frames.stop - frames.start] for array in found)
    return dataclasses.replace(clips, keypoints=keypoints, scores=np.where(clips.seen, scores, np.float32(0)))


def pad_clip(clips: ClipSet, index: int, seed: int) -> tuple[jax.Array, slice, np.ndarray, np.ndarray, float]:
    """The key of a clip of its own, its frames in the set, keypoints `[L, J, 2]` and poses `[L, J, 3]`, and its fps.

    Clips have many lengths; repeating the last frame up to powers of two keeps the number of compiled versions small.
    """
    clip = clips.clip(index)
    name = f"{clip.subject}/{clip.action}/{clip.camera}/{index}"
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    start, length = int(clips.clip_start[index]), len(clip.keypoints)
    padding = ((0, max(1 << (length - 1).bit_length(), 128) - length), (0, 0), (0, 0))
    keypoints, poses = (np.pad(np.asarray(array), padding, mode="edge") for array in (clip.keypoints, clip.poses))
    return key, slice(start, start + length), keypoints, poses, clip.fps


_simulate = functools.partial(jax.jit, static_argnums=3)(simulate_detector)


def _confuse(
    drawn: jax.Array, plane: jax.Array, limbs: list[tuple[np.ndarray, np.ndarray]], settings: DetectorSettings
) -> jax.Array:
    """Exchange arms or legs (joints of both sides, as a limb) in some frames, mostly where the two overlap."""
    for index, (left, right) in enumerate(limbs):
        wrong = occurs(drawn[:, index], confusion_probability(plane, left, right, settings))
        both, other = np.concatenate([left, right]), np.concatenate([right, left])
        plane = plane.at[:, both].set(jnp.where(wrong[:, None, None], plane[:, other], plane[:, both]))
    return plane
