"""Where a lifted person stands: roots by reprojection, smoothing, bone lengths, which way is up, the floor."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.data.sets.synthetic import generate_motion
from diffpose_jax.skeleton import H36M_16, H36M_17, HUMANEVA_15, MPI_INF_3DHP_17
from diffpose_jax.world import (
    ACCELERATION,
    ANKLE,
    HEIGHT_SPREAD,
    SKULL,
    add_height_spread,
    assume_focal,
    bone_lengths,
    find_floor,
    find_up,
    hold_bone_lengths,
    level_world,
    scale_to_height,
    smooth_path,
    solve_roots,
    standing_height,
)

SIZE, FOCAL = (960, 540), 900.0
ANKLES = [H36M_17.joints.index(f"{side}_ankle") for side in ("left", "right")]


@pytest.fixture(scope="module")
def standing() -> np.ndarray:
    """Somebody who waves, standing, `[60, 17, 3]` m, z up, the floor at height 0."""
    (motion,) = generate_motion(3, subjects=1, frames=60, actions=("wave",))
    return motion.positions


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    """Six random poses within 0.5 m, root-relative."""
    drawn = np.random.default_rng(0).uniform(-0.5, 0.5, (6, 17, 3)).astype(np.float32)
    return drawn - drawn[:, :1]


# From two to nine metres away.
ROOT = np.array([[0.4, -0.2, 4.0], [-1, 0.3, 6], [0, 0, 2.5], [1.5, 0.5, 9], [0, -0.4, 3], [0, 0, 6.0]])
SEEN = np.ones((6, 17), np.float32)


def pixels(points: np.ndarray) -> np.ndarray:
    return FOCAL * points[..., :2] / points[..., 2:] + np.array(SIZE) / 2


def solve(poses, points, weights=SEEN, sizes=(1.0, 1.0, 1.0)):
    """The roots, from hypotheses of these sizes."""
    hypotheses = poses[:, None] * np.array(sizes, np.float32)[None, :, None, None]
    return solve_roots(poses, hypotheses, points, weights, SIZE, FOCAL)


# --- the root


def test_exact_projections_have_their_true_root(poses):
    found = solve(poses, pixels(poses + ROOT[:, None]))
    np.testing.assert_allclose(found.position, ROOT, atol=2e-3)
    np.testing.assert_allclose(found.std, 0, atol=2e-3)


def test_a_joint_that_was_not_seen_has_no_part_in_it(poses):
    points, weights = pixels(poses + ROOT[:, None]), SEEN.copy()
    points[:, 5], weights[:, 5] = 0.0, 0.0
    np.testing.assert_allclose(solve(poses, points, weights).position, ROOT, atol=2e-3)


def test_hypotheses_of_different_size_leave_the_depth_open_in_proportion(poses):
    sizes = (0.9, 1.0, 1.1)
    found = solve(poses, pixels(poses + ROOT[:, None]), sizes=sizes)
    np.testing.assert_allclose(found.std[:, 2], np.std(sizes) * ROOT[:, 2], rtol=1e-2)


def test_an_unknown_height_leaves_the_depth_open_in_proportion_to_the_distance(poses):
    points = pixels(poses + ROOT[:, None])
    known = solve(poses, points)
    unknown = add_height_spread(known)
    assert (unknown.std[:, 2] > known.std[:, 2]).all()
    np.testing.assert_allclose(unknown.std[:, 2], HEIGHT_SPREAD * ROOT[:, 2], rtol=1e-3)
    np.testing.assert_array_equal(known.position, unknown.position)


def test_a_frame_that_shows_too_little_stands_between_its_neighbours_and_says_so(poses):
    root = np.linspace([0, 0, 4.0], [1, 0, 5.0], 6)
    weights = SEEN.copy()
    weights[2], weights[3, 2:] = 0, 0
    found = solve(poses, pixels(poses + root[:, None]), weights)
    np.testing.assert_allclose(found.position, root, atol=2e-3)
    assert (found.std[[2, 3]] > 1).all()
    assert (found.std[[1, 4], 2] < 0.5).all()


def test_where_no_frame_shows_enough_somebody_stands_before_the_camera_at_any_distance(poses):
    found = solve(poses, pixels(poses + ROOT[:, None]), 0 * SEEN)
    assert np.isfinite(found.position).all()
    assert (found.position[:, 2] > 1).all()
    assert (found.std[:, 2] > 1).all()


def test_nobody_stands_behind_the_camera(poses):
    points = pixels(poses + ROOT[:, None])
    points[1] = np.array(SIZE) - points[1]  # upside down and mirrored: only from behind does the pose look so
    found = solve(poses, points)
    assert (found.position[:, 2] > 0).all()
    assert np.isfinite(found.std).all()


def test_the_assumed_camera_is_that_of_a_phone_held_either_way():
    assert assume_focal((1920, 1080)) == assume_focal((1080, 1920)) == pytest.approx(1440)


# --- smoothing


def least_squares(values: np.ndarray, std: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same smoother by its normal equations: unknown are the first position and speed and every acceleration."""
    count = len(values)
    position, speed = np.zeros((count, count + 1)), np.zeros((count, count + 1))
    position[0, 0], speed[0, 1] = 1, 1
    for row, step in enumerate(np.diff(times), 1):
        position[row] = position[row - 1] + step * speed[row - 1]
        speed[row] = speed[row - 1]
        position[row, row + 1] += step**2 / 2
        speed[row, row + 1] += step
    prior = np.diag(np.r_[0, 1 / 5.0**2, np.full(count - 1, 1 / ACCELERATION**2)])
    normal = position.T @ (position / std[:, None] ** 2) + prior
    covariance = position @ np.linalg.inv(normal) @ position.T
    return covariance @ (values / std**2), np.sqrt(np.diag(covariance))


def test_smoothing_is_the_solution_of_the_normal_equations():
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.uniform(0.01, 0.1, 12))
    values, std = rng.normal(0, 0.3, (12, 2, 3)), rng.uniform(0.02, 0.5, (12, 2, 3))
    found = smooth_path(values, std, times)
    for place in np.ndindex(2, 3):
        expected = least_squares(values[:, *place], std[:, *place], times)
        np.testing.assert_allclose(found.position[:, *place], expected[0], atol=1e-5)
        np.testing.assert_allclose(found.std[:, *place], expected[1], rtol=1e-4)


def test_a_path_without_deviations_stays_as_it_is():
    times = np.arange(100) / 30
    path = np.stack([np.sin(2 * times), 0.1 * np.cos(9 * times), 3 + times], axis=-1)
    found = smooth_path(path, np.zeros_like(path), times)
    np.testing.assert_allclose(found.position, path, atol=1e-4)
    assert (found.std <= 1e-4).all()


def test_a_value_that_nobody_trusts_follows_its_neighbours():
    times = np.arange(20) / 30
    line, std = 2 + 1.5 * times[:, None], np.full((20, 1), 0.01)
    values = line.copy()
    values[[0, 7, 8, 19]] += 5
    std[[0, 7, 8, 19]] = 1e3
    found = smooth_path(values, std, times)
    np.testing.assert_allclose(found.position, line, atol=1e-2)
    assert (found.std < 0.1).all()


def test_one_frame_and_equal_times_are_no_trouble():
    one = smooth_path(np.array([[1.0, 2, 3]]), np.array([[0.1, 0.1, 0.2]]), np.array([5.0]))
    np.testing.assert_array_equal(one.position, [[1, 2, 3]])
    np.testing.assert_allclose(one.std, [[0.1, 0.1, 0.2]])
    assert np.isfinite(smooth_path(np.ones((3, 2)), np.ones((3, 2)), np.zeros(3)).std).all()


# --- bone lengths


def test_held_bones_have_the_lengths_and_keep_their_directions(poses):
    lengths = np.linspace(0.1, 0.5, 16)
    held = hold_bone_lengths(poses, lengths, H36M_17)
    assert held.dtype == poses.dtype
    np.testing.assert_array_equal(held[:, 0], poses[:, 0])
    child, parent = np.array(H36M_17.bones).T
    before, after = (one[:, child] - one[:, parent] for one in (poses, held))
    np.testing.assert_allclose(np.linalg.norm(after, axis=-1), np.tile(lengths, (6, 1)), rtol=1e-5)
    cosine = np.sum(before * after, axis=-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)
    np.testing.assert_allclose(hold_bone_lengths(held, lengths, H36M_17), held, atol=1e-6)
    np.testing.assert_allclose(bone_lengths(held, H36M_17), lengths, rtol=1e-5)


@pytest.mark.parametrize("skeleton", [H36M_16, HUMANEVA_15, MPI_INF_3DHP_17])
def test_in_every_layout_the_own_lengths_change_nothing(skeleton):
    poses = np.random.default_rng(2).normal(size=(1, skeleton.num_joints, 3))
    np.testing.assert_allclose(hold_bone_lengths(poses, bone_lengths(poses, skeleton), skeleton), poses, atol=1e-9)


def test_a_height_is_leg_trunk_and_head_with_skull_and_sole():
    length = dict.fromkeys(H36M_17.joints, 0.3) | {"head_top": 0.2, "neck_nose": 0.1}
    lengths = np.array([length[H36M_17.joints[child]] for child, _ in H36M_17.bones])
    # Shin and thigh, spine and thorax, neck and head; hips and arms do not make anybody taller.
    assert standing_height(lengths, H36M_17) == pytest.approx(4 * 0.3 + 0.1 + 0.2 + SKULL + ANKLE)
    for height in (1.1, 1.9):
        scaled = scale_to_height(lengths, H36M_17, height) * lengths
        assert standing_height(scaled, H36M_17) == pytest.approx(height)


def test_people_have_the_height_of_people(standing):
    assert 1.4 < standing_height(bone_lengths(standing, H36M_17), H36M_17) < 2.1


# --- which way is up


def pitched(degrees: float, roll: float = 0.0) -> np.ndarray:
    """The rotation from the world (z up) to a camera that looks along y, so many degrees downwards, and is rolled."""
    a, b = np.radians(degrees), np.radians(roll)
    looking = np.array([[1, 0, 0], [0, -np.sin(a), -np.cos(a)], [0, np.cos(a), -np.sin(a)]])
    return np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]) @ looking


def degrees_between(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (20, 0), (-15, 0), (35, 10), (10, -90), (5, 90)])
def test_the_level_world_is_a_rotation_that_puts_up_up_and_keeps_x_level(pitch, roll):
    up = pitched(pitch, roll) @ [0, 0, 1]
    world = level_world(3 * up)
    np.testing.assert_allclose(world @ world.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(world) == pytest.approx(1)
    np.testing.assert_allclose(world @ up, [0, 0, 1], atol=1e-12)
    if abs(roll) < 60:
        assert (world @ [1, 0, 0])[1] == pytest.approx(0, abs=1e-12)  # to the right, or up and down
    assert (world @ [0, 0, 1])[1] > 0.5  # away from the camera


def test_an_upright_camera_has_the_obvious_world():
    np.testing.assert_allclose(level_world(np.array([0, -1.0, 0])), [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)


def test_up_along_the_cameras_x_axis_has_a_world_too():
    for sign in (-1.0, 1.0):
        world = level_world(np.array([sign, 0, 0]))
        np.testing.assert_allclose(world @ world.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(world @ [sign, 0, 0], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("pitch", [0, 20, -10])
def test_people_who_stand_tell_how_the_camera_is_pitched(standing, pitch):
    camera = pitched(pitch)
    up = find_up((standing - standing[:, :1]) @ camera.T, H36M_17)
    assert np.linalg.norm(up) == pytest.approx(1)
    assert degrees_between(up, camera @ [0, 0, 1]) < 5


def test_poses_without_any_direction_leave_the_camera_upright():
    np.testing.assert_array_equal(find_up(np.zeros((3, 17, 3)), H36M_17), [0, -1, 0])


def test_the_floor_lies_under_the_feet(standing):
    heights = standing[:, ANKLES, 2] + 0.7
    assert find_floor(heights) == pytest.approx(0.7, abs=0.04)
    lying = heights.copy()
    lying[0] -= 3  # one frame alone does not lower it
    assert find_floor(lying) == pytest.approx(find_floor(heights), abs=0.04)
