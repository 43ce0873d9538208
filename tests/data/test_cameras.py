"""The real cameras, and what cameras see of a motion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_jax import geometry
from diffpose_jax.data import cameras
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera


def walk(frames: int = 300, speed: float = 1.4, seed: int = 0) -> np.ndarray:
    """A stick person `[T, 17, 3]` that drifts along x at `speed` m/s, at 50 Hz."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform([-0.4, -0.4, 0.05], [0.4, 0.4, 1.75], (17, 3))
    pose[0] = [0, 0, 0.95]
    travel = np.arange(frames)[:, None, None] / 50 * speed * np.array([1.0, 0, 0])
    return (pose + travel + rng.normal(0, 0.005, (frames, 17, 3))).astype(np.float32)


def pick(camera: Camera, index: int) -> Camera:
    return Camera(*(value[index] for value in camera))


@pytest.mark.parametrize("subject", cameras.H36M_SUBJECTS)
def test_human36m_cameras_stand_around_the_room_and_look_at_its_middle(subject):
    room = cameras.h36m_cameras(subject)
    assert room.focal.shape == (4, 2)
    assert all(value.dtype == np.float32 for value in room)
    np.testing.assert_allclose(np.linalg.norm(room.rotation, axis=-1), 1, atol=1e-6)
    middle = np.array([[*cameras.find_aim(room), 0.9]], np.float32)
    for index in range(4):
        seen = geometry.world_to_camera(middle, pick(room, index))[0]
        assert 3.5 < seen[2] < 6.5
        assert np.abs(geometry.project(seen, pick(room, index))).max() < 0.35
        above = geometry.world_to_camera(middle + np.array([0, 0, 1.0], np.float32), pick(room, index))[0]
        assert above[1] < seen[1] - 0.9


def test_human36m_intrinsics_in_image_units():
    room = cameras.h36m_cameras("S9")
    pixels = geometry.denormalise_screen(room.centre.astype(np.float64), room.size.astype(np.float64))
    np.testing.assert_allclose(pixels[0], [512.54150390625, 515.4514770507812], atol=1e-4)
    np.testing.assert_allclose(room.focal[0] * 500, [1145.0494384765625, 1143.7811279296875], rtol=1e-6)
    np.testing.assert_array_equal(room.size, [[1000, 1002], [1000, 1000], [1000, 1000], [1000, 1002]])
    np.testing.assert_allclose(room.translation[0], [2.04445849609375, 4.935117, 1.4812275], atol=1e-6)


def test_an_unknown_subject_is_told():
    with pytest.raises(UserError, match=r"'S2'.*S1, S5"):
        cameras.h36m_cameras("S2")


@pytest.mark.parametrize("yaw", [0.0, 1.3, np.array([0.0, 1.0, 2.0, -3.0])])
def test_a_view_is_the_motion_in_the_camera_frame_and_its_projection(yaw):
    motion, room = walk(), cameras.h36m_cameras()
    views = cameras.view_motion(motion, room, yaw)
    assert len(views) == 4
    bones = np.linalg.norm(np.diff(motion, axis=1), axis=-1)
    for index, (keypoints, poses, root) in enumerate(views):
        assert keypoints.shape == (300, 17, 2)
        assert keypoints.dtype == poses.dtype == root.dtype == np.float32
        assert not poses[:, 0].any()
        again = geometry.project(poses + root[:, None], pick(room, index))
        np.testing.assert_allclose(again, keypoints, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(np.diff(poses, axis=1), axis=-1), bones, atol=1e-5)
        world = np.asarray(geometry.camera_to_world(poses + root[:, None], pick(room, index)))
        np.testing.assert_allclose(world[..., 2], motion[..., 2], atol=1e-5)


def test_yaw_turns_the_person_about_the_vertical():
    motion, room = walk(20, speed=0), cameras.h36m_cameras()
    angle = 0.7
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = cameras.view_motion((motion @ matrix.T).astype(np.float32), room)
    for view, expected in zip(cameras.view_motion(motion, room, angle), turned, strict=True):
        for mine, theirs in zip(view, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_where_a_motion_was_captured_does_not_matter():
    motion, room = walk(), cameras.h36m_cameras()
    far = motion + np.array([7.0, -3.0, 0.0], np.float32)
    for here, there in zip(cameras.view_motion(motion, room), cameras.view_motion(far, room), strict=True):
        np.testing.assert_allclose(here[0], there[0], atol=1e-5)


@given(st.floats(0, 5), st.integers(2, 400), st.floats(0.3, 2))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_the_working_volume_holds_the_path_and_moves_smoothly(speed, frames, radius):
    path = np.stack([np.arange(frames) / 50 * speed, 0.2 * np.sin(np.arange(frames) / 20)], axis=-1)
    centre = cameras.follow(path, radius, 50.0)
    assert np.linalg.norm(path - centre, axis=-1).max() <= radius
    steps = np.linalg.norm(np.diff(centre, axis=0), axis=-1)
    assert steps.max() <= np.linalg.norm(np.diff(path, axis=0), axis=-1).max() + 1e-9


def test_a_short_path_is_seen_by_cameras_at_rest():
    path = walk(50)[:, 0, :2].astype(np.float64)
    np.testing.assert_array_equal(cameras.follow(path, 1.5, 50.0), np.broadcast_to(path.mean(0), path.shape))


def test_a_long_walk_stays_in_all_four_images():
    room = cameras.h36m_cameras("S5")
    for index, view in enumerate(cameras.view_motion(walk(700), room, 0.4)):
        assert cameras.find_usable_frames(*view, room.size[index]).all()


def test_frames_outside_the_image_or_too_near_are_not_usable():
    keypoints, poses = np.zeros((5, 17, 2)), np.zeros((5, 17, 3))
    root = np.tile([0.0, 0.0, 4.0], (5, 1))
    keypoints[1, 3] = [0.99, 0]
    keypoints[2, 4] = [0, -0.49]
    poses[3, 5, 2] = -3.5
    usable = cameras.find_usable_frames(keypoints, poses, root, np.array([1000, 500]))
    np.testing.assert_array_equal(usable, [True, False, False, False, True])


def test_usable_runs_are_the_unbroken_stretches():
    usable = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1], bool)
    assert cameras.find_usable_runs(usable) == [slice(0, 2), slice(3, 4), slice(6, 9)]
    assert cameras.find_usable_runs(usable, shortest=3) == [slice(6, 9)]
    assert cameras.find_usable_runs(np.zeros(4, bool)) == []


def test_random_cameras_see_a_person_at_the_origin_upright():
    drawn = cameras.random_cameras(np.random.default_rng(3), 64)
    np.testing.assert_array_equal(drawn.focal, cameras.random_cameras(np.random.default_rng(3), 64).focal)
    distance = np.linalg.norm(drawn.translation[:, :2], axis=-1)
    assert (distance >= 3).all()
    assert (distance <= 6).all()
    views = cameras.view_motion(walk(10, speed=0), drawn)
    assert np.mean([cameras.find_usable_frames(*view, drawn.size[0]).all() for view in views]) > 0.95
    person = np.array([[0, 0, 0.05], [0, 0, 1.75]], np.float32)
    people = np.broadcast_to(person, (64, 2, 3))
    seen = np.asarray(geometry.project(geometry.world_to_camera(people, drawn), drawn))
    assert (seen[:, 1, 1] < seen[:, 0, 1] - 0.4).all()
