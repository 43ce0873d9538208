"""The supervised lifter: hypotheses that all agree, the middle frame of a sequence, and features for others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.lifters.base import Batch, Sampling
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.pose_losses import POSE_LOSSES, mixste_loss
from diffpose_jax.lifters.supervised import (
    MixSTELifter,
    MixSTEOptions,
    ModulatedGCNLifter,
    ModulatedGCNOptions,
    PoseFormerLifter,
    PoseFormerOptions,
    ResidualMLPLifter,
)
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.modulated_gcn import ModulatedGCN
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.models.residual_mlp import ResidualMLP
from diffpose_jax.skeleton import H36M_17

from .toys import pose_batch, sample, take


@pytest.fixture(scope="module")
def batch() -> Batch:
    return pose_batch(4, 1, spacing=1)


@pytest.fixture(scope="module")
def lifter() -> ModulatedGCNLifter:
    return ModulatedGCNLifter(ModulatedGCN(H36M_17, width=32, num_layers=1, dropout=0.2), H36M_17)


@pytest.fixture(scope="module")
def variables(lifter, batch):
    return jax.jit(lifter.init)(jax.random.key(1), batch)


def test_all_hypotheses_agree_and_keep_the_root_at_zero(lifter, variables, batch):
    poses = np.asarray(sample(lifter, variables, jax.random.key(2), batch, Sampling(3)))
    assert poses.shape == (3, 4, 1, 17, 3)
    np.testing.assert_array_equal(poses[1:], np.broadcast_to(poses[:1], (2, 4, 1, 17, 3)))
    np.testing.assert_array_equal(poses[..., 0, :], 0)
    np.testing.assert_array_equal(poses, sample(lifter, variables, jax.random.key(3), batch, Sampling(3)))
    assert not lifter.stochastic


def test_the_root_stays_where_the_network_puts_it_where_it_is_asked_for(lifter, variables, batch):
    moved = ModulatedGCNLifter(lifter.network, H36M_17, ModulatedGCNOptions(root_relative=False))
    straight, poses = (sample(one, variables, jax.random.key(2), batch, Sampling()) for one in (lifter, moved))
    assert np.abs(poses[..., :1, :]).min() > 0
    np.testing.assert_allclose(poses - poses[..., :1, :], straight, atol=1e-6)


@pytest.mark.parametrize("name", [*POSE_LOSSES, "weighted_temporal"])
def test_every_loss_has_a_name(name):
    poses, target = (pose_batch(2, 3).poses, pose_batch(3, 3).poses[1:])
    loss = MixSTEOptions(loss=name, weight_velocity=1.0, joint_weights="limb_ends").pose_loss(H36M_17)
    expected = POSE_LOSSES.get(name, mixste_loss(joint_weights("limb_ends", H36M_17), velocity=1.0))
    assert loss(poses, target) == pytest.approx(float(expected(poses, target)))


def test_training_lowers_the_loss(lifter, variables, batch):
    def loss(params):
        return lifter.loss({**variables, "params": params}, jax.random.key(0), batch)

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (first, aux), gradient = value_and_grad(variables["params"])
    assert aux.metrics["loss"] == first
    changed = jax.tree.map(lambda old, new: np.any(old != new), variables["batch_stats"], aux.batch_stats)
    assert all(jax.tree.leaves(changed))
    params = variables["params"]
    for _ in range(20):
        (value, _), gradient = value_and_grad(params)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient)
    assert value < 0.8 * first


def test_dropout_belongs_to_the_example_not_to_its_place(lifter, variables, batch):
    moved = take(batch, [3, 1, 0, 2])
    loss = jax.jit(lambda batch: lifter.loss(variables, jax.random.key(0), batch)[0])
    straight, shuffled, strangers = (loss(b) for b in (batch, moved, batch._replace(index=batch.index + 100)))
    assert shuffled == pytest.approx(float(straight), rel=1e-5)
    assert abs(strangers - straight) > 1e-4


def test_a_sequence_to_frame_network_learns_the_middle_frame():
    network = PoseFormer(5, joint_width=4, num_layers=1, num_heads=2)
    lifter, batch = PoseFormerLifter(network, H36M_17, PoseFormerOptions(frames=5)), pose_batch(2, 5)
    variables = jax.jit(lifter.init)(jax.random.key(0), batch)
    poses = jax.eval_shape(lambda: lifter.sample(variables, jax.random.key(1), batch, Sampling(2)))
    assert poses.shape == (2, 2, 1, 17, 3)
    assert lifter.middle_frame
    loss = jax.jit(lambda poses: lifter.loss(variables, jax.random.key(2), batch._replace(poses=poses))[0])
    assert loss(batch.poses.at[:, jnp.array([0, 1, 3, 4])].add(1.0)) == loss(batch.poses)
    assert loss(batch.poses.at[:, 2].add(1.0)) != loss(batch.poses)


@pytest.mark.parametrize(
    ("lifter", "width"),
    [
        (MixSTELifter(MixSTE(5, width=8, num_layers=1, num_heads=2), H36M_17, MixSTEOptions(frames=5)), 8),
        (ModulatedGCNLifter(ModulatedGCN(H36M_17, width=32, num_layers=1), H36M_17), 32),
        (ResidualMLPLifter(ResidualMLP(17, width=24, num_layers=1), H36M_17), 24),
    ],
    ids=["mixste", "modulated_gcn", "residual_mlp"],
)
def test_features_are_what_the_last_layer_reads(lifter, width):
    batch = pose_batch(2, lifter.frames)
    variables = jax.jit(lifter.init)(jax.random.key(0), batch)
    features_of = jax.jit(lifter.features)
    features = features_of(variables, batch)
    assert features.shape == (2, lifter.frames, 17, width)
    # Another last layer changes the poses, not the features.
    params = variables["params"]
    other = {**variables, "params": {**params, "output": jax.tree.map(lambda leaf: 2 * leaf, params["output"])}}
    np.testing.assert_array_equal(features_of(other, batch), features)
    poses = [sample(lifter, one, jax.random.key(1), batch, Sampling()) for one in (variables, other)]
    assert not np.allclose(*poses)
