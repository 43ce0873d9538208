"""The supervised lifter: hypotheses that all agree, the middle frame of a sequence, and features for others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.lifters.base import Batch
from diffpose_jax.lifters.pose_losses import mpjpe, squared_and_absolute
from diffpose_jax.lifters.supervised import supervised
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.modulated_gcn import ModulatedGCN
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.skeleton import H36M_17


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    poses = 0.3 * rng.standard_normal((8, 1, 17, 3)).astype(np.float32)
    keypoints = rng.standard_normal((8, 1, 17, 2)).astype(np.float32)
    parts = (keypoints, poses - poses[:, :, :1], np.ones((8, 1, 17), np.float32), np.arange(8, dtype=np.int32))
    return Batch(*(jnp.asarray(part) for part in parts))


@pytest.fixture(scope="module")
def lifter():
    return supervised(ModulatedGCN(H36M_17, width=32, num_layers=1, dropout=0.2), H36M_17, squared_and_absolute)


@pytest.fixture(scope="module")
def variables(lifter, batch):
    return jax.jit(lifter.init)(jax.random.key(1), batch)


def test_all_hypotheses_agree_and_keep_the_root_at_zero(lifter, variables, batch):
    sample = jax.jit(lifter.sample, static_argnums=3)
    poses = np.asarray(sample(variables, jax.random.key(2), batch, 3))
    assert poses.shape == (3, 8, 1, 17, 3)
    np.testing.assert_array_equal(poses[1:], np.broadcast_to(poses[:1], (2, 8, 1, 17, 3)))
    np.testing.assert_array_equal(poses[..., 0, :], 0)
    np.testing.assert_array_equal(poses, sample(variables, jax.random.key(3), batch, 3))
    assert not lifter.stochastic


def test_the_loss_teaches(lifter, variables, batch):
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
    order = jnp.array([3, 1, 0, 2, 7, 6, 5, 4])
    moved = batch._replace(**{name: getattr(batch, name)[order] for name in ("keypoints", "poses", "mask", "index")})
    loss = jax.jit(lambda batch: lifter.loss(variables, jax.random.key(0), batch)[0])
    straight, shuffled, strangers = (loss(b) for b in (batch, moved, batch._replace(index=batch.index + 100)))
    assert shuffled == pytest.approx(float(straight), rel=1e-5)
    assert abs(strangers - straight) > 1e-4


def random_batch(frames: int) -> Batch:
    keypoints, poses = (jax.random.normal(jax.random.key(c), (2, frames, 17, c)) for c in (2, 3))
    return Batch(keypoints, poses, jnp.ones((2, frames, 17)), jnp.arange(2, dtype=jnp.int32))


def test_a_sequence_to_frame_network_learns_the_middle_frame():
    network = PoseFormer(5, joint_width=4, num_layers=1, num_heads=2)
    lifter, batch = supervised(network, H36M_17, mpjpe, 5, middle_frame=True), random_batch(5)
    variables = jax.jit(lifter.init)(jax.random.key(0), batch)
    poses = jax.eval_shape(lambda: lifter.sample(variables, jax.random.key(1), batch, 2))
    assert poses.shape == (2, 2, 1, 17, 3)
    assert lifter.middle_frame
    loss = jax.jit(lambda poses: lifter.loss(variables, jax.random.key(2), batch._replace(poses=poses))[0])
    assert loss(batch.poses.at[:, jnp.array([0, 1, 3, 4])].add(1.0)) == loss(batch.poses)
    assert loss(batch.poses.at[:, 2].add(1.0)) != loss(batch.poses)


@pytest.mark.parametrize(
    ("network", "frames", "width"),
    [(MixSTE(5, width=8, num_layers=1, num_heads=2), 5, 8), (ModulatedGCN(H36M_17, width=32, num_layers=1), 1, 32)],
    ids=["mixste", "modulated_gcn"],
)
def test_features_are_what_the_last_layer_reads(network, frames, width):
    lifter, batch = supervised(network, H36M_17, mpjpe, frames), random_batch(frames)
    variables = jax.jit(lifter.init)(jax.random.key(0), batch)
    features_of, sample = jax.jit(lifter.features), jax.jit(lifter.sample, static_argnums=3)
    features = features_of(variables, batch.keypoints)
    assert features.shape == (2, frames, 17, width)
    # Another last layer changes the poses, not the features.
    params = variables["params"]
    other = {**variables, "params": {**params, "output": jax.tree.map(lambda leaf: 2 * leaf, params["output"])}}
    np.testing.assert_array_equal(features_of(other, batch.keypoints), features)
    poses = [sample(one, jax.random.key(1), batch, 1) for one in (variables, other)]
    assert not np.allclose(*poses)
