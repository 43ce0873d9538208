"""The reconstructed U-Net: its size, and the contract it shares with the graph denoiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import H36M_17, SKELETONS

from .networks import count_parameters, draw_variables, evaluate, train

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
NETWORK = UNetDenoiser(H36M_17, width=8, num_layers=2, step_features=16)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def variables():
    return draw_variables(NETWORK, normal(2, 1, 17, 3), normal(2, 1, 17, 2), jnp.zeros(2, jnp.int32))


def test_it_has_the_papers_2_99_million_parameters_within_one_percent():
    inputs = normal(1, 1, 17, 3), normal(1, 1, 17, 2), jnp.zeros(1, jnp.int32)
    assert count_parameters(UNetDenoiser(H36M_17), *inputs) == pytest.approx(2.99e6, rel=0.01)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_any_number_of_joints_is_halved_and_doubled_back(skeleton):
    joints = skeleton.num_joints
    network = UNetDenoiser(skeleton, width=4, num_layers=4, step_features=8)
    inputs = normal(2, 3, joints, 3), normal(2, 3, joints, 2), jnp.zeros(2, jnp.int32)
    result, _ = jax.eval_shape(lambda: network.init_with_output(KEY, *inputs, train=False))
    assert result.shape == (2, 3, joints, 5)


def test_frames_examples_and_timesteps_are_as_for_the_graph_denoiser(variables):
    x, cond, k = normal(2, 3, 17, 3), normal(2, 3, 17, 2), jnp.array([5, 80], jnp.int32)
    whole = evaluate(NETWORK, variables, x, cond, k)
    moved = evaluate(NETWORK, variables, x[::-1, ::-1], cond[::-1, ::-1], k[::-1])
    np.testing.assert_allclose(moved, whole[::-1, ::-1], atol=1e-5)
    alike = evaluate(NETWORK, variables, x, cond, jnp.int32(5))
    np.testing.assert_allclose(alike[0], whole[0], atol=1e-5)
    assert np.abs(alike[1] - whole[1]).max() > 1e-3


def test_every_parameter_has_a_gradient(variables):
    inputs = normal(2, 1, 17, 3), normal(2, 1, 17, 2), jnp.array([5, 80], jnp.int32)
    loss = jax.jit(jax.grad(lambda params: jnp.sum(NETWORK.apply({"params": params}, *inputs, train=True) ** 2)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(loss(variables["params"])):
        # A bias of the keys adds the same to all scores of a query, which softmax ignores.
        assert np.any(leaf) or "key" in jax.tree_util.keystr(path), jax.tree_util.keystr(path)


def test_dropout_follows_the_example(variables):
    network, k = NETWORK.clone(dropout=0.5), jnp.int32(1)
    x, cond, index = normal(4, 1, 17, 3), normal(4, 1, 17, 2), jnp.array([9, 2, 7, 4])
    whole, _ = train(network, variables, x, cond, k, index=index)
    turned, _ = train(network, variables, x[::-1], cond[::-1], k, index=index[::-1])
    np.testing.assert_allclose(turned, whole[::-1], atol=1e-5)
    assert np.abs(train(network, variables, x, cond, k, index=index + 1)[0] - whole).max() > 1e-3


def test_a_width_that_does_not_divide_into_groups_is_refused():
    inputs = normal(1, 1, 17, 3), normal(1, 1, 17, 2), jnp.int32(0)
    with pytest.raises(UserError, match="multiple of 4, found 30"):
        UNetDenoiser(H36M_17, width=30).init(KEY, *inputs, train=False)
