"""Cameras, rigid alignment and forward kinematics, vectorised over any leading axes.

Camera frame: x right, y down, z forward, metres. Image coordinates are normalised image units: x/w*2-1, y/w*2-h/w.
Rotations are unit quaternions (w, x, y, z). The leading axes of a camera are the *first* axes of the points: cameras
`[N]` with points `[N, F, J, 3]` give every one of the N sequences its own camera. Functions are compiled whole, so that
calls from plain Python are one dispatch; inside another compiled function that makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax import quaternions

Array = np.ndarray | jax.Array
SameArray = TypeVar("SameArray", np.ndarray, jax.Array)


class Camera(NamedTuple):
    """A camera or, with leading axes, many: lens in normalised image units, pose in the world in metres.

    `rotation` turns camera axes into world axes, `translation` is the camera's position. The distortion coefficients
    are in the order of Human3.6M's tables: `tangential[0]` belongs to x and `tangential[1]` to y, unlike OpenCV's.
    """

    focal: Array  # [..., 2] normalised image units
    centre: Array  # [..., 2] normalised image units
    radial: Array  # [..., 3]
    tangential: Array  # [..., 2]
    rotation: Array  # [..., 4]
    translation: Array  # [..., 3] m
    size: Array  # [..., 2] pixels, (width, height)


def _match_axes(parameter: Any, points: Array) -> Any:
    """Gives `parameter` `[L..., K]` the rank and dtype of `points` `[L..., M..., C]`."""
    parameter = parameter.astype(points.dtype)
    *leading, last = parameter.shape
    return parameter.reshape(*leading, *[1] * (points.ndim - parameter.ndim), last)


def normalise_screen(pixels: SameArray, size: Array | Sequence[int]) -> SameArray:
    """Maps pixels `[..., 2]` to normalised image units, x/w*2-1 and y/w*2-h/w, given `size` `[..., 2]` = (w, h).

    Both axes are divided by the width, which keeps the aspect ratio (VideoPose3D). A numpy array stays one, in its
    precision.
    """
    # The image reaches from -1 to 1 across and from -h/w to h/w down.
    extent = _match_axes(np.asarray(size) if isinstance(size, Sequence) else size, pixels)
    return pixels / extent[..., :1] * 2 - extent / extent[..., :1]


def denormalise_screen(keypoints: SameArray, size: Array | Sequence[int]) -> SameArray:
    """Maps normalised image units `[..., 2]` back to pixels; the inverse of `normalise_screen`."""
    extent = _match_axes(np.asarray(size) if isinstance(size, Sequence) else size, keypoints)
    return (keypoints + extent / extent[..., :1]) * extent[..., :1] / 2


def _distort(rays: jax.Array, camera: Camera) -> jax.Array:
    """Applies the lens distortion to pinhole rays (x/z, y/z) `[..., 2]`."""
    # Brown's model with r^2 = u^2 + v^2, as VideoPose3D evaluates Human3.6M's coefficients:
    #   u' = u (1 + k1 r^2 + k2 r^4 + k3 r^6 + p1 u + p2 v) + p1 r^2,   v' likewise with v and p2.
    # OpenCV's model differs: p1 and p2 are exchanged, and the terms p1 u + p2 v count twice.
    radial, tangential = _match_axes(camera.radial, rays), _match_axes(camera.tangential, rays)
    square = jnp.sum(rays**2, axis=-1, keepdims=True)
    gain = 1 + jnp.sum(radial * jnp.concatenate([square, square**2, square**3], axis=-1), axis=-1, keepdims=True)
    return rays * (gain + jnp.sum(tangential * rays, axis=-1, keepdims=True)) + tangential * square


@jax.jit
def project(points: Array, camera: Camera) -> jax.Array:
    """Projects camera-frame points `[..., 3]` (m) to normalised image units `[..., 2]` with lens distortion.

    As VideoPose3D does it: x/z and y/z are clamped to [-1, 1] before the distortion. A point behind the camera (z < 0)
    is projected through the centre of the image, not refused.
    """
    points = jnp.asarray(points)
    rays = jnp.clip(points[..., :2] / points[..., 2:], -1, 1)
    return _match_axes(camera.focal, points) * _distort(rays, camera) + _match_axes(camera.centre, points)


@jax.jit
def undistort(keypoints: Array, camera: Camera) -> jax.Array:
    """Finds the pinhole rays (x/z, y/z) `[..., 2]` that `project` maps to `keypoints` `[..., 2]`."""
    # With d the distortion and p = (keypoints - centre) / focal, the wanted ray r solves d(r) = p, a fixed point of
    # r <- r - (d(r) - p). The iteration contracts by the size of d's derivative minus one, a few per cent inside the
    # image of lenses like Human3.6M's: twelve rounds reach float32 precision there.
    keypoints = jnp.asarray(keypoints)
    distorted = (keypoints - _match_axes(camera.centre, keypoints)) / _match_axes(camera.focal, keypoints)

    def improve(_: int, rays: jax.Array) -> jax.Array:
        # The clamp of `project` also keeps an outlier far outside the image finite.
        return jnp.clip(rays - (_distort(rays, camera) - distorted), -1, 1)

    return jax.lax.fori_loop(0, 12, improve, jnp.clip(distorted, -1, 1))


@jax.jit
def back_project_linear(keypoints: Array, depth: Array, camera: Camera) -> jax.Array:
    """Finds the points `[..., 3]` (m) at `keypoints` `[..., 2]` and `depth` z `[...]` (m) of an undistorted camera."""
    keypoints, depth = jnp.asarray(keypoints), jnp.asarray(depth)[..., None]
    rays = (keypoints - _match_axes(camera.centre, keypoints)) / _match_axes(camera.focal, keypoints)
    return jnp.concatenate([rays * depth, depth], axis=-1)


@jax.jit
def world_to_camera(points: Array, camera: Camera) -> jax.Array:
    """Expresses world points `[..., 3]` (m) in the camera frame."""
    points = jnp.asarray(points)
    return quaternions.rotate(quaternions.conjugate(camera.rotation), points - _match_axes(camera.translation, points))


@jax.jit
def camera_to_world(points: Array, camera: Camera) -> jax.Array:
    """Expresses camera-frame points `[..., 3]` (m) in the world."""
    points = jnp.asarray(points)
    return quaternions.rotate(camera.rotation, points) + _match_axes(camera.translation, points)


@jax.jit
def procrustes(source: Array, target: Array) -> jax.Array:
    """Aligns `source` `[..., J, 3]` to `target` `[..., J, 3]` by the similarity of least squared error, per pose.

    Umeyama (1991): a proper rotation (no mirror image), one scale and a translation.
    """
    # With centred row vectors X and Y and the singular value decomposition X^T Y = U diag(d) V^T, the rotation that
    # minimises |s X R - Y|^2 is R = U S V^T with S = diag(1, 1, sign(det U det V)), which excludes mirror images (his
    # eqs. 40 and 43), and the scale is s = sum(d S) / |X|^2 (eq. 42). The translation maps one mean to the other.
    source, target = jnp.asarray(source), jnp.asarray(target)
    source_mean, target_mean = (jnp.mean(x, axis=-2, keepdims=True) for x in (source, target))
    centred = source - source_mean
    # Full float32: the default precision of an accelerator's matrix unit would tilt the pose by millimetres.
    covariance = jnp.einsum("...jc,...jd->...cd", centred, target - target_mean, precision="highest")
    u, singular, vt = jnp.linalg.svd(covariance)
    sign = jnp.where(jnp.linalg.det(u) * jnp.linalg.det(vt) < 0, -1, 1).astype(source.dtype)
    signs = jnp.concatenate([jnp.ones((*sign.shape, 2), source.dtype), sign[..., None]], axis=-1)
    rotation = jnp.einsum("...ck,...k,...kd->...cd", u, signs, vt, precision="highest")
    variance = jnp.sum(centred**2, axis=(-2, -1))
    scale = jnp.sum(singular * signs, axis=-1) / jnp.maximum(variance, jnp.finfo(source.dtype).tiny)
    rotated = jnp.einsum("...jc,...cd->...jd", centred, rotation, precision="highest")
    return scale[..., None, None] * rotated + target_mean


def forward_kinematics(rotations: Array, offsets: Array, parents: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Computes the positions of a skeleton's joints from local rotations and bone offsets.

    Args:
        rotations: `[..., J, 3, 3]` rotation of each joint relative to its parent. It moves the joint's children, not
            the joint itself.
        offsets: `[..., J, 3]` position relative to the parent in the parent's axes (m); a root's is its position.
        parents: The parent of each joint, -1 for roots; parents come first.

    Returns:
        Joint positions `[..., J, 3]` (m) and global rotations `[..., J, 3, 3]`.

    Raises:
        ValueError: A joint comes before its parent.
    """
    # Down the tree, with p the parent of j: R_j = R_p L_j and x_j = x_p + R_p o_j.
    rotations, offsets = jnp.asarray(rotations), jnp.asarray(offsets)
    positions: list[jax.Array] = []
    global_rotations: list[jax.Array] = []
    for joint, parent in enumerate(parents):
        if parent >= joint:
            raise ValueError(f"parents must precede their children: joint {joint} has parent {parent}")
        rotation, position = rotations[..., joint, :, :], offsets[..., joint, :]
        if parent >= 0:
            above = global_rotations[parent]
            position = positions[parent] + jnp.einsum("...cd,...d->...c", above, position, precision="highest")
            rotation = jnp.einsum("...cd,...de->...ce", above, rotation, precision="highest")
        positions.append(position)
        global_rotations.append(rotation)
    return jnp.stack(positions, axis=-2), jnp.stack(global_rotations, axis=-3)


@jax.jit
def solve_root(poses: Array, keypoints: Array, camera: Camera, weights: Array | None = None) -> jax.Array:
    """Finds the root position at which root-relative poses project to the keypoints, without ground truth.

    Args:
        poses: `[..., J, 3]` root-relative poses (m).
        keypoints: `[..., J, 2]` normalised image units.
        camera: The camera; its lens is used, its pose in the world is not.
        weights: `[..., J]` confidence of each keypoint; all equal if None.

    Returns:
        The root `[..., 3]` in the camera frame (m).
    """
    # A joint (X, Y, Z) + t that is seen along the undistorted ray (u, v) satisfies X + tx = u (Z + tz), and Y likewise.
    # Both are linear in t: txy - (u, v) tz = (u, v) Z - (X, Y), solved in closed form. That weighs an error of a ray by
    # the depth of its joint, and noise in the rays biases tz towards the camera, as noise in regressors does.
    poses, rays = jnp.asarray(poses), undistort(keypoints, camera)
    weights = jnp.ones(poses.shape[:-1], poses.dtype) if weights is None else jnp.asarray(weights).astype(poses.dtype)
    root = _solve_translation(rays, rays * poses[..., 2:] - poses[..., :2], weights)
    # Two Gauss-Newton steps on the error of the rays follow. With t a predicted ray x/z changes by
    # (dtx - (x/z) dtz) / z: a step solves the same system with predicted rays, ray errors times z, weights over z^2.
    for _ in range(2):
        points = poses + root[..., None, :]
        # A joint at or behind the camera would dominate; 0.1 m is nearer than any camera films.
        depth = jnp.maximum(points[..., 2:], 0.1)
        predicted = points[..., :2] / depth
        root = root + _solve_translation(predicted, (rays - predicted) * depth, weights / depth[..., 0] ** 2)
    return root


def _solve_translation(rays: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
    """Solves t_xy - rays t_z = target `[..., J, 2]` for the translation `[..., 3]` by weighted least squares."""
    # Setting the derivative by t_xy to zero gives t_xy = mean(target) + mean(rays) t_z. What remains is a regression
    # through the origin: t_z = - sum(w (rays - mean) (target - mean)) / sum(w (rays - mean)^2).
    tiny = jnp.finfo(rays.dtype).tiny
    share = (weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), tiny))[..., None]
    ray_mean, target_mean = (jnp.sum(share * x, axis=-2, keepdims=True) for x in (rays, target))
    variance = jnp.sum(share * (rays - ray_mean) ** 2, axis=(-2, -1))
    covariance = jnp.sum(share * (rays - ray_mean) * (target - target_mean), axis=(-2, -1))
    depth = (-covariance / jnp.maximum(variance, tiny))[..., None]
    return jnp.concatenate([target_mean[..., 0, :] + ray_mean[..., 0, :] * depth, depth], axis=-1)


def image_scale(keypoints: jax.Array, poses: jax.Array) -> jax.Array:
    """Estimates the normalised image units per metre `[...]` at a person, without a camera.

    From keypoints `[..., J, 2]` (normalised image units) and poses `[..., J, 2 or 3]` (m); exact for a person whose
    joints have equal depth.
    """
    # Under weak perspective a joint X metres beside the person's middle is seen f X / Z beside the middle of the
    # keypoints: f / Z is the root mean square distance of the keypoints from their middle over that of the pose's x, y.

    def measure_size(points: jax.Array) -> jax.Array:
        centred = points[..., :2] - jnp.mean(points[..., :2], axis=-2, keepdims=True)
        return jnp.sqrt(jnp.sum(centred**2, axis=(-2, -1)))

    # A pose of under a millimetre (all joints in one place) would give an infinite scale.
    return measure_size(keypoints) / jnp.maximum(measure_size(poses), 1e-3)
