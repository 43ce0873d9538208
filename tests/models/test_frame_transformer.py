"""The transformer over frames: one token per frame, told apart by its position, of any number of joints."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.models.attention import TransformerBlock
from diffpose_jax.models.frame_transformer import FrameTransformer

from .networks import count_parameters, draw_variables, evaluate, shape_variables, train

SMALL = {"frames": 3, "width": 16, "num_layers": 2, "num_heads": 4}
NETWORK = FrameTransformer(**SMALL)
K = jnp.array([3, 70], jnp.int32)


def normal(*shape: int, seed: int = 1) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def x():
    return normal(2, 3, 17, 5)


@pytest.fixture(scope="module")
def variables(x):
    return draw_variables(NETWORK, x, K)


def test_all_joints_of_a_frame_are_one_token(x, variables):
    """The parts around the blocks in numpy; `test_attention` has the blocks."""
    params = variables["params"]

    def linear(values, layer):
        return values @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    tokens = linear(np.asarray(x).reshape(2, 1, 3, 85), params["input"]) + np.asarray(params["positions"])
    assert params["positions"].shape == (3, 16)
    angles = np.asarray(K)[:, None] * np.float32(1e4) ** (-np.arange(8) / 7)
    step = linear(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), params["step"]["expand"])
    step = linear(step * (1 + np.vectorize(math.erf)(step / np.sqrt(2))) / 2, params["step"]["project"])
    for layer in range(2):
        block = TransformerBlock(4, 2.0)
        tokens = block.apply({"params": params[f"block_{layer}"]}, jnp.float32(tokens), jnp.float32(step), train=False)
    tokens = np.asarray(tokens)
    centred = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    poses = linear(centred * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"]), params["output"])
    found = evaluate(NETWORK, variables, x, K)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, poses.reshape(2, 3, 17, 3), atol=2e-4)


def test_every_frame_sees_every_other_and_knows_its_place(x, variables):
    found = np.asarray(evaluate(NETWORK, variables, x, K))
    later = np.asarray(evaluate(NETWORK, variables, x.at[:, 2].add(0.5), K))
    assert (np.abs(later - found).max(axis=(0, 2, 3)) > 1e-4).all()
    turned = np.asarray(evaluate(NETWORK, variables, x[:, ::-1], K))
    assert np.abs(turned[:, ::-1] - found).max() > 1e-2
    alone = np.asarray(evaluate(NETWORK, variables, x.at[1].set(0.0), K))
    np.testing.assert_allclose(alone[0], found[0], atol=1e-6)


def test_one_timestep_for_all_is_the_same_as_one_for_each(x, variables):
    once = evaluate(NETWORK, variables, x, jnp.asarray(7, jnp.int32))
    np.testing.assert_allclose(once, evaluate(NETWORK, variables, x, jnp.full(2, 7, jnp.int32)), atol=1e-5)
    assert np.abs(np.asarray(once - evaluate(NETWORK, variables, x, K))).max() > 1e-3


def test_it_may_not_be_told_the_timestep(x):
    names = shape_variables(FrameTransformer(**SMALL, step="none"), x, None)["params"]
    assert "step" not in names
    assert "step" not in names["block_0"]
    with pytest.raises(ValueError, match="expected a timestep k, found None"):
        shape_variables(NETWORK, x, None)


def test_as_many_parameters_as_its_layers_have():
    width, blocks, hidden = 256, 4, 512
    block = 4 * width + (width + 1) * 3 * width + (width + 1) * width  # two norms, attention
    block += (width + 1) * hidden + (hidden + 1) * width + (width + 1) * width  # perceptron, timestep
    counted = blocks * block + 27 * width + (85 + 1) * width + 2 * (width + 1) * width + 2 * width + (width + 1) * 51
    assert count_parameters(FrameTransformer(), normal(1, 27, 17, 5), K[:1]) == counted


def test_stochastic_depth_belongs_to_the_example_not_to_its_place():
    network, x, k = FrameTransformer(**SMALL, drop_path=0.5), normal(6, 3, 17, 5), jnp.arange(6, dtype=jnp.int32)
    variables, index, order = draw_variables(network, x, k), k * 5 + 2, jnp.array([2, 0, 1, 5, 3, 4])
    straight, _ = train(network, variables, x, k, index=index)
    shuffled, _ = train(network, variables, x[order], k[order], index=index[order])
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-5)
    strangers, _ = train(network, variables, x, k, index=index + 1)
    assert not np.allclose(strangers, straight, atol=1e-2)
