"""The supervised lifter: the released losses on numbers done by hand, and hypotheses that all agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.lifters.base import Batch
from diffpose_jax.lifters.supervised import distance_and_absolute, squared_and_absolute, supervised
from diffpose_jax.models.modulated_gcn import ModulatedGCN
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


def test_the_losses_on_numbers_done_by_hand():
    poses = jnp.zeros((1, 1, 2, 3)).at[0, 0, 1].set(jnp.array([3.0, 4.0, 0.0]))
    target = jnp.zeros_like(poses)
    # Joint errors 0 and (3, 4, 0): mean square 25/6, mean absolute 7/6, mean distance 5/2.
    assert squared_and_absolute(poses, target) == pytest.approx(0.9 * 25 / 6 + 0.1 * 7 / 6)
    assert distance_and_absolute(poses, target) == pytest.approx(0.99 * 5 / 2 + 0.01 * 7 / 6)


@pytest.mark.parametrize("loss", [squared_and_absolute, distance_and_absolute])
def test_the_gradient_is_finite_where_the_prediction_is_exact(loss, batch):
    gradient = jax.grad(loss)(batch.poses, batch.poses)
    assert np.all(np.isfinite(gradient))


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
