"""Heatmaps for motion without images: what a good detector would believe, so drawn that the truth is as it believes.

`simulate_heatmaps` extends the simulated detections of `corruptions`: sizes of errors, blur, occlusion and confusion
are the same, but they appear as a distribution, and the keypoints are that distribution's own estimates. A heatmap has
four modes: the joint; where it else could be while the body hides it; the place of its partner while left and right are
confused; and a wide, faint floor. First comes the form of the heatmap, then a draw from it says where in the heatmap
the true joint lies, and the heatmap is put so that it lies there: in the long run just half of the true joints lie
within the heatmaps' central 50 %, whatever is visible, hidden or confused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmaps import Heatmaps, detect, draw_points, person_box
from diffpose_jax.data.detector.keypoint_noise import (
    CPN_LIKE,
    DetectorSettings,
    clip_to_simulate,
    confusion_chance,
    occlusion,
    paired_limbs,
    persistent_noise,
    rare,
    visible_spread,
)
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import image_scale
from diffpose_jax.skeleton import Skeleton

MODES = ("joint", "elsewhere", "partner", "floor")
MAP_SIZE = 128  # of the maps whose estimates become keypoints
CHUNK = 128  # frames worked on at once


class HeatmapSettings(NamedTuple):
    """How the detector's errors, sized by `detector`, are spread over the modes of a heatmap."""

    detector: DetectorSettings = CPN_LIKE
    episode: float = 0.3  # s over which the form of a heatmap persists: what is confused, where else a joint may be
    elongation: float = 0.3  # logarithm of how much longer (and narrower) than round a heatmap on a limb is
    widening: float = 0.5  # of `detector.occlusion`, what widens a hidden joint's modes; the rest is the second mode
    elsewhere: float = 0.5  # the second mode's weight for a hidden joint, at most
    distance: float = 5.0  # from a hidden joint to its second mode, in standard deviations of the visible joint
    partner: tuple[float, float] = (0.1, 0.5)  # range of the weight of a confused joint's mode at its partner


ORDINARY = HeatmapSettings()


class _Form(NamedTuple):
    """What heatmaps look like before they are put in their place, in metres at the person."""

    root: jax.Array  # [T, J, M, 2, 2] symmetric roots of the covariances
    second: jax.Array  # [T, J, 2] from the joint's mode to the one elsewhere
    weights: jax.Array  # [T, J, M]


def simulate_heatmaps(
    key: jax.Array,
    keypoints: jax.Array,
    poses: jax.Array,
    skeleton: Skeleton,
    settings: HeatmapSettings = ORDINARY,
    fps: float | jax.Array = 50.0,
) -> Heatmaps:
    """The heatmaps `[T, J]` that a detector would have of one clip, with modes in the order of `MODES`.

    keypoints `[T, J, 2]`: the exact ones, in any image units; poses `[T, J, 3]` (m, camera frame, root-relative) tell
    depth and scale. settings.detector.strength must be above 0. A pure function of its arguments.
    """
    scale = image_scale(keypoints, poses)[:, None, None]
    plane = keypoints / scale
    hidden = occlusion(plane, poses[..., 2], skeleton)
    limbs = paired_limbs(skeleton)
    frames, joints = hidden.shape
    # One draw for everything compiles faster than one for each purpose.
    lasting = ((settings.detector.persistence, joints * 6), (settings.episode, joints * 4 + len(limbs) * 3))
    seconds = jnp.concatenate([jnp.full(count, second, jnp.float32) for second, count in lasting])
    drawn = persistent_noise(key, (frames, len(seconds)), seconds * fps)
    quick, slow, limb_noise = jnp.split(drawn, [joints * 6, joints * 10], axis=1)
    quick, slow = quick.reshape(frames, joints, 6), slow.reshape(frames, joints, 4)

    confused, at_partner, share = _confusions(limb_noise.reshape(frames, len(limbs), 3), plane, limbs, settings)
    spread = settings.detector.strength * visible_spread(plane, skeleton, settings.detector, fps)
    size = spread * jnp.exp(settings.detector.tail * quick[..., 0])
    form = _form(size, hidden, share, slow[..., :3], plane, skeleton, settings)
    mode = _mode_of_truth(quick[..., 1], slow[..., 3], at_partner, form.weights)

    partner = plane[:, np.array(skeleton.flip_order)] - plane + size[..., None] * quick[..., 2:4]
    partner = jnp.where(at_partner[..., None], -partner, partner)
    partner = jnp.where(confused[..., None], partner, 0.0)
    offsets = jnp.stack([jnp.zeros_like(partner), form.second, partner, jnp.zeros_like(partner)], axis=-2)
    root = jnp.take_along_axis(form.root, mode[..., None, None, None], axis=2)[:, :, 0]
    error = jnp.sum(root * quick[..., None, 4:6], axis=-1)
    place = plane - error - jnp.take_along_axis(offsets, mode[..., None, None], axis=2)[:, :, 0]
    return Heatmaps(
        weights=form.weights,
        means=(place[..., None, :] + offsets) * scale[..., None],
        covariances=form.root @ form.root * (scale**2)[..., None, None],
        occluded=hidden > 0.5,
        confused=confused,
    )


def _confusions(
    drawn: jax.Array, plane: jax.Array, limbs: list[tuple[np.ndarray, np.ndarray]], settings: HeatmapSettings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which joints `[T, J]` are confused, which of them lie in the partner's mode, and the weight of that mode.

    A limb is taken for its partner as often as in the simulated detections, hence ambiguous more often; the joints of
    both limbs share it, so that the estimates exchange whole limbs.
    """
    confused = wrong = jnp.zeros(plane.shape[:2], bool)
    share = jnp.zeros(plane.shape[:2])
    least, most = settings.partner
    weights = least + (most - least) * norm.cdf(drawn[..., 1])
    taken = norm.cdf(drawn[..., 2]) < weights
    for number, (left, right) in enumerate(limbs):
        chance = confusion_chance(plane, left, right, settings.detector) / ((least + most) / 2)
        episode, both = rare(drawn[:, number, 0], chance), np.concatenate([left, right])
        confused = confused.at[:, both].set(episode[:, None])
        wrong = wrong.at[:, both].set((episode & taken[:, number])[:, None])
        share = share.at[:, both].set(jnp.where(episode, weights[:, number], 0.0)[:, None])
    return confused, wrong, share


def _form(
    size: jax.Array,
    hidden: jax.Array,
    share: jax.Array,
    drawn: jax.Array,
    plane: jax.Array,
    skeleton: Skeleton,
    settings: HeatmapSettings,
) -> _Form:
    """The form of heatmaps from the size of errors (m), what is hidden, the partner's share and noise `[T, J, 3]`."""
    detector = settings.detector
    along, stretch = _limb_directions(plane, skeleton, settings.elongation)
    across = jnp.stack([-along[..., 1], along[..., 0]], axis=-1)
    # cosh keeps the mean squared error that of a round heatmap.
    gain = jnp.exp(jnp.stack([stretch, -stretch], axis=-1)) / jnp.sqrt(jnp.cosh(2 * stretch))[..., None]
    axes = jnp.stack([along, across], axis=-1)
    round_ = size * (1 + settings.widening * detector.occlusion * hidden)
    root = round_[..., None, None] * ((axes * gain[..., None, :]) @ jnp.swapaxes(axes, -1, -2))
    floor = jnp.broadcast_to(detector.strength * detector.outlier_distance * jnp.eye(2)[None, None], root.shape)

    turn = drawn[..., :2] / jnp.maximum(jnp.linalg.norm(drawn[..., :2], axis=-1, keepdims=True), 1e-6)
    second = settings.distance * size[..., None] * (turn[..., :1] * along + 0.6 * turn[..., 1:] * across)
    faint = jnp.clip(detector.outlier * (1 + 2 * hidden), 0, 1)
    other = settings.elsewhere * hidden * norm.cdf(drawn[..., 2])
    weights = [(1 - share) * (1 - other), (1 - share) * other, share]
    weights = jnp.stack([(1 - faint) * weight for weight in weights] + [faint], axis=-1)
    return _Form(jnp.stack([root, root, root, floor], axis=-3), second, weights)


def _limb_directions(plane: jax.Array, skeleton: Skeleton, elongation: float) -> tuple[jax.Array, jax.Array]:
    """The direction `[T, J, 2]` of each joint's bone in the image, and how elongated its heatmap is `[T, J]`.

    Only arms and legs are elongated, and less so when foreshortened; the root's direction is to the right.
    """
    limb = np.array([name.endswith(("knee", "ankle", "elbow", "wrist")) for name in skeleton.joints], np.float32)
    parent = np.array([max(parent, 0) for parent in skeleton.parents])
    bone = plane - plane[:, parent]
    length = jnp.linalg.norm(bone, axis=-1, keepdims=True)
    right = jnp.broadcast_to(jnp.array([1.0, 0.0]), bone.shape)
    along = jnp.where(length > 1e-4, bone / jnp.maximum(length, 1e-4), right)
    return along, elongation * limb[None] * jnp.clip(length[..., 0] / 0.2, 0, 1)


def _mode_of_truth(quick: jax.Array, slow: jax.Array, at_partner: jax.Array, weights: jax.Array) -> jax.Array:
    """The mode `[T, J]` that the true joint is drawn from, with the probabilities that the weights say."""
    second = weights[..., 1] / jnp.maximum(weights[..., 0] + weights[..., 1], 1e-9)
    mode = (norm.cdf(slow) < second).astype(jnp.int32)
    mode = jnp.where(at_partner, 2, mode)
    return jnp.where(rare(quick, weights[..., 3]), 3, mode)


def simulated_clips(
    clips: ClipSet,
    seed: int,
    settings: HeatmapSettings = ORDINARY,
    *,
    strength: float = 1.0,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[tuple[jax.Array, slice, Heatmaps]]:
    """A clip at a time: its key, its frames in the set, and its heatmaps `[L, J]` (numpy), L the clip's length or more.

    clips: a set with exact keypoints. A function of seed and clips alone; `track` wraps the sequence of clip numbers,
    for a progress bar. Raises UserError for a set without 3D poses and for a strength of 0.
    """
    if clips.poses is None:
        raise UserError("simulated heatmaps: expected a data set with 3D poses, found keypoints only")
    strength = settings.detector.strength * strength
    if not 0 < strength < np.inf:
        raise UserError(f"simulated heatmaps: expected a strength above 0, found {strength:g}")
    settings = settings._replace(detector=settings.detector._replace(strength=strength))
    for index in track(range(clips.num_clips)):
        key, frames, keypoints, poses, fps = clip_to_simulate(clips, index, seed)
        key, drawing = jax.random.split(key)
        heatmaps = _simulate(key, keypoints, poses, clips.skeleton, settings, fps)
        yield drawing, frames, jax.tree.map(np.asarray, heatmaps)


def heatmap_clipset(
    clips: ClipSet,
    seed: int,
    settings: HeatmapSettings = ORDINARY,
    *,
    strength: float = 1.0,
    size: int = MAP_SIZE,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> ClipSet:
    """Replaces exact keypoints by the estimates of simulated heatmaps, sets the scores, and the visibility.

    size: of the maps that the keypoints are estimated from. Arguments and errors otherwise as `simulated_clips`.
    """
    keypoints, scores = np.empty_like(clips.keypoints), np.empty(clips.keypoints.shape[:2], np.float32)
    visibility = np.zeros(scores.shape, np.uint8)
    for _, frames, heatmaps in simulated_clips(clips, seed, settings, strength=strength, track=track):
        for numbers, inside in _chunks(frames, CHUNK):
            found = _detect(jax.tree.map(lambda array, inside=inside: array[inside], heatmaps), size)
            found = (np.asarray(array)[: len(numbers)] for array in found)
            keypoints[numbers], scores[numbers], visibility[numbers] = found
    return dataclasses.replace(clips, keypoints=keypoints, scores=scores, visibility=visibility)


def heatmap_points(
    clips: ClipSet,
    seed: int,
    settings: HeatmapSettings = ORDINARY,
    *,
    strength: float = 1.0,
    num_points: int = 200,
    size: int | None = None,
    chunk: int = CHUNK,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Points drawn from the heatmaps that `heatmap_clipset` estimates keypoints from, for fitting mixtures to.

    Yields the numbers of at most `chunk` frames `[n]` of one clip, in order, and points `[n, J, num_points, 2]` in the
    units of the keypoints. They depend on seed, clips and frame alone, not on the chunk. size: as if drawn from the
    cells of maps of that size; None draws from the heatmaps as they are. Other arguments as `simulated_clips`.
    """
    for key, frames, heatmaps in simulated_clips(clips, seed, settings, strength=strength, track=track):
        for numbers, inside in _chunks(frames, chunk):
            part = jax.tree.map(lambda array, inside=inside: array[inside], heatmaps)
            yield numbers, _draw(key, inside, part, num_points, size)[: len(numbers)]


def _chunks(frames: slice, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers in the set of at most `size` frames of a clip, and `size` numbers within the clip, the last repeated."""
    length = frames.stop - frames.start
    for first in range(0, length, size):
        inside = np.minimum(first + np.arange(size), length - 1)
        yield np.arange(frames.start + first, frames.start + min(first + size, length)), inside


@functools.partial(jax.jit, static_argnums=3)
def _simulate(
    key: jax.Array, keypoints: jax.Array, poses: jax.Array, skeleton: Skeleton, settings: HeatmapSettings, fps: float
) -> Heatmaps:
    return simulate_heatmaps(key, keypoints, poses, skeleton, settings, fps)


@functools.partial(jax.jit, static_argnums=1)
def _detect(heatmaps: Heatmaps, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    def frame(person: Heatmaps) -> tuple[jax.Array, jax.Array]:
        one = jax.tree.map(lambda array: array[None], person)
        return jax.tree.map(lambda array: array[0], detect(one, person_box(one), size))

    keypoints, scores = jax.lax.map(frame, heatmaps, batch_size=4)
    visibility = jnp.where(heatmaps.confused, 2, heatmaps.occluded.astype(jnp.int32))
    return keypoints, scores, visibility.astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _draw(key: jax.Array, frame: jax.Array, heatmaps: Heatmaps, num_points: int, size: int | None) -> jax.Array:
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(frame)
    return draw_points(keys, heatmaps, num_points, person_box(heatmaps), size)
