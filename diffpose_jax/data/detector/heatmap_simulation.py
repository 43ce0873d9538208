"""Simulated heatmaps for motion without images: what a good detector would believe, with the truth drawn from it.

Sizes of errors, blur, occlusion and confusion are those of simulated keypoints (`error_model`), but they appear as a
distribution, and the keypoints are that distribution's own estimates. A heatmap has four modes: the joint; where else
it could be while the body hides it; the place of its partner while left and right are confused; and a wide, faint
floor. First comes the form of the heatmap, then a draw from it says where in the heatmap the true joint lies, and the
heatmap is put so that it lies there: in the long run just half of the true joints lie within the heatmaps' central
50 %, whatever is visible, hidden or confused.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffpose_jax.data.detector.error_model import (
    CPN_LIKE,
    DetectorSettings,
    confusion_probability,
    draw_persistent_noise,
    estimate_occlusion,
    find_paired_limbs,
    occurs,
    visible_std,
)
from diffpose_jax.data.detector.heatmaps import Heatmaps
from diffpose_jax.geometry import image_scale
from diffpose_jax.skeleton import Skeleton

JOINT, ELSEWHERE, PARTNER, FLOOR = range(4)  # the modes of a heatmap, in the order of their components


class HeatmapSettings(NamedTuple):
    """How the detector's errors, sized by `detector`, are distributed over the modes of a heatmap."""

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
    """The heatmaps `[T, J]` that a detector would have of one clip.

    Args:
        key: One key.
        keypoints: Exact keypoints `[T, J, 2]`, in any image units, which become those of the heatmaps.
        poses: `[T, J, 3]` metres, camera frame, root-relative, which tell depth and scale.
        skeleton: The joint layout.
        settings: How the detector errs; the strength of `settings.detector` must be above 0.
        fps: Frames per second.

    Returns:
        Heatmaps with components in the order JOINT, ELSEWHERE, PARTNER, FLOOR.
    """
    scale = image_scale(keypoints, poses)[:, None, None]
    plane = keypoints / scale
    hidden = estimate_occlusion(plane, poses[..., 2], skeleton)
    limbs = find_paired_limbs(skeleton)
    frames, joints = hidden.shape
    # One draw for everything compiles faster than one for each purpose.
    lasting = ((settings.detector.persistence, joints * 6), (settings.episode, joints * 4 + len(limbs) * 3))
    seconds = jnp.concatenate([jnp.full(count, second, jnp.float32) for second, count in lasting])
    drawn = draw_persistent_noise(key, (frames, len(seconds)), seconds * fps)
    quick, slow, limb_noise = jnp.split(drawn, [joints * 6, joints * 10], axis=1)
    quick, slow = quick.reshape(frames, joints, 6), slow.reshape(frames, joints, 4)

    confused, at_partner, share = _confusions(limb_noise.reshape(frames, len(limbs), 3), plane, limbs, settings)
    std = settings.detector.strength * visible_std(plane, skeleton, settings.detector, fps)
    size = std * jnp.exp(settings.detector.tail * quick[..., 0])
    form = _form(size, hidden, share, slow[..., :3], plane, skeleton, settings)
    mode = _mode_of_truth(quick[..., 1], slow[..., 3], at_partner, form.weights)

    # To the partner's place, seen with an error of its own; back from there where the truth lies in that mode.
    partner = plane[:, np.array(skeleton.flip_order)] - plane + size[..., None] * quick[..., 2:4]
    partner = jnp.where(at_partner[..., None], -partner, partner)
    partner = jnp.where(confused[..., None], partner, 0.0)
    return Heatmaps(
        weights=form.weights,
        means=_place_modes(plane, form, partner, mode, quick[..., 4:6]) * scale[..., None],
        covariances=jnp.matmul(form.root, form.root, precision="highest") * (scale**2)[..., None, None],
        occluded=hidden > 0.5,
        confused=confused,
    )


def _confusions(
    drawn: jax.Array, plane: jax.Array, limbs: list[tuple[np.ndarray, np.ndarray]], settings: HeatmapSettings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which joints `[T, J]` are confused, which of them truly lie in the partner's mode, and the weight of that mode.

    The joints of both limbs share it, so that the estimates exchange whole limbs.
    """
    confused = wrong = jnp.zeros(plane.shape[:2], bool)
    share = jnp.zeros(plane.shape[:2])
    # The weight of the partner's mode is uniform in its range; the truth lies there with that probability. The estimate
    # is then mostly wrong, which must happen as often as in simulated keypoints, so the episodes are more frequent
    # than that by one over the mean weight.
    least, most = settings.partner
    weights = least + (most - least) * norm.cdf(drawn[..., 1])
    taken = norm.cdf(drawn[..., 2]) < weights
    for index, (left, right) in enumerate(limbs):
        probability = confusion_probability(plane, left, right, settings.detector) / ((least + most) / 2)
        episode, both = occurs(drawn[:, index, 0], probability), np.concatenate([left, right])
        confused = confused.at[:, both].set(episode[:, None])
        wrong = wrong.at[:, both].set((episode & taken[:, index])[:, None])
        share = share.at[:, both].set(jnp.where(episode, weights[:, index], 0.0)[:, None])
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
    """The form of heatmaps.

    Args:
        size: Standard deviation of visible joints' errors `[T, J]`, m.
        hidden: How much of each joint is hidden `[T, J]`, 0 to 1.
        share: Weight of the partner's mode `[T, J]`.
        drawn: Standard normal noise `[T, J, 3]`.
        plane: Image coordinates `[T, J, 2]` in metres at the person.
        skeleton: The joint layout.
        settings: How the detector errs.
    """
    detector = settings.detector
    along, stretch = _limb_directions(plane, skeleton, settings.elongation)
    across = jnp.stack([-along[..., 1], along[..., 0]], axis=-1)
    # Gains e^s and e^-s along and across the limb, over sqrt(cosh 2 s): their squares add up to
    # (e^2s + e^-2s) / cosh 2 s = 2, so the mean squared error is that of a round heatmap.
    gain = jnp.exp(jnp.stack([stretch, -stretch], axis=-1)) / jnp.sqrt(jnp.cosh(2 * stretch))[..., None]
    axes = jnp.stack([along, across], axis=-1)
    widened = size * (1 + settings.widening * detector.occlusion * hidden)
    turned = jnp.matmul(axes * gain[..., None, :], jnp.swapaxes(axes, -1, -2), precision="highest")
    root = widened[..., None, None] * turned
    floor = jnp.broadcast_to(detector.strength * detector.outlier_distance * jnp.eye(2)[None, None], root.shape)

    # The second mode lies in a random direction, farther away along the limb than across it. Its direction and weight
    # come from slow noise, so that they last. The floor takes the share of outliers from all modes.
    turn = drawn[..., :2] / jnp.maximum(jnp.linalg.norm(drawn[..., :2], axis=-1, keepdims=True), 1e-6)
    second = settings.distance * size[..., None] * (turn[..., :1] * along + 0.6 * turn[..., 1:] * across)
    faint = jnp.clip(detector.outlier * (1 + 2 * hidden), 0, 1)
    other = settings.elsewhere * hidden * norm.cdf(drawn[..., 2])
    weights = [(1 - share) * (1 - other), (1 - share) * other, share]
    stacked = jnp.stack([(1 - faint) * weight for weight in weights] + [faint], axis=-1)
    return _Form(jnp.stack([root, root, root, floor], axis=-3), second, stacked)


def _place_modes(
    plane: jax.Array, form: _Form, partner: jax.Array, mode: jax.Array, normal: jax.Array
) -> jax.Array:  # fmt: skip
    """The means of all modes, such that the true joint is a draw from its mode.

    Args:
        plane: The true joints `[T, J, 2]`, metres at the person.
        form: Their heatmaps' form.
        partner: From the joint's mode to the one at its partner `[T, J, 2]`.
        mode: The mode of the truth `[T, J]`.
        normal: Standard normal noise `[T, J, 2]`.

    Returns:
        Means `[T, J, M, 2]`, metres at the person.
    """
    offsets = jnp.stack([jnp.zeros_like(partner), form.second, partner, jnp.zeros_like(partner)], axis=-2)
    # The true joint is to be a draw of its mode, mean + root z with standard normal z. With means at place + offset
    # this puts the heatmap at place = truth - root z - offset of that mode.
    root = jnp.take_along_axis(form.root, mode[..., None, None, None], axis=2)[:, :, 0]
    error = jnp.sum(root * normal[..., None, :], axis=-1)
    place = plane - error - jnp.take_along_axis(offsets, mode[..., None, None], axis=2)[:, :, 0]
    return place[..., None, :] + offsets


def _limb_directions(plane: jax.Array, skeleton: Skeleton, elongation: float) -> tuple[jax.Array, jax.Array]:
    """The direction `[T, J, 2]` of each joint's bone in the image, and how elongated its heatmap is `[T, J]`.

    Only arms and legs are elongated, and less so when foreshortened; the root's direction is to the right.
    """
    limb = [float(name.endswith(("knee", "ankle", "elbow", "wrist"))) for name in skeleton.joints]
    parent = np.array([max(parent, 0) for parent in skeleton.parents])
    bone = plane - plane[:, parent]
    length = jnp.linalg.norm(bone, axis=-1, keepdims=True)
    right = jnp.broadcast_to(jnp.array([1.0, 0.0]), bone.shape)
    along = jnp.where(length > 1e-4, bone / jnp.maximum(length, 1e-4), right)
    return along, elongation * jnp.array([limb], jnp.float32) * jnp.clip(length[..., 0] / 0.2, 0, 1)


def _mode_of_truth(quick: jax.Array, slow: jax.Array, at_partner: jax.Array, weights: jax.Array) -> jax.Array:
    """The mode `[T, J]` that the true joint is drawn from, with the probabilities that the weights say."""
    second = weights[..., ELSEWHERE] / jnp.maximum(weights[..., JOINT] + weights[..., ELSEWHERE], 1e-9)
    mode = (norm.cdf(slow) < second).astype(jnp.int32)  # JOINT or ELSEWHERE
    mode = jnp.where(at_partner, PARTNER, mode)
    return jnp.where(occurs(quick, weights[..., FLOOR]), FLOOR, mode)
