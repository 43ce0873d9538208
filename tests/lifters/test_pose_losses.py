"""The losses on numbers done by hand and in plain numpy, and their gradients where the prediction is exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.lifters import pose_losses
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.pose_losses import mixste_loss
from diffpose_jax.skeleton import H36M_17, mirror

from .. import bone_losses

WEIGHTS = joint_weights("mixste", H36M_17)


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    return 0.3 * np.random.default_rng(0).standard_normal((2, 5, 17, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def target() -> np.ndarray:
    return 0.3 * np.random.default_rng(1).standard_normal((2, 5, 17, 3)).astype(np.float32)


def test_the_losses_on_numbers_done_by_hand():
    poses = jnp.zeros((1, 1, 2, 3)).at[0, 0, 1].set(jnp.array([3.0, 4.0, 0.0]))
    target = jnp.zeros_like(poses)
    # Joint errors 0 and (3, 4, 0): mean square 25/6, mean absolute 7/6, mean distance 5/2.
    assert pose_losses.mpjpe(poses, target) == pytest.approx(5 / 2)
    assert pose_losses.mean_squared(poses, target) == pytest.approx(25 / 6)
    assert pose_losses.squared_and_absolute(poses, target) == pytest.approx(0.9 * 25 / 6 + 0.1 * 7 / 6)
    assert pose_losses.distance_and_absolute(poses, target) == pytest.approx(0.99 * 5 / 2 + 0.01 * 7 / 6)
    assert pose_losses.weighted_mpjpe(poses, target, np.array([1.0, 4.0], np.float32)) == pytest.approx(10)


def test_mixstes_loss_is_its_terms_in_numpy(poses, target):
    norm = np.linalg.norm
    weighted = np.mean(WEIGHTS * norm(poses - target, axis=-1))
    step, true_step = np.diff(poses, axis=1), np.diff(target, axis=1)
    consistency = np.mean(WEIGHTS[:, None] * step**2)
    velocity = np.mean(norm(step - true_step, axis=-1))
    released, paper = mixste_loss(WEIGHTS), mixste_loss(WEIGHTS, velocity=1.0)
    assert released(poses, target) == pytest.approx(weighted + 0.5 * consistency + 2 * velocity, rel=1e-5)
    assert paper(poses, target) == pytest.approx(weighted + 0.5 * consistency + velocity, rel=1e-5)


def test_a_symmetric_still_pose_has_no_asymmetry_and_no_change(poses):
    symmetric = (poses + mirror(poses, H36M_17)) / 2
    assert bone_losses.bone_asymmetry(symmetric, H36M_17) == pytest.approx(0, abs=1e-6)
    assert bone_losses.bone_asymmetry(poses, H36M_17) > 0.1
    still = np.broadcast_to(poses[:, :1], poses.shape)
    assert bone_losses.bone_change(still, H36M_17) == 0
    moved = still + np.arange(5, dtype=np.float32)[None, :, None, None]
    assert bone_losses.bone_change(moved, H36M_17) == pytest.approx(0, abs=1e-5)


def test_one_longer_arm_is_told_by_its_two_bones():
    poses = np.zeros((1, 1, 17, 3), np.float32)
    poses[..., H36M_17.joints.index("left_elbow"), 0] = 0.3
    assert bone_losses.bone_asymmetry(poses, H36M_17) == pytest.approx(0.6)


def test_motion_terms_of_a_single_frame_are_zero(poses, target):
    one, other = poses[:, :1], target[:, :1]
    assert pose_losses.temporal_consistency(one, WEIGHTS) == 0
    assert pose_losses.velocity_loss(one, other) == 0
    assert mixste_loss(WEIGHTS)(one, other) == pytest.approx(float(pose_losses.weighted_mpjpe(one, other, WEIGHTS)))


@pytest.mark.parametrize(
    "loss",
    [
        pose_losses.mpjpe,
        pose_losses.squared_and_absolute,
        pose_losses.distance_and_absolute,
        mixste_loss(WEIGHTS, consistency=0.0),
        lambda poses, target: bone_losses.bone_asymmetry(poses, H36M_17),
        lambda poses, target: bone_losses.bone_change(poses, H36M_17),
    ],
)
def test_the_gradient_is_finite_where_the_prediction_is_exact_or_still(loss, poses):
    still = np.broadcast_to(poses[:, :1], poses.shape)
    assert np.all(np.isfinite(jax.grad(loss)(still, still)))


def test_the_gradient_of_a_distance_is_the_direction():
    gradient = jax.grad(pose_losses.distance)(jnp.array([3.0, 4.0, 0.0]))
    np.testing.assert_allclose(gradient, [0.6, 0.8, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(pose_losses.distance)(jnp.zeros(3)), 0)
