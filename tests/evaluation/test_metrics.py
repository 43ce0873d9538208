"""Identities and independent references of the metrics."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.transform import Rotation

from diffpose_jax.evaluation import metrics


@pytest.fixture
def poses() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 17, 3)).astype(np.float32) * 0.4


@pytest.fixture
def noisy(poses: np.ndarray) -> np.ndarray:
    return poses + np.random.default_rng(1).normal(size=poses.shape).astype(np.float32) * 0.08


@pytest.mark.parametrize("name", ["mpjpe", "p_mpjpe", "n_mpjpe", "n_mpjpe_release", "velocity_error"])
def test_a_perfect_prediction_has_no_error(poses, name):
    np.testing.assert_allclose(getattr(metrics, name)(jnp.asarray(poses), jnp.asarray(poses)), 0, atol=2e-6)


def test_a_perfect_prediction_has_full_pck_and_all_but_the_zero_threshold_of_auc(poses):
    np.testing.assert_allclose(metrics.pck(jnp.asarray(poses), jnp.asarray(poses)), 1)
    np.testing.assert_allclose(metrics.auc(jnp.asarray(poses), jnp.asarray(poses)), 30 / 31, rtol=1e-6)


def test_a_shift_of_all_joints_is_the_mpjpe_and_root_relative_removes_it(poses):
    shifted = jnp.asarray(poses) + jnp.array([0.03, 0.0, -0.04])[None, None, :]
    np.testing.assert_allclose(metrics.mpjpe(shifted, jnp.asarray(poses)), 0.05, rtol=1e-4)
    centred = metrics.mpjpe(metrics.root_relative(shifted), metrics.root_relative(jnp.asarray(poses)))
    np.testing.assert_allclose(centred, 0, atol=1e-6)


def test_p_mpjpe_ignores_similarity_transforms(poses):
    turn = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix().astype(np.float32)
    moved = 1.7 * poses @ turn.T + np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(metrics.p_mpjpe(jnp.asarray(moved), jnp.asarray(poses)), 0, atol=5e-6)


def test_p_mpjpe_does_not_mirror(poses):
    mirrored = poses * np.array([-1, 1, 1], np.float32)
    assert np.all(np.asarray(metrics.p_mpjpe(jnp.asarray(mirrored), jnp.asarray(poses))) > 0.05)


def test_p_mpjpe_agrees_with_scipy(poses, noisy):
    for pose, prediction, ours in zip(
        poses, noisy, metrics.p_mpjpe(jnp.asarray(noisy), jnp.asarray(poses)), strict=True
    ):
        target, aligned, _ = scipy_procrustes(pose.astype(np.float64), prediction.astype(np.float64))
        size = np.linalg.norm(pose - pose.mean(0))
        np.testing.assert_allclose(ours, size * np.linalg.norm(target - aligned, axis=-1).mean(), rtol=1e-4)


def test_n_mpjpe_ignores_scale_and_uses_the_least_squares_scale(poses, noisy):
    np.testing.assert_allclose(metrics.n_mpjpe(jnp.asarray(poses) * 0.6, jnp.asarray(poses)), 0, atol=1e-6)
    for pose, prediction, ours in zip(
        poses, noisy, metrics.n_mpjpe(jnp.asarray(noisy), jnp.asarray(poses)), strict=True
    ):
        best = minimize_scalar(lambda s, p=prediction, g=pose: float(np.sum((s * p - g) ** 2))).x
        np.testing.assert_allclose(ours, np.linalg.norm(best * prediction - pose, axis=-1).mean(), rtol=1e-4)


def test_the_released_n_mpjpe_forgives_a_scale_per_axis(poses):
    stretched = jnp.asarray(poses) * jnp.array([0.5, 1.0, 2.0])[None, None, :]
    np.testing.assert_allclose(metrics.n_mpjpe_release(stretched, jnp.asarray(poses)), 0, atol=1e-6)
    assert np.all(np.asarray(metrics.n_mpjpe(stretched, jnp.asarray(poses))) > 0.05)


def test_velocity_error_is_that_of_differences_and_ignores_a_constant_offset(poses, noisy):
    expected = np.linalg.norm(np.diff(noisy, axis=0) - np.diff(poses, axis=0), axis=-1).mean(-1)
    np.testing.assert_allclose(metrics.velocity_error(jnp.asarray(noisy), jnp.asarray(poses)), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.velocity_error(jnp.asarray(poses) + 0.5, jnp.asarray(poses)), 0, atol=1e-6)


def test_velocity_never_crosses_clips(poses, noisy):
    follows = np.array([False, True, True, False, True, True, True])
    found = np.asarray(metrics.velocity_error_of_frames(jnp.asarray(noisy), jnp.asarray(poses), jnp.asarray(follows)))
    assert np.array_equal(np.isnan(found), ~follows)
    parts = [
        metrics.velocity_error(jnp.asarray(noisy[part]), jnp.asarray(poses[part]))
        for part in (slice(0, 3), slice(3, 7))
    ]
    np.testing.assert_allclose(found[follows], np.concatenate(parts), rtol=1e-5)


def test_pck_counts_joints_strictly_below_150_mm_without_the_root():
    target = np.zeros((5, 3), np.float32)
    poses = target.copy()
    poses[:, 0] = [0, 0.149, 0.1501, 0.01, 0.3]
    assert float(metrics.pck(jnp.asarray(poses), jnp.asarray(target))) == pytest.approx(2 / 4)
    assert float(metrics.pck(jnp.asarray(poses), jnp.asarray(target), root=None)) == pytest.approx(3 / 5)


def test_auc_agrees_with_the_sum_over_thresholds(poses, noisy):
    errors = np.linalg.norm(noisy - poses, axis=-1)[:, 1:]
    expected = np.mean([(errors < t / 1000).mean(-1) for t in range(0, 151, 5)], axis=0)
    np.testing.assert_allclose(metrics.auc(jnp.asarray(noisy), jnp.asarray(poses)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["mpjpe", "p_mpjpe", "n_mpjpe"])
def test_lengths_scale_with_the_unit(poses, noisy, name):
    metres = getattr(metrics, name)(jnp.asarray(noisy), jnp.asarray(poses))
    millimetres = getattr(metrics, name)(jnp.asarray(noisy) * 1000, jnp.asarray(poses) * 1000)
    np.testing.assert_allclose(millimetres, np.asarray(metres) * 1000, rtol=1e-4)


@pytest.mark.parametrize("name", ["mpjpe", "p_mpjpe", "n_mpjpe", "pck", "auc"])
def test_leading_axes_are_free(poses, noisy, name):
    metric = getattr(metrics, name)
    flat = metric(jnp.asarray(noisy[:6]), jnp.asarray(poses[:6]))
    folded = metric(jnp.asarray(noisy[:6]).reshape(2, 3, 17, 3), jnp.asarray(poses[:6]).reshape(2, 3, 17, 3))
    np.testing.assert_allclose(folded.reshape(-1), flat, rtol=1e-5)


def test_spread_is_the_standard_deviation_of_isotropic_noise():
    hypotheses = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2, 3)).astype(np.float32) * 0.01)
    np.testing.assert_allclose(metrics.spread(hypotheses), 0.01 * np.sqrt(3), rtol=0.03)


def test_mpjve_of_joined_windows_counts_the_jump_back_to_the_overlapping_last_one(poses, noisy):
    # As MixSTE's release joins windows of 5 frames over a clip of 7: frames 0 to 4 and 2 to 6.
    order = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    found = metrics.velocity_error(jnp.asarray(noisy[order]), jnp.asarray(poses[order])).mean()
    steps = np.linalg.norm(np.diff(noisy[order], axis=0) - np.diff(poses[order], axis=0), axis=-1)
    np.testing.assert_allclose(found, steps.mean(), rtol=1e-5)
    assert found != pytest.approx(
        float(metrics.velocity_error(jnp.asarray(noisy), jnp.asarray(poses)).mean()), rel=1e-3
    )


def test_coordinate_errors_are_absolute_differences(poses, noisy):
    found = metrics.coordinate_errors(jnp.asarray(noisy), jnp.asarray(poses))
    np.testing.assert_allclose(found, np.abs(noisy - poses), atol=1e-7)


def test_the_3dhp_tool_counts_fourteen_joints_strictly_below_the_threshold():
    errors = np.zeros((1, 17), np.float32)
    errors[:, [14, 15, 16]] = 9.0  # pelvis, spine and "head" are in no group
    pck, auc = (function(jnp.asarray(errors)) for function in (metrics.pck_3dhp, metrics.auc_3dhp))
    assert {name: float(value[0]) for name, value in pck.items()} == dict.fromkeys(pck, 1.0)
    np.testing.assert_allclose(np.stack(list(auc.values())), 30 / 31, rtol=1e-6)
    assert list(pck) == ["head", "neck", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "total"]

    errors[0, 3] = 0.5  # exactly representable: the right elbow at the threshold is not below it
    pck = metrics.pck_3dhp(jnp.asarray(errors), threshold=0.5)
    assert float(pck["elbow"][0]) == 0.5
    assert float(pck["total"][0]) == pytest.approx(13 / 14)


def test_the_3dhp_auc_is_the_mean_of_pck_over_its_thresholds():
    errors = np.random.default_rng(4).uniform(0, 0.2, (50, 17)).astype(np.float32)
    curve = [metrics.pck_3dhp(jnp.asarray(errors), threshold=t) for t in metrics.AUC_THRESHOLDS]
    auc = metrics.auc_3dhp(jnp.asarray(errors))
    for name, value in auc.items():
        np.testing.assert_allclose(value, np.mean([point[name] for point in curve], axis=0), atol=1e-6)
    groups = metrics.JOINT_GROUPS_3DHP
    weighted = sum(np.asarray(auc[name]) * len(joints) for name, joints in groups.items()) / 14
    np.testing.assert_allclose(auc["total"], weighted, atol=1e-6)
