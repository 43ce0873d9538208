"""The simulated detector errs as detectors do, and always in the same way for the same seed."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.error_model import DetectorSettings, bias_matrix, estimate_occlusion
from diffpose_jax.data.detector.keypoint_noise import add_keypoint_noise, simulate_detector
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import image_scale
from diffpose_jax.skeleton import BLAZEPOSE_33, H36M_17

JOINT = {name: index for index, name in enumerate(H36M_17.joints)}
PIXELS = 500  # half an image of 1000 pixels: one normalised unit
QUIET = DetectorSettings(confusion=0.0, outlier=0.0)
simulate = jax.jit(simulate_detector, static_argnums=3)


def standing() -> np.ndarray:
    """A person facing the camera with the arms held out, `[J, 3]` metres, camera frame, root-relative."""
    pose = np.zeros((17, 3), np.float32)
    for side, sign in (("right", -1), ("left", 1)):
        places = {
            "hip": (0.13, 0), "knee": (0.14, 0.45), "ankle": (0.15, 0.9),
            "shoulder": (0.15, -0.5), "elbow": (0.45, -0.5), "wrist": (0.7, -0.5),
        }  # fmt: skip
        for joint, (x, y) in places.items():
            pose[JOINT[f"{side}_{joint}"], :2] = sign * x, y
    for joint, y in {"spine": -0.25, "thorax": -0.5, "neck_nose": -0.6, "head_top": -0.75}.items():
        pose[JOINT[joint], 1] = y
    return pose


def filmed(poses: np.ndarray) -> np.ndarray:
    """A pinhole camera with Human3.6M's focal length (2.29 in normalised image units), 5 m away."""
    return (2.29 * poses[..., :2] / (poses[..., 2:] + 5)).astype(np.float32)


@pytest.fixture(scope="module")
def still():
    poses = np.repeat(standing()[None], 4096, axis=0)
    return filmed(poses), poses


def errors(key, keypoints, poses, options=QUIET):
    found, _ = simulate(jax.random.key(key), keypoints, poses, H36M_17, options)
    return np.asarray(found) - keypoints


def test_the_same_key_gives_the_same_detections(still):
    first, second, other = errors(1, *still), errors(1, *still), errors(2, *still)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.001


def test_strength_zero_leaves_the_keypoints_and_is_sure(still):
    options = DetectorSettings(strength=0.0)
    found, scores = simulate(jax.random.key(0), *still, H36M_17, options)
    np.testing.assert_allclose(np.asarray(found), still[0], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(scores), 1)


def test_errors_are_as_large_as_those_of_real_detectors(still):
    size = np.linalg.norm(errors(0, *still, DetectorSettings()), axis=-1) * PIXELS
    assert 3 < size.mean() < 8
    assert size[:, JOINT["left_wrist"]].mean() > 1.5 * size[:, JOINT["neck_nose"]].mean()
    stronger = np.linalg.norm(errors(0, *still, QUIET._replace(strength=2.0)), axis=-1)
    np.testing.assert_allclose(stronger, 2 * np.linalg.norm(errors(0, *still), axis=-1), atol=1e-5)


def test_a_biased_detector_is_off_by_the_same_throughout_a_clip(still):
    keypoints, poses = (part[:256] for part in still)
    biased = jax.vmap(lambda key: simulate_detector(key, keypoints, poses, H36M_17, QUIET._replace(bias=1.0))[0])
    plain = jax.vmap(lambda key: simulate_detector(key, keypoints, poses, H36M_17, QUIET)[0])
    keys = jax.random.split(jax.random.key(0), 400)
    off = np.asarray(jax.jit(biased)(keys) - jax.jit(plain)(keys)) / image_scale(keypoints, poses)[None, :, None, None]
    np.testing.assert_allclose(off[:, -1], off[:, 0], atol=1e-5)
    hip, knee = (off[:, 0, JOINT[name]].std() for name in ("left_hip", "left_knee"))
    np.testing.assert_allclose([hip, knee], [0.023, 0.014], rtol=0.1)
    # BlazePose has no pelvis: it is the middle of its hips, and off as they are.
    middle = (off[..., JOINT["left_hip"], :] + off[..., JOINT["right_hip"], :]) / 2
    np.testing.assert_allclose(off[..., JOINT["pelvis"], :], middle, atol=1e-5)


def test_a_biased_detector_is_less_sure_of_hips_than_of_knees(still):
    _, scores = simulate(jax.random.key(0), *still, H36M_17, QUIET._replace(bias=1.0))
    _, surer = simulate(jax.random.key(0), *still, H36M_17, QUIET)
    mean = np.asarray(scores).mean(axis=0)
    assert mean[JOINT["left_hip"]] < mean[JOINT["left_knee"]] < np.asarray(surer)[:, JOINT["left_knee"]].mean()


def test_joints_that_are_not_made_of_cocos_err_independently():
    np.testing.assert_allclose(bias_matrix(BLAZEPOSE_33)[BLAZEPOSE_33.joints.index("left_thumb")].max(), 0.014)
    assert np.count_nonzero(bias_matrix(BLAZEPOSE_33)) == 33


def test_errors_are_heavy_tailed_and_last(still):
    x = errors(3, *still)[..., 0]
    x = x / x.std(axis=0)
    assert (x**4).mean() > 3.8  # 3 for a Gaussian
    lag = QUIET.persistence * 50
    correlation = (x[4:] * x[:-4]).mean()
    assert 0.6 * np.exp(-4 / lag) < correlation < 1.2 * np.exp(-4 / lag)


def test_errors_scale_with_the_person_in_the_image(still):
    keypoints, poses = still
    np.testing.assert_allclose(errors(4, 3 * keypoints, poses), 3 * errors(4, keypoints, poses), atol=1e-5)
    np.testing.assert_allclose(np.asarray(image_scale(keypoints, poses)), 2.29 / 5, rtol=1e-5)


def test_fast_joints_are_found_worse_and_known_to_be(still):
    keypoints, poses = still
    moving = poses.copy()
    wrist = JOINT["right_wrist"]
    moving[:, wrist, 1] += 0.3 * np.sin(2 * np.pi * 3 * np.arange(len(poses)) / 50)
    found, scores = simulate(jax.random.key(5), filmed(moving), moving, H36M_17, QUIET)
    slow, slow_scores = simulate(jax.random.key(5), keypoints, poses, H36M_17, QUIET)
    fast_error = np.linalg.norm(np.asarray(found) - filmed(moving), axis=-1).mean(axis=0)
    slow_error = np.linalg.norm(np.asarray(slow) - keypoints, axis=-1).mean(axis=0)
    assert fast_error[wrist] > 1.5 * slow_error[wrist]
    assert scores[:, wrist].mean() < slow_scores[:, wrist].mean()
    np.testing.assert_allclose(fast_error[JOINT["left_knee"]], slow_error[JOINT["left_knee"]], rtol=0.1)


def hidden(pose: np.ndarray) -> dict[str, float]:
    return dict(zip(H36M_17.joints, np.asarray(estimate_occlusion(pose[..., :2], pose[..., 2], H36M_17)), strict=True))


def test_a_wrist_behind_the_back_is_hidden_and_one_before_the_chest_is_not():
    pose = standing()
    pose[JOINT["left_elbow"]] = 0.25, -0.3, 0.15
    pose[JOINT["left_wrist"]] = 0.03, -0.25, 0.3
    assert hidden(pose)["left_wrist"] > 0.9
    pose[JOINT["left_elbow"], 2] = -0.15
    pose[JOINT["left_wrist"], 2] = -0.3
    assert hidden(pose)["left_wrist"] < 0.1


def test_from_the_side_the_far_half_of_the_body_is_hidden():
    facing = standing()
    turned = np.stack([-facing[:, 2], facing[:, 1], facing[:, 0]], axis=-1)
    amounts = hidden(turned)
    for joint in ("knee", "ankle"):
        assert amounts[f"left_{joint}"] > 0.5  # the left side is away from the camera
        assert amounts[f"right_{joint}"] < 0.1
    assert amounts["left_shoulder"] > 0.5
    assert max(hidden(facing)[f"{side}_{joint}"] for side in ("left", "right") for joint in ("knee", "wrist")) < 0.1


def test_hidden_joints_are_found_worse(still):
    facing = still[1]
    turned = np.stack([-facing[..., 2], facing[..., 1], facing[..., 0]], axis=-1)
    size = np.linalg.norm(errors(6, filmed(turned), turned), axis=-1).mean(axis=0)
    assert size[JOINT["left_ankle"]] > 1.5 * size[JOINT["right_ankle"]]


def test_confusions_exchange_whole_limbs_of_overlapping_sides(still):
    _, poses = still
    options = DetectorSettings(strength=1.0, confusion=0.05, outlier=0.0)
    close = poses.copy()
    close[:, [JOINT["left_knee"], JOINT["left_ankle"]], 0] = -0.1
    seen = filmed(close)
    calm = errors(7, seen, close, options._replace(confusion=0.0))
    moved = errors(7, seen, close, options) - calm
    legs, arms = [JOINT[f"left_{j}"] for j in ("knee", "ankle")], [JOINT[f"left_{j}"] for j in ("elbow", "wrist")]
    order = np.array(H36M_17.flip_order)
    swapped = np.abs(moved[:, legs[0]]).max(axis=-1) > 1e-3
    assert 0.01 < swapped.mean() < 0.12
    np.testing.assert_allclose(moved[swapped][:, legs], (seen[:, order] - seen)[swapped][:, legs], atol=1e-5)
    assert (np.abs(moved[:, arms[0]]).max(axis=-1) > 1e-3).mean() < swapped.mean()
    others = [j for j in range(17) if "knee" not in H36M_17.joints[j] and "ankle" not in H36M_17.joints[j]]
    torso = [j for j in others if "elbow" not in H36M_17.joints[j] and "wrist" not in H36M_17.joints[j]]
    assert np.abs(moved[:, torso]).max() < 1e-5


def test_outliers_are_rare_far_and_doubted(still):
    options = DetectorSettings(confusion=0.0, outlier=0.01)
    found, scores = simulate(jax.random.key(8), *still, H36M_17, options)
    calm, calm_scores = simulate(jax.random.key(8), *still, H36M_17, QUIET)
    moved = np.linalg.norm(np.asarray(found) - np.asarray(calm), axis=-1)
    lost = moved > 1e-6
    assert 0.005 < lost.mean() < 0.03
    assert moved[lost].mean() * PIXELS > 20
    assert (np.asarray(scores)[lost] < np.asarray(calm_scores)[lost]).all()


def clipset(lengths=(30, 100), poses=True):
    clips = []
    for number, length in enumerate(lengths):
        pose = np.repeat(standing()[None], length, axis=0)
        root = np.full((length, 3), [0, 0, 5], np.float32)
        clips.append(Clip(filmed(pose), pose if poses else None, root if poses else None, f"S{number}", "standing"))
    return ClipSet.build(clips, H36M_17)


def test_a_set_with_keypoint_noise_differs_in_keypoints_and_scores_only():
    exact = clipset()
    found, again, other = (add_keypoint_noise(exact, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(found.keypoints, again.keypoints)
    assert np.abs(found.keypoints - other.keypoints).max() > 1e-3
    error = np.linalg.norm(found.keypoints - exact.keypoints, axis=-1) * PIXELS
    assert 1 < error.mean() < 12
    assert found.scores.shape == exact.keypoints.shape[:2]
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    np.testing.assert_array_equal(found.poses, exact.poses)
    np.testing.assert_array_equal(found.root, exact.root)
    assert found.subject == exact.subject


def test_without_poses_detections_cannot_be_simulated():
    with pytest.raises(UserError, match="expected a data set with 3D poses"):
        add_keypoint_noise(clipset(poses=False), 0)
