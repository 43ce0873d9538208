"""The reconstructed U-Net: its size, and the contract it shares with the graph denoiser."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import H36M_17, SKELETONS

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def small():
    network = UNetDenoiser(H36M_17, width=8, num_layers=2, step_features=16)
    inputs = normal(2, 1, 17, 3), normal(2, 1, 17, 2), jnp.zeros(2, jnp.int32)
    variables = jax.jit(lambda: network.init(KEY, *inputs, train=False))()
    return network, variables, jax.jit(lambda *inputs: network.apply(variables, *inputs, train=False))


def test_it_has_the_papers_2_99_million_parameters_within_one_percent():
    inputs = normal(1, 1, 17, 3), normal(1, 1, 17, 2), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(lambda: UNetDenoiser(H36M_17).init(KEY, *inputs, train=False))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == pytest.approx(2.99e6, rel=0.01)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_any_number_of_joints_is_halved_and_doubled_back(skeleton):
    joints = skeleton.num_joints
    network = UNetDenoiser(skeleton, width=4, num_layers=4, step_features=8)
    inputs = normal(2, 3, joints, 3), normal(2, 3, joints, 2), jnp.zeros(2, jnp.int32)
    result, _ = jax.eval_shape(lambda: network.init_with_output(KEY, *inputs, train=False))
    assert result.shape == (2, 3, joints, 5)


def test_frames_examples_and_steps_are_as_for_the_graph_denoiser(small):
    x, cond, k = normal(2, 3, 17, 3), normal(2, 3, 17, 2), jnp.array([5, 80], jnp.int32)
    apply = small[2]
    whole = apply(x, cond, k)
    moved = apply(x[::-1, ::-1], cond[::-1, ::-1], k[::-1])
    np.testing.assert_allclose(moved, whole[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(apply(x, cond, jnp.int32(5))[0], whole[0], atol=1e-5)
    assert np.abs(apply(x, cond, jnp.int32(5))[1] - whole[1]).max() > 1e-3


def test_every_parameter_learns(small):
    network, variables, _ = small
    inputs = normal(2, 1, 17, 3), normal(2, 1, 17, 2), jnp.array([5, 80], jnp.int32)
    loss = jax.jit(jax.grad(lambda params: jnp.sum(network.apply({"params": params}, *inputs, train=True) ** 2)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(loss(variables["params"])):
        # A bias on keys moves all scores of a query alike and softmax does not see it.
        assert np.any(leaf) or "key" in jax.tree_util.keystr(path), jax.tree_util.keystr(path)


def test_dropout_follows_the_example(small):
    network = UNetDenoiser(H36M_17, width=8, num_layers=2, step_features=16, dropout=0.5)
    x, cond, index = normal(4, 1, 17, 3), normal(4, 1, 17, 2), jnp.array([9, 2, 7, 4])

    @jax.jit
    def train(x: jax.Array, cond: jax.Array, index: jax.Array) -> jax.Array:
        return network.apply(small[1], x, cond, jnp.int32(1), train=True, index=index, rngs={"dropout": KEY})

    whole = train(x, cond, index)
    np.testing.assert_allclose(train(x[::-1], cond[::-1], index[::-1]), whole[::-1], atol=1e-5)
    assert np.abs(train(x, cond, index + 1) - whole).max() > 1e-3


def test_a_width_that_does_not_divide_into_groups_is_refused():
    inputs = normal(1, 1, 17, 3), normal(1, 1, 17, 2), jnp.int32(0)
    with pytest.raises(UserError, match="multiple of 4, found 30"):
        UNetDenoiser(H36M_17, width=30).init(KEY, *inputs, train=False)
