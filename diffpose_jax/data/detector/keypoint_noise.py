"""What a 2D detector does to keypoints: noise that follows speed and occlusion, confusions of sides, outliers, gaps.

A lifter trained on exact projections fails on detections. `simulate_detector` damages exact keypoints as a good
detector would: errors are heavy-tailed, last for several frames, grow with speed and behind limbs, and are larger at
wrists and ankles. All sizes are given in metres at the distance of the person, so that they scale with the person in
the image. At strength 1 the mean error is about that of CPN, fine-tuned, on Human3.6M (5 to 8 pixels of 1000).
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import image_scale
from diffpose_jax.skeleton import Skeleton

# Standard deviation in metres of an unoccluded joint at rest, by the last word of its name.
_BASE = {
    "hip": 0.012, "knee": 0.010, "ankle": 0.013, "shoulder": 0.011, "elbow": 0.014, "wrist": 0.018,
    "pelvis": 0.008, "spine": 0.009, "thorax": 0.008, "neck": 0.008, "nose": 0.008, "head": 0.009, "top": 0.010,
}  # fmt: skip
_BASE_OTHERWISE = 0.012

# Half the thickness in metres of the body part between a joint and its parent, by the last word of the joint's name.
_THICKNESS = {
    "knee": 0.07, "ankle": 0.05, "elbow": 0.045, "wrist": 0.04, "spine": 0.13, "thorax": 0.13, "hip": 0.09,
    "shoulder": 0.07, "neck": 0.06, "nose": 0.08, "head": 0.09, "top": 0.09,
}  # fmt: skip
_THICKNESS_OTHERWISE = 0.04


class DetectorSettings(NamedTuple):
    """How good the simulated detector is; `strength` scales the noise, 0 leaves the keypoints as they are."""

    strength: float = 1.0
    blur: float = 0.004  # s: a joint moving at 1 m/s in the image plane gets 4 mm more
    occlusion: float = 2.0  # a hidden joint's error is 1 + this times a visible one's
    tail: float = 0.5  # spread of the logarithm of the error's size; 0 is Gaussian
    persistence: float = 0.08  # s over which errors are correlated
    confusion: float = 0.01  # share of frames in which an arm or leg that overlaps its partner is taken for it
    outlier: float = 0.002  # share of frames in which a visible joint is found elsewhere (a hidden one: three times)
    outlier_distance: float = 0.2  # m


CPN_LIKE = DetectorSettings()


def simulate_detector(
    key: jax.Array,
    keypoints: jax.Array,
    poses: jax.Array,
    skeleton: Skeleton,
    settings: DetectorSettings = CPN_LIKE,
    fps: float | jax.Array = 50.0,
) -> tuple[jax.Array, jax.Array]:
    """Damages the exact keypoints `[T, J, 2]` (any image units) of one clip as a detector would.

    poses `[T, J, 3]` (m, camera frame, root-relative) tell depth and scale. Returns keypoints `[T, J, 2]` in the same
    units and scores `[T, J]` in (0, 1]: how sure the detector would be, low behind limbs and at fast joints. A pure
    function of its arguments.
    """
    scale = image_scale(keypoints, poses)[:, None]
    plane = keypoints / scale[..., None]
    hidden = occlusion(plane, poses[..., 2], skeleton)
    sigma = visible_spread(plane, skeleton, settings, fps) * (1 + settings.occlusion * hidden)

    # One draw for everything compiles several times faster than one for each purpose.
    limbs = paired_limbs(skeleton)
    shape = (len(plane), skeleton.num_joints, 7)
    drawn = persistent_noise(key, (shape[0], shape[1] * shape[2] + len(limbs)), settings.persistence * fps)
    confused, drawn = drawn[:, shape[1] * shape[2] :], drawn[:, : shape[1] * shape[2]].reshape(shape)
    size = jnp.exp(settings.tail * drawn[..., 0])
    noise = (sigma * size)[..., None] * drawn[..., 1:3]
    lost = rare(drawn[..., 3], settings.outlier * (1 + 2 * hidden))
    jump = jnp.where(lost[..., None], settings.outlier_distance * drawn[..., 4:6], 0.0)
    swapped = _confuse(confused, plane, limbs, settings)
    detected = swapped + settings.strength * (noise + jump)
    doubt = sigma * size * jnp.exp(0.3 * drawn[..., 6]) / 0.08 + jnp.where(lost, 0.7, 0.0)
    return detected * scale[..., None], jnp.exp(-settings.strength * doubt)


def occlusion(plane: jax.Array, depth: jax.Array, skeleton: Skeleton) -> jax.Array:
    """Estimates how much of every joint the person's own body hides, `[..., J]` from 0 to 1, from the order of depths.

    plane `[..., J, 2]`: image coordinates in metres at the person; depth `[..., J]` (m, away from the camera). A joint
    is hidden where a body part that does not end in it covers it in the image and lies nearer by more than its
    thickness.
    """
    child, parent = (np.array(ends) for ends in zip(*skeleton.bones, strict=True))
    radius = jnp.array([_by_name(_THICKNESS, _THICKNESS_OTHERWISE, skeleton.joints[c]) for c in child], jnp.float32)
    start, along = plane[..., None, parent, :], (plane[..., child, :] - plane[..., parent, :])[..., None, :, :]
    gap = plane[..., :, None, :] - start
    share = jnp.sum(gap * along, axis=-1) / jnp.maximum(jnp.sum(along**2, axis=-1), 1e-6)
    share = jnp.clip(share, 0, 1)
    distance = jnp.linalg.norm(gap - share[..., None] * along, axis=-1)
    depth_start, depth_end = depth[..., None, parent], depth[..., None, child]
    behind = depth[..., :, None] - (depth_start + share * (depth_end - depth_start))
    broad = jnp.broadcast_to(radius, distance.shape)
    covered = jax.nn.sigmoid((broad - distance) / 0.015) * jax.nn.sigmoid((behind - broad) / 0.015)
    own = (np.arange(skeleton.num_joints)[:, None] == child) | (np.arange(skeleton.num_joints)[:, None] == parent)
    covered = jnp.where(jnp.broadcast_to(own, covered.shape), 0.0, covered)
    return 1 - jnp.prod(1 - covered, axis=-1)


def corrupt_clipset(
    clipset: ClipSet,
    seed: int,
    settings: DetectorSettings = CPN_LIKE,
    *,
    strength: float = 1.0,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> ClipSet:
    """Replaces exact keypoints by simulated detections and sets the scores; a function of seed and clips alone.

    `strength` multiplies that of the settings; `track` wraps the sequence of clip numbers, for a progress bar. Raises
    UserError for a set without 3D poses, from which occlusion could not be told.
    """
    if clipset.poses is None:
        raise UserError("simulated detections: expected a data set with 3D poses, found keypoints only")
    settings = settings._replace(strength=settings.strength * strength)
    keypoints, scores = np.empty_like(clipset.keypoints), np.empty(clipset.keypoints.shape[:2], np.float32)
    for index in track(range(clipset.num_clips)):
        key, frames, *padded, fps = clip_to_simulate(clipset, index, seed)
        found = _simulate(key, *padded, clipset.skeleton, settings, fps)
        keypoints[frames], scores[frames] = (np.asarray(array)[: frames.stop - frames.start] for array in found)
    return dataclasses.replace(clipset, keypoints=keypoints, scores=scores)


def clip_to_simulate(clipset: ClipSet, index: int, seed: int) -> tuple[jax.Array, slice, np.ndarray, np.ndarray, float]:
    """A clip's own key, its frames in the set, keypoints `[L, J, 2]` and poses `[L, J, 3]`, and frames per second.

    Clips have many lengths; repeating the last frame up to powers of two keeps the number of compiled versions small.
    """
    clip = clipset.clip(index)
    name = f"{clip.subject}/{clip.action}/{clip.camera}/{index}"
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    start, length = int(clipset.clip_start[index]), len(clip.keypoints)
    padding = ((0, max(1 << (length - 1).bit_length(), 128) - length), (0, 0), (0, 0))
    keypoints, poses = (np.pad(array, padding, mode="edge") for array in (clip.keypoints, clip.poses))
    return key, slice(start, start + length), keypoints, poses, clip.fps


_simulate = functools.partial(jax.jit, static_argnums=3)(simulate_detector)


def _by_name(table: dict[str, float], otherwise: float, joint: str) -> float:
    return table.get(joint.split("_")[-1], otherwise)


def visible_spread(
    plane: jax.Array, skeleton: Skeleton, settings: DetectorSettings, fps: float | jax.Array
) -> jax.Array:  # fmt: skip
    """The standard deviation `[T, J]` in metres of joints that nothing hides, larger in motion; plane `[T, J, 2]` m."""
    base = jnp.array([_by_name(_BASE, _BASE_OTHERWISE, name) for name in skeleton.joints], jnp.float32)
    padded = jnp.concatenate([plane[:1], plane, plane[-1:]])
    speed = jnp.linalg.norm(padded[2:] - padded[:-2], axis=-1) * fps / 2
    return base[None] + settings.blur * speed


def persistent_noise(key: jax.Array, shape: tuple[int, ...], frames: float | jax.Array) -> jax.Array:
    """Standard normal noise `[T, ...]` whose correlation over time (axis 0) falls as exp(-lag / frames)."""
    white = jax.random.normal(key, shape)
    keep = jnp.exp(-1 / jnp.maximum(frames, 1e-3)).astype(white.dtype)

    def step(last: jax.Array, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = keep * last + jnp.sqrt(1 - keep**2) * fresh
        return value, value

    _, rest = jax.lax.scan(step, white[0], white[1:])
    return jnp.concatenate([white[:1], rest])


def rare(drawn: jax.Array, chance: jax.Array) -> jax.Array:
    """Where standard normal draws `[...]` exceed the level that a share `chance` does; nowhere if it is 0."""
    return jnp.logical_and(drawn > norm.isf(jnp.clip(chance, 1e-9, 0.5)), chance > 0)


def _confuse(
    drawn: jax.Array, plane: jax.Array, limbs: list[tuple[np.ndarray, np.ndarray]], settings: DetectorSettings
) -> jax.Array:
    """Exchanges arms or legs (joints of both sides, as a limb) for some frames, mostly where the two overlap."""
    for number, (left, right) in enumerate(limbs):
        wrong = rare(drawn[:, number], confusion_chance(plane, left, right, settings))
        both, other = np.concatenate([left, right]), np.concatenate([right, left])
        plane = plane.at[:, both].set(jnp.where(wrong[:, None, None], plane[:, other], plane[:, both]))
    return plane


def confusion_chance(
    plane: jax.Array, left: np.ndarray, right: np.ndarray, settings: DetectorSettings
) -> jax.Array:  # fmt: skip
    """The share of frames `[T]` in which a limb is taken for its partner: ten times higher where they overlap."""
    apart = jnp.mean(jnp.linalg.norm(plane[:, left] - plane[:, right], axis=-1), axis=-1)
    return settings.strength * settings.confusion * (0.1 + 0.9 * jnp.exp(-((apart / 0.2) ** 2)))


def paired_limbs(skeleton: Skeleton) -> list[tuple[np.ndarray, np.ndarray]]:
    """Left and right joints of the arms and of the legs, whichever the layout has."""
    order = np.array(skeleton.flip_order)
    limbs = []
    for words in (("elbow", "wrist"), ("knee", "ankle")):
        left = np.array([j for j in skeleton.left if skeleton.joints[j].endswith(words)], int)
        if len(left):
            limbs.append((left, order[left]))
    return limbs
