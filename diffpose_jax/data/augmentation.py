"""Other cameras and other bodies for motion without images, drawn on the device for every example of every epoch.

Motion capture knows where the body is and not who films it. Human3.6M's four cameras, which film it by default, stand
at one height, upright, and hold the person in the middle of the picture; here a window is filmed as people film each
other.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax import quaternions
from diffpose_jax.data.detector.error_model import CPN_LIKE
from diffpose_jax.data.detector.keypoint_noise import simulate_detector
from diffpose_jax.data.views import look_along, pinhole
from diffpose_jax.data.windows import Batch
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera, project
from diffpose_jax.keys import fold_in, split
from diffpose_jax.skeleton import Skeleton

# What is drawn: uniformly between two values, or (distance, size) so in the logarithm.
DISTANCE = (1.8, 12.0)  # m, from the camera to the root in the window's middle frame
HEIGHT = (0.1, 2.8)  # m above the floor: the camera stands on it, or hangs below a ceiling
FOCAL = (1.2, 5.0)  # normalised image units: from a phone's wide lens to a tele lens, chosen for the size
SIZE = (0.08, 0.9)  # of a metre in the picture, normalised image units
PLACE = (0.95, 0.7)  # normalised image units: the root lies within plus and minus this, right and down, less half SIZE
ROLL = 6.0  # degrees, standard deviation of most cameras; of one in six, held in a hand, the other value
ROLL_IN_HAND = 35.0
IN_HAND = 1 / 6
# The share of examples whose keypoints stay exact, as annotated or projected ones are; others have a drawn strength.
EXACT = 0.25
# Of the motion, for the speed of errors: that of Human3.6M and of CMU as prepared here.
FPS = 50.0
_DETECTOR_STREAM = 3  # folded into the keys beside the two that are split from them


class Filmed(NamedTuple):
    """One window as a new camera films it; mapped over windows, every field has a leading axis `[B]`.

    Attributes:
        camera: The camera.
        rotation: From the old camera's axes to the new one's, `[3, 3]`.
        root: The root's path in the new camera's frame, `[F, 3]` m.
    """

    camera: Camera
    rotation: Array
    root: Array


def film_anew(keys: Array, batch: Batch) -> Batch:
    """Films every window with a camera of its own, drawn as the constants of this module say.

    Args:
        keys: One per example, `[B]`.
        batch: Windows with known cameras and the root's path.

    Returns:
        The batch with new keypoints, poses, root and cameras; mixtures are of the old pictures and left out.
    """
    if batch.camera is None or batch.root is None:
        raise ValueError("expected a batch with cameras and roots")
    filmed = jax.vmap(_film)(keys, batch.camera, batch.root)
    poses = jnp.einsum("bfjc,bdc->bfjd", batch.poses, filmed.rotation, precision="highest")
    keypoints = project(poses + filmed.root[..., None, :], filmed.camera)
    return batch._replace(keypoints=keypoints, poses=poses, camera=filmed.camera, root=filmed.root, mixture=None)


def _film(key: Array, camera: Camera, root: Array) -> Filmed:
    """A new camera of one window whose root's path is `[F, 3]`."""
    keys = jax.random.split(key, 7)
    middle = root[len(root) // 2]
    standing = quaternions.rotate(camera.rotation, middle) + camera.translation
    distance, size = (jnp.exp(_uniform(k, np.log(ends))) for k, ends in zip(keys[:2], (DISTANCE, SIZE), strict=True))
    # A metre at this distance is focal / distance wide in the picture, so that the focal length follows from the size.
    focal = jnp.clip(size * distance, *FOCAL)
    azimuth = _uniform(keys[2], np.array([-np.pi, np.pi]))
    # A camera that would stand farther above or below the root than it is away from it looks along 60 degrees.
    slope = (_uniform(keys[3], np.array(HEIGHT)) - standing[2]) / distance
    elevation = jnp.arcsin(jnp.clip(slope, -np.sqrt(0.75), np.sqrt(0.75)))
    roll = jax.random.normal(keys[4]) * jnp.where(jax.random.bernoulli(keys[5], IN_HAND), ROLL_IN_HAND, ROLL)
    away = jnp.stack([jnp.cos(elevation) * jnp.cos(azimuth), jnp.cos(elevation) * jnp.sin(azimuth), jnp.sin(elevation)])
    # `away` is the unit vector from the root to the camera.
    # Columns: the axes, in the world, of a camera that looks at the root.
    facing = _roll(_look_level(-away), jnp.deg2rad(roll))
    reach = jnp.maximum(np.array(PLACE) - focal / distance / 2, 0.0)
    place = jax.random.uniform(keys[6], (2,), minval=-1, maxval=1) * reach
    # In the camera that is turned away from it the root lies along this; `look_along` has the looking camera's axes.
    turned = look_along(jnp.append(place / focal, 1.0))
    # old camera -> world -> looking camera -> turned camera
    to_world = quaternions.to_matrix(camera.rotation)
    rotation = _product(turned, facing.T, to_world)
    position = standing + distance * away
    path = _apply(rotation, root - middle[None]) + distance * turned[None, :, 2]
    lens = pinhole(1.0)._replace(focal=jnp.broadcast_to(focal, (2,)))
    world = quaternions.from_matrix(_product(facing, turned.T))
    return Filmed(lens._replace(rotation=world, translation=position), rotation, path)


def vary_bodies(keys: Array, batch: Batch, skeleton: Skeleton, spread: float) -> Batch:
    """Gives every example other proportions: each bone is longer or shorter by a factor, left and right alike.

    Only poses change: keypoints follow when the windows are filmed (`film_anew`).

    Args:
        keys: One per example, `[B]`.
        batch: The windows.
        skeleton: Their joints.
        spread: Standard deviation of the logarithm of a bone's factor.
    """
    # A joint and its partner share the draw of the one of lower index.
    partner = np.minimum(np.arange(skeleton.num_joints), skeleton.flip_order)
    drawn = jax.vmap(lambda key: jax.random.truncated_normal(key, -2.5, 2.5, (skeleton.num_joints,)))(keys)
    factor = jnp.exp(spread * drawn[:, partner])[:, None, :, None]
    parents = np.where(np.array(skeleton.parents) < 0, skeleton.root, skeleton.parents)
    bones = (batch.poses - batch.poses[..., parents, :]) * factor
    # A joint lies where the bones on the way to it from the root add up to.
    return batch._replace(poses=jnp.einsum("ji,bfic->bfjc", _paths(skeleton), bones, precision="highest"))


def cross_over(keys: Array, batch: Batch, others: Batch, skeleton: Skeleton, share: float) -> Batch:
    """Gives a share of the examples the upper body, or the arms, of another example: poses that nobody showed.

    The part is turned about the vertical by one angle for the window, until the other's hips, or for arms the
    shoulders, face the way of the own ones, and stands where the own pelvis, or thorax, is. Li et al. (CVPR 2020) make
    training data so, by exchanging and mutating limbs. Only poses change: keypoints follow when windows are filmed
    (`film_anew`).

    Args:
        keys: One per example, `[B]`.
        batch: Windows with known cameras.
        others: As many windows that others are taken from.
        skeleton: Their joints, with names of Human3.6M's layout.
        share: The probability that an example gets another's part; half of the time the upper body.
    """
    if batch.camera is None or others.camera is None:
        raise ValueError("expected batches with cameras")
    to_world, from_other = (quaternions.to_matrix(one.camera.rotation) for one in (batch, others))  # type: ignore[union-attr]
    own = jnp.einsum("bcd,bfjd->bfjc", to_world, batch.poses, precision="highest")
    other = jnp.einsum("bcd,bfjd->bfjc", from_other, others.poses, precision="highest")
    drawn = jax.vmap(jax.random.uniform)(keys)[:, None, None, None]
    for place, (anchor, across, joints) in enumerate(_find_parts(skeleton)):
        # One draw decides for both parts: below half of the share it is the upper body, above it the arms, and never
        # both.
        taken = (drawn >= place * share / 2) & (drawn < (place + 1) * share / 2)
        angle = _heading(own, across) - _heading(other, across)
        turned = _turn(other - other[:, :, anchor, None], angle) + own[:, :, anchor, None]
        own = jnp.where(taken & jnp.asarray(joints)[None, None, :, None], turned, own)
    return batch._replace(poses=jnp.einsum("bdc,bfjd->bfjc", to_world, own, precision="highest"))


def _find_parts(skeleton: Skeleton) -> list[tuple[int, tuple[int, int], np.ndarray]]:
    """Upper body and arms: what they hang on, the two joints that tell the heading, and which joints they are `[J]`."""
    missing = [name for name in ("left_hip", "left_shoulder", "left_wrist") if name not in skeleton.joints]
    if missing:
        raise UserError(f"config.data.crossover: expected a layout with {missing[0]}, found {skeleton.name}")
    index = skeleton.joints.index
    legs = [index(f"{side}_{name}") for side in ("left", "right") for name in ("hip", "knee", "ankle")]
    arms = [index(f"{side}_{name}") for side in ("left", "right") for name in ("shoulder", "elbow", "wrist")]
    every = np.arange(skeleton.num_joints)
    upper = ~np.isin(every, [skeleton.root, *legs])
    return [
        (skeleton.root, (index("left_hip"), index("right_hip")), upper),
        (skeleton.parents[arms[0]], (arms[0], arms[3]), np.isin(every, arms)),
    ]


def _heading(poses: Array, across: tuple[int, int]) -> Array:
    """The angle about the vertical, `[B]` rad, of the line between two joints, the mean over a window's frames."""
    # The sum of vectors, of which the angle is taken, has no jump at half a turn, as a mean of angles would have.
    line = jnp.sum(poses[:, :, across[1]] - poses[:, :, across[0]], axis=1)
    return jnp.arctan2(line[:, 1], line[:, 0])


def _turn(poses: Array, angle: Array) -> Array:
    """Poses `[B, F, J, 3]`, z up, turned about the vertical by angles `[B]`."""
    cos, sin = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    x, y, z = poses[..., 0], poses[..., 1], poses[..., 2]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def augment(
    keys: Array, batch: Batch, skeleton: Skeleton, bodies: float, detector: float = 0.0, bias: float = 0.0
) -> Batch:
    """Varies bodies (`vary_bodies`), films them anew (`film_anew`) and detects them in the pictures (`detect_anew`).

    Args:
        keys: One per example, `[B]`.
        batch: Windows with known cameras and the root's path.
        skeleton: Their joints.
        bodies: Spread of bone lengths, see `vary_bodies`; 0 leaves bodies as they are.
        detector: Greatest strength of a detector's errors, see `detect_anew`; 0 leaves keypoints exact.
        bias: Size of those of them that last for a whole window, see `detect_anew`.
    """
    body_keys, camera_keys = split(keys)
    batch = vary_bodies(body_keys, batch, skeleton, bodies) if bodies else batch
    batch = film_anew(camera_keys, batch)
    return detect_anew(fold_in(keys, _DETECTOR_STREAM), batch, skeleton, detector, bias) if detector else batch


def detect_anew(keys: Array, batch: Batch, skeleton: Skeleton, strength: float, bias: float = 0.0) -> Batch:
    """Gives every example the keypoints and scores of a simulated detector, of a quality of its own.

    Its strength is 0 for one in four and uniform below `strength` for the others: a lifter that is told the scores
    learns how far to trust each, from exact keypoints to poor ones.

    Args:
        keys: One per example, `[B]`.
        batch: The windows, keypoints exact; joints that are not seen stay so.
        skeleton: Their joints.
        strength: Greatest strength of the errors, see `data.detector.error_model`.
        bias: `DetectorSettings.bias`, times the strength as all errors are.
    """

    def detect(key: Array, keypoints: Array, poses: Array) -> tuple[Array, Array]:
        chosen, drawn = jax.random.split(key)
        # Negative, so none at all, for the share EXACT of the numbers drawn.
        quality = jnp.maximum(jax.random.uniform(chosen, minval=-EXACT / (1 - EXACT)), 0)
        settings = CPN_LIKE._replace(strength=strength * quality, bias=bias)
        return simulate_detector(drawn, keypoints, poses, skeleton, settings, FPS)

    keypoints, scores = jax.vmap(detect)(keys, batch.keypoints, batch.poses)
    return batch._replace(keypoints=keypoints, mask=jnp.where(batch.mask > 0, scores, 0))


def _paths(skeleton: Skeleton) -> np.ndarray:
    """`[J, J]`, 1 where bone i (by its child) lies on the way from the root to joint j."""
    paths = np.zeros((skeleton.num_joints, skeleton.num_joints), np.float32)
    for joint in range(skeleton.num_joints):
        above = joint
        while skeleton.parents[above] >= 0:
            paths[joint, above] = 1
            above = skeleton.parents[above]
    return paths


def _uniform(key: Array, ends: np.ndarray) -> Array:
    return jax.random.uniform(key, minval=ends[0], maxval=ends[1])


def _look_level(forward: Array) -> Array:
    """The axes, as columns, of a camera in the world (z up) that looks along a unit vector, its x axis level."""
    right = jnp.cross(forward, jnp.array([0.0, 0.0, 1.0]))
    right = right / jnp.linalg.norm(right)
    return jnp.stack([right, jnp.cross(forward, right), forward], axis=-1)


def _roll(axes: Array, angle: Array) -> Array:
    """The axes of a camera (columns), turned about the one that it looks along by an angle in radians."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y, z = axes.T
    return jnp.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)


def _product(*matrices: Array) -> Array:
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), matrices)


def _apply(matrix: Array, vectors: Array) -> Array:
    """A matrix `[3, 3]` times each of the vectors `[F, 3]`."""
    return jnp.einsum("cd,fd->fc", matrix, vectors, precision="highest")
