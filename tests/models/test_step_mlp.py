"""The residual MLP that is told the timestep is the network described, written down a second time in numpy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.models.step_mlp import StepResidualMLP
from diffpose_jax.skeleton import H36M_17

from .networks import count_parameters, draw_variables, evaluate, train

NETWORK = StepResidualMLP(H36M_17, width=16, num_layers=2)
K = jnp.array([3, 70], jnp.int32)


def normal(*shape: int, seed: int = 1) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def inputs() -> tuple[jax.Array, jax.Array]:
    """Noisy poses and keypoints of two examples of two frames."""
    return normal(2, 2, 17, 3), normal(2, 2, 17, 2, seed=2)


@pytest.fixture(scope="module")
def variables(inputs):
    return draw_variables(NETWORK, *inputs, K)


def predict(params: dict, x: np.ndarray, cond: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Output `[N, 85]` of rows: poses `[N, 51]`, keypoints `[N, 34]`, timesteps `[N]`."""

    def linear(x: np.ndarray, layer: dict) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    def normalise(x: np.ndarray, layer: dict) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]

    # Four sinusoid entries: frequencies 1 and 1/10000. Then linear, GELU, linear.
    angles = k[:, None] * np.array([1.0, 1e-4])
    step = linear(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), params["step"]["expand"])
    step = linear(step * (1 + np.vectorize(math.erf)(step / np.sqrt(2))) / 2, params["step"]["project"])
    hidden = linear(x, params["pose"]) + linear(cond, params["keypoints"])
    for layer in range(2):
        block = params[f"block_{layer}"]
        modulation = linear(step / (1 + np.exp(-step)), block["modulation"])
        inner = normalise(hidden, block["norm"]) * (1 + modulation[:, :16]) + modulation[:, 16:]
        inner = np.maximum(linear(inner, block["linear_1"]), 0)
        hidden = hidden + linear(inner, block["linear_2"])
    return linear(normalise(hidden, params["norm"]), params["output"])


def test_the_network_is_the_one_described(inputs, variables):
    x, cond = inputs
    rows = np.asarray(x, np.float64).reshape(4, 51), np.asarray(cond, np.float64).reshape(4, 34)
    expected = predict(jax.tree.map(np.float64, variables["params"]), *rows, np.repeat(np.asarray(K), 2))
    found = evaluate(NETWORK, variables, x, cond, K)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected.reshape(2, 2, 17, 5), atol=2e-5)


def test_one_timestep_for_all_is_the_same_as_one_for_each(inputs, variables):
    once = evaluate(NETWORK, variables, *inputs, jnp.asarray(7, jnp.int32))
    each = evaluate(NETWORK, variables, *inputs, jnp.full(2, 7, jnp.int32))
    np.testing.assert_allclose(once, each, atol=1e-6)
    assert np.abs(np.asarray(once - evaluate(NETWORK, variables, *inputs, K))).max() > 1e-3


def test_a_channel_that_says_which_joints_were_seen_is_read(inputs):
    x, cond = inputs
    seen = jnp.concatenate([cond, jnp.ones((2, 2, 17, 1))], axis=-1)
    variables = draw_variables(NETWORK, x, seen, K)
    changed = seen.at[:, :, 3, 2].set(0)
    assert (
        np.abs(np.asarray(evaluate(NETWORK, variables, x, seen, K) - evaluate(NETWORK, variables, x, changed, K))).max()
        > 1e-3
    )


def test_as_many_parameters_as_its_layers_have(inputs):
    width, blocks, embedding, sinusoid = 512, 4, 128, 64
    per_block = 2 * width + 2 * (width**2 + width) + 2 * width * (embedding + 1)
    step = (sinusoid + 1) * embedding + (embedding + 1) * embedding
    ends = (51 + 34 + 2) * width + 2 * width + (width + 1) * 85
    counted = blocks * per_block + step + ends
    assert count_parameters(StepResidualMLP(H36M_17), *inputs, K) == counted


def test_dropout_belongs_to_the_example_not_to_its_place(inputs):
    network = StepResidualMLP(H36M_17, width=16, num_layers=2, dropout=0.3)
    x, cond, k = normal(3, 1, 17, 3), normal(3, 1, 17, 2), jnp.array([4, 50, 9], jnp.int32)
    variables, index, order = draw_variables(network, x, cond, k), jnp.array([4, 7, 9], jnp.int32), jnp.array([2, 0, 1])
    straight, _ = train(network, variables, x, cond, k, index=index)
    shuffled, _ = train(network, variables, x[order], cond[order], k[order], index=index[order])
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-5)
    strangers, _ = train(network, variables, x, cond, k, index=index + 1)
    assert not np.allclose(strangers, straight, atol=1e-2)
