"""The person-centred view: what a virtual camera sees that stands where the camera stands and looks at the person.

Where a person stands in the picture, and how large, says little of the pose; but a network that is given raw screen
coordinates learns that it does. The virtual camera of a window has the same centre as the real one and is turned to the
middle of the seen joints; its keypoints are divided by their size. Both are exact changes of coordinates: turning a
camera about its centre is a homography of the image that needs no depth, and poses are turned by the same rotation.
Without known intrinsics the focal length is assumed (`ASSUMED_FOCAL`): an error of it turns the poses of a person who
stands at the edge of the picture, and leaves those of a person in its middle unchanged.

Why no depth is needed: a point at depth Z on the ray r = (u, v, 1) of the real camera is Z r. In the axes of the
virtual one, the columns of a rotation R, it is Z R^T r, and lies on the ray R^T r whatever Z is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffpose_jax.geometry import Camera, undistort
from diffpose_jax.mixtures.mixture import Mixture

# Focal length of an unknown camera, normalised image units. Phones have 1.4 held across and 2.1 held upright,
# Human3.6M's cameras 2.3.
ASSUMED_FOCAL = 2.0


class View(NamedTuple):
    """The virtual camera of each of B windows.

    Attributes:
        camera: The real camera, fields `[B, ...]`.
        rotation: Its axes x right, y down, z forward as columns, in the real camera's frame, `[B, 3, 3]`.
        size: Root mean square distance of the seen joints from its optical axis, on its image plane at distance 1,
            `[B]`; keypoints are divided by it.
    """

    camera: Camera
    rotation: Array
    size: Array


def pinhole(focal: float | Array, shape: tuple[int, ...] = ()) -> Camera:
    """Cameras `[...]` of a given shape: no distortion, centred, one focal length in normalised image units."""
    # In the order of `Camera`: focal length, centre, no distortion, no rotation, no translation, size.
    values = ([focal] * 2, [0.0, 0.0], [0.0] * 3, [0.0] * 2, [1.0, 0.0, 0.0, 0.0], [0.0] * 3, [2.0, 2.0])
    fields = (jnp.asarray(value, jnp.float32) for value in values)
    return Camera(*(jnp.broadcast_to(field, (*shape, *field.shape)) for field in fields))


def find_view(keypoints: Array, mask: Array, camera: Camera) -> View:
    """Finds the virtual cameras that look at the people of B windows, one for all frames of a window.

    Only seen joints count, so that a hidden one changes nothing wherever its keypoint lies.

    Args:
        keypoints: `[B, F, J, 2]`, normalised image units.
        mask: `[B, F, J]`, 1 where a joint is seen.
        camera: The real cameras `[B]`.

    Returns:
        The views `[B]`; of a window without any seen joint, that of the real camera.
    """
    # The direction is the sum of unit vectors. Rays (u, v, 1) as they are get longer towards the edge of the picture,
    # and joints there would count for more.
    rays = _to_rays(keypoints, camera)
    seen = mask[..., None].astype(rays.dtype)
    total = jnp.sum(jnp.where(seen > 0, seen * rays / jnp.linalg.norm(rays, axis=-1, keepdims=True), 0), axis=(1, 2))
    rotation = look_along(total.at[:, 2].add(1e-6))  # a window without joints looks straight ahead
    # A root mean square over all joints: the size of a box would follow a single hand.
    radius = jnp.sum(jnp.square(_turn(rays, rotation)), axis=-1)
    count = jnp.maximum(jnp.sum(seen, axis=(1, 2, 3)), 1.0)
    mean = jnp.sum(jnp.where(seen[..., 0] > 0, seen[..., 0] * radius, 0), axis=(1, 2)) / count
    # One joint alone, or all in one place, have no size.
    return View(camera, rotation, jnp.sqrt(jnp.maximum(mean, 1e-6)))


def encode_keypoints(keypoints: Array, mask: Array, view: View) -> Array:
    """Keypoints `[B, F, J, 2]` (normalised image units) as the virtual cameras see them, of size one; hidden: zero."""
    seen = _see(keypoints, view)
    return jnp.where(mask[..., None] > 0, seen, 0.0)


def encode_poses(poses: Array, view: View) -> Array:
    """Poses `[B, F, J, 3]` (m) from the real camera's axes to those of the virtual camera."""
    # A row vector times R is R^T applied to the column: coordinates along the columns of R, the virtual camera's axes.
    return jnp.einsum("bfjc,bcd->bfjd", poses, view.rotation, precision="highest")


def decode_poses(poses: Array, view: View) -> Array:
    """Poses `[..., B, F, J, 3]` (m) from the virtual camera's axes to the real one's: inverse of `encode_poses`."""
    return jnp.einsum("...bfjd,bcd->...bfjc", poses, view.rotation, precision="highest")


def encode_mixture(mixture: Mixture, view: View) -> Mixture:
    """Mixtures of joints, means `[B, F, J, M, 2]`, as the virtual cameras see them, of size one.

    Means are mapped, covariances to first order: with the derivative D of the map at a mean, S becomes D S D^T.
    """
    means = jnp.asarray(mixture.means)

    def see(points: Array) -> Array:
        return _see(points, view)

    # The derivatives along u and along v are the two columns of D.
    columns = [jax.jvp(see, (means,), (jnp.broadcast_to(axis, means.shape),)) for axis in jnp.eye(2)]
    derivative = jnp.stack([column for _, column in columns], axis=-1)
    covariances = jnp.asarray(mixture.covariances)
    if mixture.diagonal:
        covariances = covariances[..., None] * jnp.eye(2)
    turned = jnp.einsum("...ab,...bc,...dc->...ad", derivative, covariances, derivative, precision="highest")
    return Mixture(mixture.weights, columns[0][0], turned)


def look_along(forward: Array) -> Array:
    """Rotations `[..., 3, 3]` whose columns are the axes of a camera that looks along vectors `[..., 3]`, not rolled.

    x stays level with the frame that the vectors are given in, that is at right angles to its y axis: a camera that is
    panned about that axis has the same virtual camera. Vectors along the y axis itself have none.
    """
    z = forward / jnp.linalg.norm(forward, axis=-1, keepdims=True)
    x = jnp.stack([z[..., 2], jnp.zeros_like(z[..., 0]), -z[..., 0]], axis=-1)  # y axis cross z
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    return jnp.stack([x, jnp.cross(z, x), z], axis=-1)


def _to_rays(keypoints: Array, camera: Camera) -> Array:
    plane = undistort(keypoints, camera)
    return jnp.concatenate([plane, jnp.ones_like(plane[..., :1])], axis=-1)


def _turn(rays: Array, rotation: Array) -> Array:
    """Where rays `[B, ..., 3]` meet the image plane at distance 1 of cameras with axes `[B, 3, 3]`, `[B, ..., 2]`."""
    turned = jnp.einsum("b...c,bcd->b...d", rays, rotation, precision="highest")
    # A keypoint far outside the picture may lie behind a camera that looks at the others.
    return turned[..., :2] / jnp.maximum(turned[..., 2:], 0.1)


def _see(points: Array, view: View) -> Array:
    plane = _turn(_to_rays(points, view.camera), view.rotation)
    return plane / view.size.reshape(-1, *[1] * (plane.ndim - 1))
