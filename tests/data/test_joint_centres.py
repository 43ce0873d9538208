"""A detector's joints and those of a training set: the way between them leads back, and only detections take it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.joint_centres import DETECTED, JointCentres, Proportions, find_joint_centres, measure_proportions
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.data.views import pinhole
from diffpose_jax.geometry import project
from diffpose_jax.model import load
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17, convert_layout

LIKE_CMU = Proportions(thorax=0.098, shank=1.08, forearm=0.98)
JOINT = H36M_17.joints.index


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    return load_synthetic(seed=0, subjects=6, frames=40)["train"].poses.astype(np.float64)


@pytest.fixture(scope="module")
def centres() -> JointCentres:
    return find_joint_centres(LIKE_CMU, H36M_17)


def test_there_and_back_is_nothing(poses, centres):
    everything = np.ones(poses.shape[:2], bool)
    for points in (poses, poses[..., :2]):
        np.testing.assert_allclose(
            centres.place_as_trained(centres.place_as_detected(points), everything), points, atol=1e-12
        )


def test_the_training_poses_moved_to_where_a_detector_finds_joints_have_its_proportions(poses):
    trained = measure_proportions(poses, H36M_17)
    assert abs(trained.forearm - DETECTED.forearm) > 0.01  # something to move
    moved = find_joint_centres(trained, H36M_17).place_as_detected(poses)
    np.testing.assert_allclose(measure_proportions(moved, H36M_17), DETECTED, atol=1e-6)


def test_directions_of_limbs_hips_shoulders_and_the_root_stay(poses, centres):
    moved = centres.place_as_detected(poses)
    for start, end in (("knee", "ankle"), ("elbow", "wrist")):
        before, after = (each[:, JOINT(f"left_{end}")] - each[:, JOINT(f"left_{start}")] for each in (poses, moved))
        cosine = np.sum(before * after, axis=-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
        np.testing.assert_allclose(cosine, 1, atol=1e-9)
    same = [JOINT(name) for name in ("pelvis", "left_hip", "right_shoulder", "right_knee", "left_elbow", "head_top")]
    np.testing.assert_array_equal(moved[:, same], poses[:, same])


def test_a_joint_stays_where_one_that_moves_it_was_not_seen(poses, centres):
    keypoints, seen = poses[..., :2], np.ones(poses.shape[:2], bool)
    seen[:, JOINT("left_knee")] = False
    moved = centres.place_as_trained(keypoints, seen) != keypoints
    assert not moved[:, JOINT("left_ankle")].any()
    assert moved[:, JOINT("right_ankle")].any()


def test_nothing_is_moved_where_the_training_poses_are_not_known(poses):
    nowhere = find_joint_centres(None, H36M_17)
    points = poses.astype(np.float32)
    np.testing.assert_array_equal(nowhere.place_as_detected(points), points)
    np.testing.assert_array_equal(
        nowhere.place_as_trained(points[..., :2], np.ones(points.shape[:2], bool)), points[..., :2]
    )
    np.testing.assert_array_equal(nowhere.widen([points[..., 0]], [0.9])[0], np.abs(points[..., 0]))


def test_a_layout_without_a_pelvis_has_no_proportions_one_without_a_spine_has(poses):
    assert measure_proportions(np.ones((3, 17, 3)), COCO_17) is None
    without = convert_layout(poses, H36M_17, H36M_16)
    assert measure_proportions(without, H36M_16) == measure_proportions(poses, H36M_17)


def test_a_region_of_nothing_becomes_one_that_holds_the_offset_of_a_joint_as_often_as_it_says(centres):
    offsets = np.random.default_rng(0).normal(size=(200_000, 3)) * centres.std[JOINT("left_knee")]
    for level in (0.5, 0.9):
        (radius,) = centres.widen([np.zeros((1, 17), np.float32)], [level])
        held = np.linalg.norm(offsets, axis=-1) <= radius[0, JOINT("left_knee")]
        np.testing.assert_allclose(held.mean(), level, atol=0.005)
    assert centres.std[H36M_17.root] == 0


def test_a_joint_is_moved_in_the_image_as_in_space_but_for_perspective(poses, centres):
    """3 m from the camera, where a shank is a seventh of the distance."""
    camera, places = pinhole(2.0), jnp.asarray(poses[:50] + np.array([0, 0, 3.0]), jnp.float32)
    there = project(centres.place_as_detected(places), camera)
    back = centres.place_as_trained(there, jnp.ones(there.shape[:2], bool))
    assert isinstance(back, jax.Array)
    error = 1.5 * jnp.linalg.norm(back - project(places, camera), axis=-1)  # m at the person
    assert error.max() < 0.015
    assert jnp.linalg.norm(there - project(places, camera), axis=-1).max() > 0.01


@pytest.fixture(scope="module")
def model(diffupose_workdir):
    loaded = load(diffupose_workdir)
    known = loaded.trained._replace(keypoints=None)
    return dataclasses.replace(loaded, trained=known)


def test_detections_are_lifted_where_training_has_them_and_poses_lie_under_them_again(model, monkeypatch, centres):
    keypoints = np.random.default_rng(1).uniform(-0.3, 0.3, (4, 17, 2)).astype(np.float32)
    monkeypatch.setattr("diffpose_jax.model.find_joint_centres", lambda known, skeleton: centres)
    detected = ClipSet.build([Clip(keypoints, None, None, "a", "b", detected=True)], H36M_17)
    found = model.lift(detected, hypotheses=3)
    monkeypatch.undo()
    moved = ClipSet.build([Clip(centres.place_as_trained(keypoints, detected.seen), None, None, "a", "b")], H36M_17)
    expected = model.lift(moved, hypotheses=3)
    np.testing.assert_allclose(found.hypotheses, centres.place_as_detected(expected.hypotheses), atol=1e-6)
    np.testing.assert_array_equal(found.clips.keypoints, keypoints)


def test_keypoints_of_a_detector_are_known_by_their_layout(model):
    people = np.random.default_rng(2).uniform(100, 300, (2, 17, 2))
    found = model.lift(people, layout="coco17", image_size=(400, 400), hypotheses=2)
    assert found.clips.detected
    own = convert_layout(people, COCO_17, H36M_17)
    assert not model.lift(own, layout="h36m17", image_size=(400, 400), hypotheses=2).clips.detected
