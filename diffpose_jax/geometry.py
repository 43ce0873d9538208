"""Cameras, rotations, rigid alignment and forward kinematics, vectorised over any leading axes.

Camera frame: x right, y down, z forward, metres. Image coordinates are normalised image units: x/w*2-1, y/w*2-h/w.
Quaternions are (w, x, y, z). The leading axes of a camera or a quaternion are the *first* axes of the points it meets:
cameras `[N]` with points `[N, F, J, 3]` give every one of the N sequences its own camera. Functions are compiled whole,
so that calls from plain Python are one dispatch; inside another compiled function that makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array


class Camera(NamedTuple):
    """One camera or, with leading axes, many; lens in normalised image units, pose in the world in metres.

    The coefficients are in the order of the tables of Human3.6M: `tangential[0]` belongs to x and `tangential[1]` to
    y, which is not OpenCV's order. `rotation` turns camera axes into world axes; `translation` is where the camera is.
    """

    focal: Array  # [..., 2]
    centre: Array  # [..., 2]
    radial: Array  # [..., 3]
    tangential: Array  # [..., 2]
    rotation: Array  # [..., 4]
    translation: Array  # [..., 3] m
    size: Array  # [..., 2] pixels, (width, height)


def _meet(parameter: Array, points: Array) -> Array:
    """Give `parameter` `[L..., K]` the rank and dtype of `points` `[L..., M..., C]`."""
    parameter = parameter.astype(points.dtype)
    *leading, last = parameter.shape
    return parameter.reshape(*leading, *[1] * (points.ndim - parameter.ndim), last)


def normalise_screen(pixels: Array, size: Array | Sequence[int]) -> Array:
    """Map pixels `[..., 2]` to normalised image units, x/w*2-1 and y/w*2-h/w, given `size` `[..., 2]` = (w, h).

    Both axes are divided by the width, which keeps the aspect ratio. numpy arrays stay numpy, in their precision.
    """
    size = _meet(np.asarray(size) if isinstance(size, Sequence) else size, pixels)
    return pixels / size[..., :1] * 2 - size / size[..., :1]


def denormalise_screen(keypoints: Array, size: Array | Sequence[int]) -> Array:
    """Map normalised image units `[..., 2]` back to pixels; the inverse of `normalise_screen`."""
    size = _meet(np.asarray(size) if isinstance(size, Sequence) else size, keypoints)
    return (keypoints + size / size[..., :1]) * size[..., :1] / 2


def _distort(rays: jax.Array, camera: Camera) -> jax.Array:
    """Bend pinhole rays (x/z, y/z) `[..., 2]` as the lens does, in the convention of Human3.6M's tables."""
    radial, tangential = _meet(camera.radial, rays), _meet(camera.tangential, rays)
    square = jnp.sum(rays**2, axis=-1, keepdims=True)
    gain = 1 + jnp.sum(radial * jnp.concatenate([square, square**2, square**3], axis=-1), axis=-1, keepdims=True)
    return rays * (gain + jnp.sum(tangential * rays, axis=-1, keepdims=True)) + tangential * square


@jax.jit
def project(points: Array, camera: Camera) -> jax.Array:
    """Project camera-frame points `[..., 3]` (m) to normalised image units `[..., 2]` with lens distortion.

    As VideoPose3D does it: x/z and y/z are clamped to [-1, 1] before the distortion. Points behind the camera are not
    recognised.
    """
    points = jnp.asarray(points)
    rays = jnp.clip(points[..., :2] / points[..., 2:], -1, 1)
    return _meet(camera.focal, points) * _distort(rays, camera) + _meet(camera.centre, points)


@jax.jit
def project_linear(points: Array, camera: Camera) -> jax.Array:
    """Project camera-frame points `[..., 3]` (m) to `[..., 2]` as `project` does, but without distortion."""
    points = jnp.asarray(points)
    rays = jnp.clip(points[..., :2] / points[..., 2:], -1, 1)
    return _meet(camera.focal, points) * rays + _meet(camera.centre, points)


@jax.jit
def undistort(keypoints: Array, camera: Camera) -> jax.Array:
    """Return the pinhole rays (x/z, y/z) `[..., 2]` that the camera sees at `keypoints` `[..., 2]`.

    Found by the fixed point iteration ray <- ray - (distort(ray) - bent ray), which contracts fast inside the image of
    lenses like Human3.6M's: twelve rounds reach float32 precision there.
    """
    keypoints = jnp.asarray(keypoints)
    bent = (keypoints - _meet(camera.centre, keypoints)) / _meet(camera.focal, keypoints)

    def improve(_: int, rays: jax.Array) -> jax.Array:
        # The clamp of `project` also keeps an outlier far outside the image finite.
        return jnp.clip(rays - (_distort(rays, camera) - bent), -1, 1)

    return jax.lax.fori_loop(0, 12, improve, jnp.clip(bent, -1, 1))


@jax.jit
def back_project(keypoints: Array, depth: Array, camera: Camera) -> jax.Array:
    """Return the camera-frame points `[..., 3]` (m) at `keypoints` `[..., 2]` and `depth` `[...]` (z, m).

    The inverse of `project` wherever its clamp is idle.
    """
    rays = undistort(keypoints, camera)
    depth = jnp.asarray(depth)[..., None]
    return jnp.concatenate([rays * depth, depth], axis=-1)


@jax.jit
def back_project_linear(keypoints: Array, depth: Array, camera: Camera) -> jax.Array:
    """Return the points `[..., 3]` (m) at `keypoints` `[..., 2]` and `depth` `[...]`, taking the lens for a pinhole."""
    keypoints, depth = jnp.asarray(keypoints), jnp.asarray(depth)[..., None]
    rays = (keypoints - _meet(camera.centre, keypoints)) / _meet(camera.focal, keypoints)
    return jnp.concatenate([rays * depth, depth], axis=-1)


@jax.jit
def world_to_camera(points: Array, camera: Camera) -> jax.Array:
    """Express world points `[..., 3]` (m) in the camera frame."""
    points = jnp.asarray(points)
    return quaternion_rotate(quaternion_conjugate(camera.rotation), points - _meet(camera.translation, points))


@jax.jit
def camera_to_world(points: Array, camera: Camera) -> jax.Array:
    """Express camera-frame points `[..., 3]` (m) in the world."""
    points = jnp.asarray(points)
    return quaternion_rotate(camera.rotation, points) + _meet(camera.translation, points)


@jax.jit
def quaternion_multiply(first: Array, second: Array) -> jax.Array:
    """Multiply quaternions `[..., 4]`: the rotation `second` followed by `first`."""
    (w1, x1, y1, z1), (w2, x2, y2, z2) = (jnp.moveaxis(jnp.asarray(q), -1, 0) for q in (first, second))
    return jnp.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def quaternion_conjugate(quaternion: Array) -> jax.Array:
    """Conjugate quaternions `[..., 4]`; the inverse rotation of a unit quaternion."""
    quaternion = jnp.asarray(quaternion)
    return jnp.concatenate([quaternion[..., :1], -quaternion[..., 1:]], axis=-1)


@jax.jit
def quaternion_rotate(quaternion: Array, vectors: Array) -> jax.Array:
    """Rotate vectors `[L..., M..., 3]` by unit quaternions `[L..., 4]`."""
    vectors = jnp.asarray(vectors)
    quaternion = jnp.broadcast_to(_meet(jnp.asarray(quaternion), vectors), (*vectors.shape[:-1], 4))
    axis = quaternion[..., 1:]
    twice = 2 * jnp.cross(axis, vectors)
    return vectors + quaternion[..., :1] * twice + jnp.cross(axis, twice)


@jax.jit
def quaternion_to_matrix(quaternion: Array) -> jax.Array:
    """Turn unit quaternions `[..., 4]` into rotation matrices `[..., 3, 3]` (they act on column vectors)."""
    w, x, y, z = jnp.moveaxis(jnp.asarray(quaternion), -1, 0)
    entries = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in entries], axis=-2)


@jax.jit
def matrix_to_quaternion(matrix: Array) -> jax.Array:
    """Turn rotation matrices `[..., 3, 3]` into unit quaternions `[..., 4]` with w >= 0.

    4 q q^T is linear in the matrix; its row with the largest diagonal gives q without cancellation (Shepperd 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = (jnp.moveaxis(row, -1, 0) for row in jnp.moveaxis(jnp.asarray(matrix), -2, 0))
    rows = [
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ]
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    largest = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)[..., None, None]
    quaternion = jnp.take_along_axis(outer, largest, axis=-2)[..., 0, :]
    quaternion = quaternion / jnp.linalg.norm(quaternion, axis=-1, keepdims=True)
    return jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)


@jax.jit
def axis_angle_to_quaternion(axis_angle: Array) -> jax.Array:
    """Turn rotation vectors `[..., 3]` (axis times angle in radians) into unit quaternions `[..., 4]`."""
    axis_angle = jnp.asarray(axis_angle)
    square = jnp.sum(axis_angle**2, axis=-1, keepdims=True)
    # The root of zero has no derivative, so the angle at rest is taken as a constant.
    angle = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.concatenate([jnp.cos(angle / 2), axis_angle * jnp.sinc(angle / (2 * jnp.pi)) / 2], axis=-1)


@jax.jit
def quaternion_slerp(start: Array, end: Array, fraction: Array) -> jax.Array:
    """Interpolate unit quaternions `[..., 4]` along the shorter arc; `fraction` `[...]` is 0 at start and 1 at end."""
    start, end, fraction = jnp.asarray(start), jnp.asarray(end), jnp.asarray(fraction)[..., None]
    end = jnp.where(jnp.sum(start * end, axis=-1, keepdims=True) < 0, -end, end)
    # The half-angle form stays accurate for nearly equal quaternions, where arccos of the dot product does not.
    distance, total = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (end - start, end + start))
    angle = 2 * jnp.arctan2(distance, total)
    scale = jnp.sinc(angle / jnp.pi)
    before = (1 - fraction) * jnp.sinc((1 - fraction) * angle / jnp.pi) / scale
    after = fraction * jnp.sinc(fraction * angle / jnp.pi) / scale
    return before * start + after * end


@jax.jit
def procrustes(source: Array, target: Array) -> jax.Array:
    """Move, turn and scale `source` `[..., J, 3]` onto `target` `[..., J, 3]` with the least squared error.

    The best similarity (Umeyama 1991): a proper rotation (no mirror image), one scale, a translation, per pose.
    """
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
    turned = jnp.einsum("...jc,...cd->...jd", centred, rotation, precision="highest")
    return scale[..., None, None] * turned + target_mean


def forward_kinematics(rotations: Array, offsets: Array, parents: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Pose a skeleton: local rotations `[..., J, 3, 3]` and rest offsets from the parent `[..., J, 3]` (m).

    Returns joint positions `[..., J, 3]` and global rotations `[..., J, 3, 3]`. A joint's rotation moves its children,
    not the joint itself; the root's offset is its position. `parents` holds -1 for roots and lists parents first.
    """
    rotations, offsets = jnp.asarray(rotations), jnp.asarray(offsets)
    positions, globals_ = [], []
    for joint, parent in enumerate(parents):
        if parent >= joint:
            raise ValueError(f"parents must precede their children: joint {joint} has parent {parent}")
        local, offset = rotations[..., joint, :, :], offsets[..., joint, :]
        if parent >= 0:
            offset = positions[parent] + jnp.einsum("...cd,...d->...c", globals_[parent], offset, precision="highest")
            local = jnp.einsum("...cd,...de->...ce", globals_[parent], local, precision="highest")
        positions.append(offset)
        globals_.append(local)
    return jnp.stack(positions, axis=-2), jnp.stack(globals_, axis=-3)


@jax.jit
def solve_root(poses: Array, keypoints: Array, camera: Camera, weights: Array | None = None) -> jax.Array:
    """Find the root `[..., 3]` (m) at which root-relative poses `[..., J, 3]` project to `keypoints` `[..., J, 2]`.

    With undistorted rays (u, v), X + tx = u (Z + tz) and Y + ty = v (Z + tz) are linear in the translation and have a
    closed weighted least-squares solution. Noise in the rays draws its depth towards the camera, so two Gauss-Newton
    steps on the reprojection error of the rays follow, of the same closed form. No ground truth enters; `weights`
    `[..., J]` may hold confidences.
    """
    poses, rays = jnp.asarray(poses), undistort(keypoints, camera)
    weights = jnp.ones(poses.shape[:-1], poses.dtype) if weights is None else jnp.asarray(weights).astype(poses.dtype)
    root = _translation(rays, rays * poses[..., 2:] - poses[..., :2], weights)
    for _ in range(2):
        points = poses + root[..., None, :]
        # A joint at or behind the camera would dominate; 0.1 m is nearer than any camera films.
        depth = jnp.maximum(points[..., 2:], 0.1)
        predicted = points[..., :2] / depth
        root = root + _translation(predicted, (rays - predicted) * depth, weights / depth[..., 0] ** 2)
    return root


def _translation(rays: jax.Array, gaps: jax.Array, weights: jax.Array) -> jax.Array:
    """Solve t_xy - rays t_z = gaps `[..., J, 2]` for the translation `[..., 3]` by weighted least squares."""
    tiny = jnp.finfo(rays.dtype).tiny
    share = (weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), tiny))[..., None]
    ray_mean, gap_mean = (jnp.sum(share * x, axis=-2, keepdims=True) for x in (rays, gaps))
    spread = jnp.sum(share * (rays - ray_mean) ** 2, axis=(-2, -1))
    common = jnp.sum(share * (rays - ray_mean) * (gaps - gap_mean), axis=(-2, -1))
    depth = (-common / jnp.maximum(spread, tiny))[..., None]
    return jnp.concatenate([gap_mean[..., 0, :] + ray_mean[..., 0, :] * depth, depth], axis=-1)


def image_scale(keypoints: jax.Array, poses: jax.Array) -> jax.Array:
    """Estimate the image units per metre `[...]` at a person: keypoints `[..., J, 2]`, pose `[..., J, 2 or 3]` (m).

    Under weak perspective a joint X metres beside the person's middle is seen f / Z X beside the middle of the
    keypoints, so the keypoints' root mean square distance from their middle, over that of the pose's x and y, is f / Z.
    Needs no camera; exact for a person that is flat to it.
    """

    def size(points: jax.Array) -> jax.Array:
        centred = points[..., :2] - jnp.mean(points[..., :2], axis=-2, keepdims=True)
        return jnp.sqrt(jnp.sum(centred**2, axis=(-2, -1)))

    # A pose of under a millimetre (all joints in one place) would give an infinite scale.
    return size(keypoints) / jnp.maximum(size(poses), 1e-3)
