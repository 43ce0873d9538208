"""Geometry against scipy, against independent numpy, and against its own inverses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from diffpose_jax import geometry, quaternions
from diffpose_jax.geometry import Camera

from .pinhole import project_linear
from .test_quaternions import random_quaternions, to_scipy

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None, derandomize=True)


def make_camera(rng: np.random.Generator, *leading: int) -> Camera:
    """A plausible camera with Human3.6M's strength of distortion."""
    rotation = rng.normal(size=(*leading, 4))
    camera = Camera(
        focal=rng.uniform(2.2, 2.4, (*leading, 2)),
        centre=rng.uniform(-0.05, 0.05, (*leading, 2)),
        radial=np.array([-0.2, 0.24, -0.003]) * rng.uniform(0.5, 1.2, (*leading, 3)),
        tangential=rng.uniform(-0.003, 0.003, (*leading, 2)),
        rotation=rotation / np.linalg.norm(rotation, axis=-1, keepdims=True),
        translation=rng.uniform(-5, 5, (*leading, 3)),
        size=np.broadcast_to([1000.0, 1002.0], (*leading, 2)),
    )
    return Camera(*(value.astype(np.float32) for value in camera))


def make_points(rng: np.random.Generator, *leading: int) -> np.ndarray:
    """Points in the view of such a camera, 3 to 6 m in front of it."""
    depth = rng.uniform(3, 6, (*leading, 1))
    return np.concatenate([rng.uniform(-0.4, 0.4, (*leading, 2)) * depth, depth], axis=-1).astype(np.float32)


@given(seeds, st.integers(1, 4000), st.integers(1, 4000))
@few
def test_screen_normalisation_has_an_inverse_and_keeps_the_aspect_ratio(seed, width, height):
    pixels = np.random.default_rng(seed).uniform(0, 1, (5, 17, 2)) * [width, height]
    keypoints = geometry.normalise_screen(pixels, (width, height))
    np.testing.assert_allclose(geometry.denormalise_screen(keypoints, (width, height)), pixels, atol=1e-9)
    np.testing.assert_allclose(np.diff(keypoints, axis=0), np.diff(pixels, axis=0) * 2 / width, atol=1e-9)
    corners = geometry.normalise_screen(np.array([[0.0, 0.0], [width, height]]), (width, height))
    np.testing.assert_allclose(corners, [[-1, -height / width], [1, height / width]])


def test_screen_sizes_may_differ_per_clip():
    pixels = np.full((2, 3, 17, 2), 500.0)
    sizes = np.array([[1000, 1002], [1000, 500]])
    keypoints = np.asarray(geometry.normalise_screen(jnp.asarray(pixels, jnp.float32), sizes))
    np.testing.assert_allclose(keypoints[:, 0, 0], [[0, -0.002], [0, 0.5]], atol=1e-6)


def test_projection_is_the_formula_of_human36m():
    rng = np.random.default_rng(1)
    camera, points = make_camera(rng), make_points(rng, 17)
    expected = []
    for x, y, z in points.astype(np.float64):
        u, v = x / z, y / z
        r2 = u * u + v * v
        k1, k2, k3 = camera.radial
        p1, p2 = camera.tangential
        gain = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * u + p2 * v
        expected.append(
            [
                camera.focal[0] * (u * gain + p1 * r2) + camera.centre[0],
                camera.focal[1] * (v * gain + p2 * r2) + camera.centre[1],
            ]
        )
    np.testing.assert_allclose(geometry.project(points, camera), expected, atol=1e-6)


def test_projection_clamps_rays_before_the_distortion():
    camera = make_camera(np.random.default_rng(2))
    wide, edge = np.array([[30.0, -50.0, 1.0]], np.float32), np.array([[1.0, -1.0, 1.0]], np.float32)
    np.testing.assert_allclose(geometry.project(wide, camera), geometry.project(edge, camera), rtol=1e-6)
    np.testing.assert_allclose(project_linear(wide, camera)[0], camera.focal * [1, -1] + camera.centre, rtol=1e-6)


@given(seeds)
@few
def test_back_projection_inverts_projection(seed):
    rng = np.random.default_rng(seed)
    camera, points = make_camera(rng, 2), make_points(rng, 2, 3, 17)
    keypoints = geometry.project(points, camera)
    rays = geometry.undistort(keypoints, camera)
    np.testing.assert_allclose(rays * points[..., 2:], points[..., :2], atol=1e-5)
    linear = project_linear(points, camera)
    np.testing.assert_allclose(geometry.back_project_linear(linear, points[..., 2], camera), points, atol=1e-5)
    assert np.abs(keypoints - linear).max() > 1e-3


def test_a_keypoint_far_outside_the_image_has_a_finite_ray():
    camera = make_camera(np.random.default_rng(3))
    assert np.isfinite(geometry.undistort(np.array([[40.0, -90.0]], np.float32), camera)).all()


@given(seeds)
@few
def test_world_and_camera_frames_are_inverse_and_agree_with_scipy(seed):
    rng = np.random.default_rng(seed)
    camera, world = make_camera(rng), rng.uniform(-3, 3, (4, 17, 3)).astype(np.float32)
    seen = geometry.world_to_camera(world, camera)
    expected = to_scipy(camera.rotation).inv().apply((world - camera.translation).reshape(-1, 3)).reshape(world.shape)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    np.testing.assert_allclose(geometry.camera_to_world(seen, camera), world, atol=1e-5)


def test_leading_axes_of_a_camera_are_the_first_axes_of_the_points():
    rng = np.random.default_rng(4)
    cameras, world = make_camera(rng, 2, 3), rng.uniform(-3, 3, (2, 3, 5, 17, 3)).astype(np.float32)
    together = geometry.project(geometry.world_to_camera(world, cameras), cameras)
    for index in np.ndindex(2, 3):
        one = Camera(*(value[index] for value in cameras))
        alone = geometry.project(geometry.world_to_camera(world[index], one), one)
        np.testing.assert_allclose(together[index], alone, atol=1e-5)


@given(seeds)
@few
def test_procrustes_undoes_a_similarity(seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(3, 17, 3)).astype(np.float32)
    turned = np.stack([to_scipy(random_quaternions(rng)).apply(pose) for pose in source])
    target = (rng.uniform(0.5, 2) * turned + rng.normal(size=(3, 1, 3))).astype(np.float32)
    np.testing.assert_allclose(geometry.procrustes(source, target), target, atol=1e-5)


def test_procrustes_agrees_with_scipy_up_to_the_mirror_image():
    rng = np.random.default_rng(5)
    source, noise = rng.normal(size=(17, 3)), rng.normal(0, 0.1, (17, 3))
    target = source @ to_scipy(random_quaternions(rng)).as_matrix() + noise
    centred, goal = source - source.mean(0), target - target.mean(0)
    rotation, scale = orthogonal_procrustes(centred, goal)
    expected = scale / (centred**2).sum() * centred @ rotation + target.mean(0)
    aligned = geometry.procrustes(source.astype(np.float32), target.astype(np.float32))
    np.testing.assert_allclose(aligned, expected, atol=1e-5)


def test_procrustes_does_not_mirror_and_finds_the_best_rotation():
    rng = np.random.default_rng(6)
    source = rng.normal(size=(17, 3))
    target = source * [-1, 1, 1]
    aligned = np.asarray(geometry.procrustes(source.astype(np.float32), target.astype(np.float32)))
    centred, goal = source - source.mean(0), target - target.mean(0)
    residual = np.sqrt(((aligned - target) ** 2).sum())
    rotation, _ = Rotation.align_vectors(goal, centred)
    turned = rotation.apply(centred)
    scale = (turned * goal).sum() / (centred**2).sum()
    assert residual == pytest.approx(np.linalg.norm(scale * turned - goal), rel=1e-5)
    assert residual > 0.1


def test_procrustes_of_a_collapsed_pose_is_the_mean_of_the_target():
    target = np.random.default_rng(7).normal(size=(17, 3)).astype(np.float32)
    aligned = geometry.procrustes(np.zeros((17, 3), np.float32), target)
    np.testing.assert_allclose(aligned, np.broadcast_to(target.mean(0), (17, 3)), atol=1e-6)


@given(seeds)
@few
def test_forward_kinematics_keeps_bones_and_chains_rotations(seed):
    rng = np.random.default_rng(seed)
    parents = (-1, 0, 1, 0, 3)
    local = to_scipy(random_quaternions(rng, 5))
    offsets = rng.normal(size=(5, 3)).astype(np.float32)
    positions, rotations = geometry.forward_kinematics(local.as_matrix().astype(np.float32), offsets, parents)
    np.testing.assert_allclose(positions[0], offsets[0], atol=1e-6)
    np.testing.assert_allclose(
        positions[2], offsets[0] + local[0].apply(offsets[1] + local[1].apply(offsets[2])), atol=1e-5
    )
    np.testing.assert_allclose(rotations[4], (local[0] * local[3] * local[4]).as_matrix(), atol=1e-5)
    lengths = np.linalg.norm(positions[1:] - np.asarray(positions)[list(parents[1:])], axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(offsets[1:], axis=-1), atol=1e-5)


def test_forward_kinematics_wants_parents_first():
    with pytest.raises(ValueError, match="joint 0 has parent 1"):
        geometry.forward_kinematics(np.zeros((2, 3, 3)), np.zeros((2, 3)), (1, -1))


@given(seeds)
@few
def test_rotating_the_world_and_the_camera_together_changes_no_image(seed):
    rng = np.random.default_rng(seed)
    camera, points = make_camera(rng), make_points(rng, 5, 17)
    world = geometry.camera_to_world(points, camera)
    turn = random_quaternions(rng)
    moved = camera._replace(
        rotation=np.asarray(quaternions.multiply(turn, camera.rotation)),
        translation=np.asarray(quaternions.rotate(turn, camera.translation)),
    )
    seen = geometry.world_to_camera(quaternions.rotate(turn, world), moved)
    np.testing.assert_allclose(seen, points, atol=2e-5)


@given(seeds)
@few
def test_the_root_of_a_true_pose_is_found_with_any_weights(seed):
    rng = np.random.default_rng(seed)
    camera, root = make_camera(rng, 2), np.array([0.3, -0.2, 4.5], np.float32)
    poses = rng.normal(0, 0.35, (2, 6, 17, 3)).astype(np.float32)
    keypoints = geometry.project(poses + root, camera)
    weights = rng.uniform(0, 1, (2, 6, 17)).astype(np.float32)
    for found in (
        geometry.solve_root(poses, keypoints, camera),
        geometry.solve_root(poses, keypoints, camera, weights),
    ):
        np.testing.assert_allclose(found, np.broadcast_to(root, (2, 6, 3)), atol=1e-4)


def test_joints_without_weight_do_not_enter_the_root():
    rng = np.random.default_rng(8)
    camera, root = make_camera(rng), np.array([0.1, 0.1, 4.0], np.float32)
    poses = rng.normal(0, 0.3, (17, 3)).astype(np.float32)
    keypoints = np.array(geometry.project(poses + root, camera))
    keypoints[3] += 0.5
    weights = np.ones(17, np.float32)
    weights[3] = 0
    np.testing.assert_allclose(geometry.solve_root(poses, keypoints, camera, weights), root, atol=1e-4)
    assert np.abs(geometry.solve_root(poses, keypoints, camera) - root).max() > 0.01


def test_the_root_under_noise_is_that_of_nonlinear_least_squares():
    rng = np.random.default_rng(9)
    camera, root = make_camera(rng), np.array([0.2, -0.1, 4.2], np.float32)
    poses = rng.normal(0, 0.3, (17, 3)).astype(np.float32)
    keypoints = np.asarray(geometry.project(poses + root, camera)) + rng.normal(0, 0.01, (17, 2)).astype(np.float32)

    def error(guess):
        return np.asarray(geometry.project((poses + guess).astype(np.float32), camera) - keypoints).ravel()

    best = least_squares(error, [0.0, 0.0, 4.0], diff_step=1e-3).x
    found = np.asarray(geometry.solve_root(poses, keypoints, camera))
    np.testing.assert_allclose(found, best, atol=1e-3)


def test_float64_in_gives_float64_out():
    rng = np.random.default_rng(10)
    with jax.enable_x64(True):
        camera = Camera(*(value.astype(np.float64) for value in make_camera(rng)))
        root = np.array([0.2, -0.1, 4.2])
        poses = rng.normal(0, 0.3, (17, 3))
        keypoints = geometry.project(poses + root, camera)
        assert keypoints.dtype == np.float64
        np.testing.assert_allclose(geometry.solve_root(poses, keypoints, camera), root, atol=1e-7)
        turned = 1.7 * Rotation.from_rotvec([0.3, 1.0, -2.0]).apply(poses) + root
        np.testing.assert_allclose(geometry.procrustes(poses, turned), turned, atol=1e-12)
        start, end = Rotation.random(2, rng=rng).as_quat()
        assert quaternions.slerp(start, end, 0.3).dtype == np.float64
        assert quaternions.from_axis_angle(root).dtype == np.float64
