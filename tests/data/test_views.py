"""The person-centred view is a change of coordinates: exact with known cameras, indifferent to place, size and pan."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffpose_jax.data.cameras import h36m_cameras
from diffpose_jax.data.views import (
    decode_poses,
    encode_keypoints,
    encode_mixture,
    encode_poses,
    find_view,
    look_along,
    pinhole,
)
from diffpose_jax.geometry import Camera, project
from diffpose_jax.mixtures.mixture import Mixture

EVERY = jnp.ones((2, 3, 17))


def people(distance: float = 4.0) -> np.ndarray:
    """Two windows of three frames around a point straight ahead, `[2, 3, 17, 3]` in camera axes."""
    body = np.random.default_rng(0).normal(size=(2, 3, 17, 3)) * [0.3, 0.5, 0.2]
    return (body + np.array([0, 0, distance])).astype(np.float32)


def lens() -> Camera:
    """Human3.6M's first lens, for two windows."""
    return jax.tree.map(lambda field: jnp.asarray(field[[0, 0]]), h36m_cameras())


def see(points: np.ndarray, camera: Camera, mask: jax.Array = EVERY) -> np.ndarray:
    keypoints = project(points, camera)
    return np.asarray(encode_keypoints(keypoints, mask, find_view(keypoints, mask, camera)))


def test_a_panned_camera_gives_the_same_view_and_turns_the_poses_by_the_pan():
    points = people()
    pan = Rotation.from_euler("y", 18, degrees=True).as_matrix().astype(np.float32)
    panned = points @ pan.T
    np.testing.assert_allclose(see(panned, lens()), see(points, lens()), atol=2e-5)
    views = [find_view(project(part, lens()), EVERY, lens()) for part in (points, panned)]
    same = encode_poses(points, views[0])
    np.testing.assert_allclose(decode_poses(same, views[1]), panned, atol=1e-5)


def test_keypoints_are_those_of_the_poses_in_the_virtual_camera():
    points = people() + np.array([1.0, -0.4, 0], np.float32)
    view = find_view(project(points, lens()), EVERY, lens())
    virtual = np.asarray(encode_poses(points, view))
    expected = virtual[..., :2] / virtual[..., 2:] / np.asarray(view.size)[:, None, None, None]
    np.testing.assert_allclose(see(points, lens()), expected, atol=2e-5)


def test_the_size_is_one_whatever_the_focal_length_and_the_distance_hardly_matters():
    near, far = see(people(4.0), pinhole(2.0, (2,))), see(people(12.0), pinhole(1.4, (2,)))
    for keypoints in (near, far):
        np.testing.assert_allclose(np.mean(np.sum(keypoints**2, axis=-1), axis=(1, 2)), 1, rtol=1e-5)
    assert np.abs(near - far).mean() < 0.1  # what is left is the perspective of 4 and 12 m
    np.testing.assert_allclose(see(people(), pinhole(2.0, (2,))), see(people(), pinhole(1.4, (2,))), atol=1e-5)


def test_decoding_undoes_encoding_for_all_hypotheses():
    points = people() + np.array([1.0, 0.2, 0], np.float32)
    view = find_view(project(points, lens()), EVERY, lens())
    several = jnp.stack([points, 2 * points])
    encoded = jnp.stack([encode_poses(part, view) for part in several])
    np.testing.assert_allclose(decode_poses(encoded, view), several, atol=1e-5)


@pytest.mark.parametrize("junk", [0.0, 5.0, np.nan])
def test_a_joint_that_is_not_seen_changes_nothing(junk):
    keypoints, mask = project(people(), lens()), EVERY.at[:, :, 3].set(0)
    views = [find_view(k, mask, lens()) for k in (keypoints, keypoints.at[:, :, 3].set(junk))]
    np.testing.assert_array_equal(views[0].rotation, views[1].rotation)
    np.testing.assert_array_equal(views[0].size, views[1].size)
    assert not np.any(encode_keypoints(keypoints.at[:, :, 3].set(junk), mask, views[1])[:, :, 3])


def test_a_window_without_any_seen_joint_has_the_cameras_own_axes():
    view = find_view(project(people(), lens()), 0 * EVERY, lens())
    np.testing.assert_allclose(view.rotation, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-6)


def test_cameras_that_look_along_a_vector_are_not_rolled():
    forward = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    axes = np.asarray(look_along(forward))
    np.testing.assert_allclose(np.einsum("ncd,nce->nde", axes, axes), np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(axes), 1, atol=1e-5)
    np.testing.assert_allclose(axes[:, 1, 0], 0, atol=1e-6)
    np.testing.assert_allclose(axes[..., 2], forward / np.linalg.norm(forward, axis=-1, keepdims=True), atol=1e-6)


def test_draws_of_a_mixture_seen_by_the_virtual_camera_have_the_moments_of_the_encoded_mixture():
    keypoints, rng = project(people() + np.array([1.0, 0.3, 0], np.float32), lens()), np.random.default_rng(2)
    view = find_view(keypoints, EVERY, lens())
    covariance = 1e-4 * np.array([[2.0, 0.8], [0.8, 1.0]], np.float32)
    mixture = Mixture(
        jnp.ones((2, 3, 17, 1)), keypoints[..., None, :], jnp.broadcast_to(covariance, (2, 3, 17, 1, 2, 2))
    )
    encoded = encode_mixture(mixture, view)
    noise = rng.multivariate_normal([0, 0], covariance, 4000).astype(np.float32)
    seen = [
        np.asarray(encode_keypoints(keypoints[:, :, :1] + part[None, None, None], EVERY[:, :, :1], view))
        for part in noise
    ]
    np.testing.assert_allclose(np.mean(seen, axis=0), encoded.means[:, :, :1, 0], atol=0.01)
    found = np.cov(np.array(seen)[:, 0, 0, 0].T)
    np.testing.assert_allclose(found, encoded.covariances[0, 0, 0, 0], rtol=0.1, atol=1e-4)
