"""Batch normalisation over devices equals one device; dropout masks follow the example."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.models.normalisation import BatchNorm, Dropout, index_rows

RNG = np.random.default_rng(0)
AXIS = "devices"


def test_training_normalises_by_the_batch_and_moves_the_running_statistics_as_torch_does():
    x = (3 + 2 * RNG.standard_normal((5, 6, 4))).astype(np.float32)
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x, train=False)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    rows = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(y, (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), atol=1e-5)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics_alone():
    layer, x = BatchNorm(), RNG.standard_normal((2, 3, 2)).astype(np.float32)
    params = {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([-1.0, 1.0])}
    stats = {"mean": jnp.array([0.5, -0.5]), "var": jnp.array([4.0, 0.25])}
    y = layer.apply({"params": params, "batch_stats": stats}, x, train=False)
    std = np.sqrt(np.array([4.0, 0.25]) + 1e-5)
    np.testing.assert_allclose(y, (x - [0.5, -0.5]) / std * [2.0, 3.0] + [-1.0, 1.0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_channels_on_another_axis_are_normalised_alike(train: bool):
    x = RNG.standard_normal((5, 6, 4)).astype(np.float32)
    params = {"scale": RNG.random(4).astype(np.float32), "bias": RNG.random(4).astype(np.float32)}
    variables = {"params": params, "batch_stats": {"mean": jnp.arange(4.0), "var": 1 + jnp.arange(4.0)}}
    last, last_stats = BatchNorm().apply(variables, x, train=train, mutable=["batch_stats"])
    turned = x.swapaxes(1, 2)
    middle, stats = BatchNorm(axis=1).apply(variables, turned, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(middle.swapaxes(1, 2), last, atol=1e-6)
    chex.assert_trees_all_close(stats, last_stats, rtol=1e-6)


def test_eight_devices_normalise_and_differentiate_as_one():
    x = (1 + RNG.standard_normal((8, 3, 2, 4))).astype(np.float32)  # devices, joints, rows per device, channels
    weight = RNG.standard_normal(x.shape).astype(np.float32)
    whole = BatchNorm()
    variables = whole.init(jax.random.key(0), x[0], train=False)

    def loss(layer, params, x, weight):
        y, updates = layer.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(weight * y**3), (y, updates["batch_stats"])

    def share(params, x, weight):
        gradient = jax.grad(lambda *inputs: loss(BatchNorm(AXIS), *inputs), argnums=(0, 1), has_aux=True)
        (grad_params, grad_x), (y, stats) = gradient(params, x, weight)
        return jax.lax.pmean(grad_params, AXIS), grad_x, y, stats

    one = jax.jit(jax.grad(lambda *inputs: loss(whole, *inputs), argnums=(0, 1), has_aux=True))
    (grad_params, grad_x), (y, stats) = one(variables["params"], x, weight)
    many_params, many_x, many_y, many_stats = jax.pmap(share, AXIS, in_axes=(None, 0, 0))(
        variables["params"], x, weight
    )
    np.testing.assert_allclose(many_y, y, atol=1e-5)
    np.testing.assert_allclose(many_x / 8, grad_x, atol=1e-6)
    for mine, theirs in ((many_params, grad_params), (many_stats, stats)):
        for name in theirs:
            for copy in mine[name]:
                np.testing.assert_allclose(copy, theirs[name], atol=1e-6)


def test_statistics_stay_float32_in_bfloat16():
    layer, x = BatchNorm(dtype=jnp.bfloat16), (100 + RNG.standard_normal((64, 4))).astype(np.float32)
    y, updates = layer.init_with_output(jax.random.key(0), x, train=False)
    y, updates = layer.apply(updates, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updates))


@pytest.fixture
def dropped():
    def apply(x: jax.Array, index: jax.Array) -> jax.Array:
        return Dropout(0.25).apply({}, x, index, train=True, rngs={"dropout": jax.random.key(4)})

    return apply


def test_eight_devices_drop_what_one_device_drops(dropped):
    x, index = jnp.ones((5, 8, 16)), 7 + jnp.arange(8) * 3
    together = dropped(x, index)
    apart = jax.pmap(dropped)(jnp.ones((8, 5, 1, 16)), index[:, None])
    np.testing.assert_array_equal(jnp.concatenate(list(apart), axis=1), together)


def test_a_mask_follows_its_example_and_differs_between_examples(dropped):
    x, index = jnp.ones((5, 8, 16)), jnp.arange(8)
    order = jnp.array([3, 1, 7, 0, 2, 6, 5, 4])
    np.testing.assert_array_equal(dropped(x, index[order]), dropped(x, index)[:, order])
    assert not np.array_equal(dropped(x, index)[:, 0], dropped(x, index)[:, 1])


def test_dropout_keeps_the_mean_and_drops_the_given_fraction(dropped):
    y = dropped(jnp.ones((64, 64, 64)), jnp.arange(64))
    assert float(jnp.mean(y)) == pytest.approx(1, abs=0.01)
    assert float(jnp.mean((y == 0).astype(jnp.float32))) == pytest.approx(0.25, abs=0.005)


def test_dropout_does_nothing_at_evaluation_and_at_rate_zero():
    x, index = jnp.ones((2, 3, 4)), jnp.arange(3)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, index, train=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, index, train=True), x)


def test_rows_of_an_example_keep_their_index_wherever_it_stands():
    index = jnp.array([5, 2])
    both, alone = index_rows(index, (2, 3)), index_rows(index[1:], (1, 3))
    np.testing.assert_array_equal(both, [15, 16, 17, 6, 7, 8])
    np.testing.assert_array_equal(both[3:], alone)
    np.testing.assert_array_equal(index_rows(None, ()), [0])
