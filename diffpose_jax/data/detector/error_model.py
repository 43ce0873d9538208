"""The errors of a good 2D detector: their size, how long they last, what hides a joint, which limbs are confused.

Shared by the two simulations, of keypoints (`keypoint_noise`) and of heatmaps (`heatmap_simulation`). All sizes are in
metres at the distance of the person, so that they scale with the person in the image. At strength 1 the mean error is
about that of CPN, fine-tuned, on Human3.6M (5 to 8 pixels of 1000).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import COCO_17, Skeleton, layout_matrix

# Standard deviation in metres of an unoccluded joint at rest, by the last word of its name.
_STD = {
    "hip": 0.012, "knee": 0.010, "ankle": 0.013, "shoulder": 0.011, "elbow": 0.014, "wrist": 0.018,
    "pelvis": 0.008, "spine": 0.009, "thorax": 0.008, "neck": 0.008, "nose": 0.008, "head": 0.009, "top": 0.010,
}  # fmt: skip
_STD_OTHERWISE = 0.012

# Standard deviation in metres, along each axis of the image, of the mean error of a joint over a clip: what BlazePose
# calls a joint is not where motion capture has it, and how far off depends on the view. Of twelve joints of a man in
# four calibrated views (`experiments/beam.py`): 2.3 cm for hips, 1.2 to 1.4 cm for the others.
_BIAS = {"hip": 0.023, "ear": 0.02}
_BIAS_OTHERWISE = 0.014

# Half the thickness in metres of the body part between a joint and its parent, by the last word of the joint's name.
_THICKNESS = {
    "knee": 0.07, "ankle": 0.05, "elbow": 0.045, "wrist": 0.04, "spine": 0.13, "thorax": 0.13, "hip": 0.09,
    "shoulder": 0.07, "neck": 0.06, "nose": 0.08, "head": 0.09, "top": 0.09,
}  # fmt: skip
_THICKNESS_OTHERWISE = 0.04
SURE = 0.08  # m: a joint whose error has this standard deviation has the score exp(-1)
_SOFTNESS = 0.015  # m over which a joint passes from seen to hidden, in the image and in depth


class DetectorSettings(NamedTuple):
    """How good the simulated detector is; `strength` scales its errors, 0 leaves the keypoints as they are."""

    strength: float | jax.Array = 1.0
    blur: float = 0.004  # s: a joint moving at 1 m/s in the image plane gets 4 mm more
    occlusion: float = 2.0  # a hidden joint's error is 1 + this times a visible one's
    tail: float = 0.5  # standard deviation of the logarithm of the error's size; 0 is Gaussian
    persistence: float = 0.08  # s over which errors are correlated
    bias: float = 0.0  # multiple of BlazePose's errors that last for a whole clip; a detector trained on the joints: 0
    confusion: float = 0.01  # share of frames in which an arm or leg that overlaps its partner is taken for it
    outlier: float = 0.002  # share of frames in which a visible joint is found elsewhere (a hidden one: three times)
    outlier_distance: float = 0.2  # m


CPN_LIKE = DetectorSettings()


def estimate_occlusion(plane: jax.Array, depth: jax.Array, skeleton: Skeleton) -> jax.Array:
    """Estimate how much the person's own body hides every joint, `[..., J]` from 0 to 1, from the order of depths.

    plane `[..., J, 2]`: image coordinates in metres at the person; depth `[..., J]` (m, away from the camera). A joint
    is hidden where a body part that does not end in it covers it in the image and lies nearer by more than its
    thickness.
    """
    child, parent = (np.array(ends) for ends in zip(*skeleton.bones, strict=True))
    radius = jnp.array([_by_name(_THICKNESS, _THICKNESS_OTHERWISE, skeleton.joints[c]) for c in child], jnp.float32)
    # Axes [..., joint, bone]. The point of a bone nearest to a joint lies at the share (gap . along) / |along|^2 of the
    # way from the parent to the child, kept between the two ends.
    start, along = plane[..., None, parent, :], (plane[..., child, :] - plane[..., parent, :])[..., None, :, :]
    gap = plane[..., :, None, :] - start
    share = jnp.sum(gap * along, axis=-1) / jnp.maximum(jnp.sum(along**2, axis=-1), 1e-6)
    share = jnp.clip(share, 0, 1)
    distance = jnp.linalg.norm(gap - share[..., None] * along, axis=-1)
    depth_start, depth_end = depth[..., None, parent], depth[..., None, child]
    behind = depth[..., :, None] - (depth_start + share * (depth_end - depth_start))
    thickness = jnp.broadcast_to(radius, distance.shape)
    covered = jax.nn.sigmoid((thickness - distance) / _SOFTNESS) * jax.nn.sigmoid((behind - thickness) / _SOFTNESS)
    own = (np.arange(skeleton.num_joints)[:, None] == child) | (np.arange(skeleton.num_joints)[:, None] == parent)
    covered = jnp.where(jnp.broadcast_to(own, covered.shape), 0.0, covered)
    # Seen is what no body part covers.
    return 1 - jnp.prod(1 - covered, axis=-1)


def visible_std(
    plane: jax.Array, skeleton: Skeleton, settings: DetectorSettings, fps: float | jax.Array
) -> jax.Array:  # fmt: skip
    """The standard deviation of the error of joints that nothing hides, larger in motion.

    Args:
        plane: Image coordinates `[T, J, 2]` in metres at the person.
        skeleton: The joint layout.
        settings: `blur` is taken from it.
        fps: Frames per second.

    Returns:
        Standard deviations `[T, J]` in metres.
    """
    base = jnp.array([_by_name(_STD, _STD_OTHERWISE, name) for name in skeleton.joints], jnp.float32)
    # Central differences, (x_{t+1} - x_{t-1}) fps / 2. At both ends the clip stands still, so that the speed is half of
    # the one-sided difference there.
    padded = jnp.concatenate([plane[:1], plane, plane[-1:]])
    speed = jnp.linalg.norm(padded[2:] - padded[:-2], axis=-1) * fps / 2
    return base[None] + settings.blur * speed


def bias_matrix(skeleton: Skeleton) -> np.ndarray:
    """The matrix `[J, K]` (m) that makes errors of a whole clip of K independent standard normal numbers.

    A detector finds the joints of COCO; those that it lacks are made of others (`skeleton.layout_matrix`), so that
    the pelvis is off as the hips are. Joints of a layout that cannot be made of COCO's err independently.
    """
    try:
        found, matrix = COCO_17.joints, layout_matrix(COCO_17, skeleton)
    except UserError:
        found, matrix = skeleton.joints, np.eye(skeleton.num_joints, dtype=np.float32)
    return matrix * np.array([_by_name(_BIAS, _BIAS_OTHERWISE, joint) for joint in found], np.float32)


def draw_persistent_noise(key: jax.Array, shape: tuple[int, ...], frames: float | jax.Array) -> jax.Array:
    """Draw standard normal noise `[T, ...]` whose correlation over time (axis 0) falls as exp(-lag / frames)."""
    white = jax.random.normal(key, shape)
    # x_t = r x_{t-1} + sqrt(1 - r^2) w_t keeps the variance at r^2 + (1 - r^2) = 1 and has correlation r^lag.
    r = jnp.exp(-1 / jnp.maximum(frames, 1e-3)).astype(white.dtype)

    def step(last: jax.Array, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = r * last + jnp.sqrt(1 - r**2) * fresh
        return value, value

    _, rest = jax.lax.scan(step, white[0], white[1:])
    return jnp.concatenate([white[:1], rest])


def occurs(normal: jax.Array, probability: jax.Array) -> jax.Array:
    """Decide by standard normal draws `[...]` where events of a probability occur; nowhere if it is 0.

    P(x > isf(p)) = p: as long as the draws last from frame to frame, so do the events.
    """
    return jnp.logical_and(normal > norm.isf(jnp.clip(probability, 1e-9, 0.5)), probability > 0)


def confusion_probability(
    plane: jax.Array, left: np.ndarray, right: np.ndarray, settings: DetectorSettings
) -> jax.Array:  # fmt: skip
    """The share of frames in which a limb is taken for its partner, ten times higher where the two overlap.

    Args:
        plane: Image coordinates `[T, J, 2]` in metres at the person.
        left: Indices of the left limb's joints.
        right: Indices of their partners.
        settings: `strength` and `confusion` are taken from it.

    Returns:
        Probabilities `[T]`.
    """
    # A tenth of the rate remains far apart; the rest falls as a Gaussian of the distance, to 1 / e at 0.2 m.
    apart = jnp.mean(jnp.linalg.norm(plane[:, left] - plane[:, right], axis=-1), axis=-1)
    return settings.strength * settings.confusion * (0.1 + 0.9 * jnp.exp(-((apart / 0.2) ** 2)))


def find_paired_limbs(skeleton: Skeleton) -> list[tuple[np.ndarray, np.ndarray]]:
    """The indices of the left and of the right joints of the arms and of the legs, whichever the layout has."""
    order = np.array(skeleton.flip_order)
    limbs = []
    for words in (("elbow", "wrist"), ("knee", "ankle")):
        left = np.array([j for j in skeleton.left if skeleton.joints[j].endswith(words)], int)
        if len(left):
            limbs.append((left, order[left]))
    return limbs


def _by_name(table: dict[str, float], otherwise: float, joint: str) -> float:
    return table.get(joint.split("_")[-1], otherwise)
