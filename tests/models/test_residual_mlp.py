"""The residual MLP is the network of the paper, written down a second time in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.models.residual_mlp import ResidualMLP

from .networks import count_parameters, draw_variables, evaluate, train

SMALL = {"num_joints": 5, "width": 12, "num_layers": 2}


def normal(*shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def lift(variables: dict, x: np.ndarray, norm: str, max_norm: float) -> np.ndarray:
    """Poses `[N, 3 J]` of keypoints `[N, 2 J]`."""
    params, running = variables["params"], variables.get("batch_stats", {})

    def linear(x: np.ndarray, layer: dict) -> np.ndarray:
        length = np.sqrt(np.sum(np.square(layer["kernel"])))
        return x @ (layer["kernel"] * (min(1.0, max_norm / length) if max_norm else 1.0)) + layer["bias"]

    def unit(x: np.ndarray, name: str) -> np.ndarray:
        x, own = linear(x, params[name]["linear"]), params[name]["norm"]
        if norm == "batch":
            mean, variance, epsilon = running[name]["norm"]["mean"], running[name]["norm"]["var"], 1e-3
        else:
            mean, variance, epsilon = x.mean(-1, keepdims=True), x.var(-1, keepdims=True), 1e-5
        return np.maximum((x - mean) / np.sqrt(variance + epsilon) * own["scale"] + own["bias"], 0)

    x = unit(x, "input")
    for block in range(2):
        x = x + unit(unit(x, f"block_{block}_unit_1"), f"block_{block}_unit_2")
    return linear(x, params["output"])


@pytest.mark.parametrize(("norm", "max_norm"), [("batch", 0.0), ("layer", 0.0), ("batch", 1.0)])
def test_the_network_is_the_one_described(norm, max_norm):
    network, x = ResidualMLP(**SMALL, norm=norm, max_norm=max_norm), normal(3, 2, 5, 2)
    variables = draw_variables(network, x)
    expected = lift(jax.tree.map(np.asarray, variables), np.asarray(x).reshape(6, 10), norm, max_norm)
    np.testing.assert_allclose(evaluate(network, variables, x), expected.reshape(3, 2, 5, 3), atol=1e-5)


def test_the_papers_network_has_as_many_parameters():
    # 16 joints in and out: linear layers 32 x 1024, four of 1024 x 1024 and 1024 x 48 with biases, five batch norms.
    counted = 32 * 1024 + 4 * 1024**2 + 1024 * 48 + 5 * 1024 + 48 + 5 * 2 * 1024
    assert counted == 4_291_632
    assert count_parameters(ResidualMLP(16), normal(1, 1, 16, 2)) == counted


def test_features_are_the_activations_before_the_last_layer_the_same_for_every_joint():
    network, x = ResidualMLP(**SMALL, norm="layer"), normal(3, 2, 5, 2)
    variables = draw_variables(network, x)
    features = np.asarray(evaluate(network, variables, x, features=True))
    assert features.shape == (3, 2, 5, 12)
    np.testing.assert_array_equal(features, np.broadcast_to(features[:, :, :1], features.shape))
    output = variables["params"]["output"]
    poses = features[:, :, 0] @ output["kernel"] + output["bias"][None, None]
    np.testing.assert_allclose(evaluate(network, variables, x), poses.reshape(3, 2, 5, 3), atol=1e-5)


def test_dropout_belongs_to_the_example_not_to_its_place():
    network, x, index = ResidualMLP(**SMALL, norm="layer"), normal(3, 2, 5, 2), jnp.array([4, 7, 9], jnp.int32)
    variables = draw_variables(network, x)
    straight, _ = train(network, variables, x, index=index)
    order = jnp.array([2, 0, 1])
    shuffled, _ = train(network, variables, x[order], index=index[order])
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-6)
    strangers, _ = train(network, variables, x, index=index + 1)
    assert not np.allclose(strangers, straight, atol=1e-2)
