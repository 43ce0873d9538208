"""GraFormer: published parameter counts, its layers against independent formulas, dependences, released weights."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.interop.graformer import graformer_variables
from diffpose_jax.models.graformer import GraFormer, GraphNet, UnbiasedLayerNorm
from diffpose_jax.models.graph import ChebyshevConv, build_chebyshev_basis, normalise_rows
from diffpose_jax.skeleton import H36M_16, H36M_17

from .networks import count_parameters, draw_variables, evaluate, shape_variables, train

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def count(tree: dict) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


NETWORK = GraFormer(H36M_17, width=16, num_layers=2, num_heads=2, out_channels=5, step=True)
LIFTER = GraFormer(H36M_17, width=16, num_layers=1, num_heads=2)
STEPS = jnp.array([3, 40])


@pytest.fixture(scope="module")
def variables():
    return draw_variables(NETWORK, normal(2, 1, 17, 5), STEPS)


def test_the_denoiser_has_the_published_number_of_parameters():
    network = GraFormer(H36M_17, out_channels=5, step=True)
    params = shape_variables(network, normal(2, 1, 17, 5), STEPS)["params"]
    assert count(params) == 1_025_674
    assert count(params["attention_0"]["attention"]) == 37_248
    assert count(params["attention_0"]["graph_net"]) == 37_441
    assert count(params["block_0"]) == 55_488 + 36_960
    assert count(params["step"]) == 185_088


def test_the_lifter_has_the_published_number_of_parameters_dead_ones_among_them():
    assert count_parameters(GraFormer(H36M_17), normal(1, 1, 17, 2)) == 839_432
    assert count_parameters(GraFormer(H36M_17, release_dead_embedding=False), normal(1, 1, 17, 2)) == 654_344


def test_weights_start_as_the_release_draws_them_but_independently():
    def initialise():
        params = NETWORK.init(KEY, normal(2, 1, 17, 5), STEPS, train=False)["params"]
        return {name: params[name] for name in ("input", "block_1", "attention_0", "attention_1")}

    params = jax.jit(initialise)()
    for weight, channels, features in ((params["block_1"]["conv_2"], 16, 16), (params["input"], 5, 16)):
        assert weight["weight"].std() == pytest.approx((2 * channels * features) ** -0.5, rel=0.15)
        assert not np.any(weight["bias"])
    np.testing.assert_array_equal(params["attention_0"]["graph_net"]["graph"], np.eye(17))
    kernel = params["attention_0"]["attention"]["qkv"]["kernel"]
    assert 0.97 < np.abs(kernel).max() * 16**0.5 <= 1
    query, key, _ = np.split(kernel, 3, axis=1)
    assert np.abs(query - key).max() > 0.1
    assert np.abs(kernel - params["attention_1"]["attention"]["qkv"]["kernel"]).max() > 0.1


def test_the_chebyshev_basis_follows_its_recurrence_on_a_graph_that_is_not_symmetric():
    graph = normalise_rows(H36M_17.adjacency()).astype(np.float64)
    np.testing.assert_allclose(graph.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(graph[8][[7, 8, 9, 11, 14]], 0.2, rtol=1e-6)
    assert np.abs(graph - graph.T).max() > 0.1
    laplacian = np.eye(17) - graph
    expected = [np.eye(17), laplacian, 2 * laplacian @ laplacian - np.eye(17)]
    np.testing.assert_allclose(build_chebyshev_basis(H36M_17.adjacency()), expected, atol=1e-6)


@pytest.mark.parametrize(("channels", "features"), [(3, 6), (6, 3)])
def test_the_chebyshev_convolution_is_the_sum_over_its_terms(channels, features):
    layer, x = ChebyshevConv(features, H36M_16), normal(16, 4, channels)
    params = {"weight": normal(3, channels, features), "bias": normal(features)}
    expected = np.einsum("kij,jnc,kcd->ind", build_chebyshev_basis(H36M_16.adjacency()), x, params["weight"])
    expected = expected + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


def test_the_norm_divides_by_the_unbiased_standard_deviation_plus_epsilon():
    x, scale, bias = normal(3, 4, 8), normal(8), normal(8)
    found = UnbiasedLayerNorm().apply({"params": {"scale": scale, "bias": bias}}, 1e-5 * x)
    tiny = 1e-5 * np.asarray(x, np.float64)
    centred = tiny - tiny.mean(-1, keepdims=True)
    expected = np.asarray(scale) * centred / (tiny.std(-1, ddof=1, keepdims=True) + 1e-6) + np.asarray(bias)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_norm_of_equal_channels_has_a_gradient():
    variables = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    gradient = jax.grad(lambda x: UnbiasedLayerNorm().apply(variables, x)[0, 0, 0])(jnp.ones((1, 1, 4)))
    assert np.all(np.isfinite(gradient))


def test_the_learned_graph_is_normalised_by_its_columns():
    layer, x = GraphNet(), normal(5, 3, 4)
    params = layer.init(KEY, x)["params"]
    graph = np.abs(normal(5, 5)) + np.eye(5)
    root = np.sqrt(graph.sum(0) + 1e-5)
    mixing = graph / root[:, None] / root[None]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    hidden = np.maximum(linear("expand", np.einsum("ij,jnc->inc", mixing, x)), 0)
    expected = linear("project", np.einsum("ij,jnc->inc", mixing, hidden))
    found = layer.apply({"params": {**params, "graph": jnp.asarray(graph)}}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_negative_column_of_the_learned_graph_gives_numbers_and_gradients():
    layer, x = GraphNet(), normal(5, 3, 4)
    params = layer.init(KEY, x)["params"]
    bad = {**params, "graph": params["graph"].at[2, 2].set(-0.5)}
    value, gradient = jax.value_and_grad(lambda params: jnp.sum(layer.apply({"params": params}, x) ** 2))(bad)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_an_invisible_joint_is_no_key_of_attention(variables):
    """Without graph mixing an invisible joint's input reaches no other joint, and a visible one's does."""
    params = variables["params"]
    keep_own = {"weight": jnp.zeros((3, 16, 16)), "bias": jnp.zeros(16)}
    graph_free = jax.tree.map(jnp.asarray, params)
    graph_free["input"]["weight"] = params["input"]["weight"].at[1:].set(0)
    graph_free["output"]["weight"] = params["output"]["weight"].at[1:].set(0)
    for layer in range(NETWORK.num_layers):
        graph_free[f"attention_{layer}"]["graph_net"]["graph"] = jnp.eye(17)
        graph_free[f"block_{layer}"] |= {"conv_1": keep_own, "conv_2": keep_own}
    x = normal(2, 3, 17, 5)
    changed, others = x.at[0, 0, 9].add(1.0), np.delete(np.arange(17), 9)
    for visible in (False, True):
        mask = jnp.ones((2, 3, 17)).at[0, 0, 9].set(float(visible))
        before, after = (evaluate(NETWORK, {"params": graph_free}, x, STEPS, mask=mask) for x in (x, changed))
        reaches = np.abs(after - before)[0, 0, others].max() > 1e-4
        assert reaches == visible


def test_a_full_mask_is_no_mask(variables):
    x = normal(2, 3, 17, 5)
    masked = evaluate(NETWORK, variables, x, STEPS, mask=jnp.ones((2, 3, 17)))
    np.testing.assert_allclose(masked, evaluate(NETWORK, variables, x, STEPS), atol=1e-6)


def test_one_timestep_for_all_equals_the_same_timestep_for_each(variables):
    x = normal(2, 3, 17, 5)
    alike = evaluate(NETWORK, variables, x, jnp.int32(7))
    np.testing.assert_allclose(alike, evaluate(NETWORK, variables, x, jnp.full(2, 7)), atol=1e-5)
    assert np.abs(alike - evaluate(NETWORK, variables, x, jnp.int32(40))).max() > 1e-3


def test_frames_and_examples_are_independent(variables):
    x = normal(2, 3, 17, 5)
    whole = evaluate(NETWORK, variables, x, STEPS)
    assert whole.shape == (2, 3, 17, 5)
    turned = evaluate(NETWORK, variables, x[::-1, ::-1], STEPS[::-1])
    np.testing.assert_allclose(turned, whole[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(evaluate(NETWORK, variables, x.at[0].set(9), STEPS)[1], whole[1], atol=1e-5)


def test_dropout_follows_the_example_and_not_its_batch(variables):
    x, k, index = normal(4, 2, 17, 5), jnp.array([3, 40, 7, 8]), jnp.array([10, 20, 30, 40])
    whole, _ = train(NETWORK, variables, x, k, index=index)
    for order in (np.array([2, 0, 3, 1]), np.array([1, 1, 2, 1])):
        reordered, _ = train(NETWORK, variables, x[order], k[order], index=index[order])
        np.testing.assert_allclose(reordered, whole[order], atol=1e-5)
    assert np.abs(train(NETWORK, variables, x, k, index=index + 1)[0] - whole).max() > 1e-3


def test_features_are_the_input_of_the_last_layer(variables):
    x, k = normal(2, 3, 17, 5), jnp.int32(4)
    features = evaluate(NETWORK, variables, x, k, features=True)
    assert features.shape == (2, 3, 17, 16)
    joint_major = features.reshape(6, 17, 16).swapaxes(0, 1)
    last = ChebyshevConv(5, H36M_17).apply({"params": variables["params"]["output"]}, joint_major)
    expected = evaluate(NETWORK, variables, x, k)
    np.testing.assert_allclose(last.swapaxes(0, 1).reshape(2, 3, 17, 5), expected, atol=1e-5)


def test_the_dead_embedding_changes_nothing_and_learns_nothing():
    lean, x = LIFTER.clone(release_dead_embedding=False), normal(2, 1, 17, 2)
    params = draw_variables(LIFTER, x)["params"]
    alive = {name: branch for name, branch in params.items() if name != "step_unused"}

    def loss(network: GraFormer, params: dict) -> jax.Array:
        return jnp.sum(network.apply({"params": params}, x, train=False) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, LIFTER)))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["step_unused"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["block_0"]))
    assert jax.jit(functools.partial(loss, lean))(alive) == pytest.approx(float(value), rel=1e-6)


def test_released_weights_fill_the_network_with_or_without_the_dead_embedding():
    entries = {"module." + key: np.zeros(shape) for key, shape in shapes_of_release(16, 17).items()}
    wanted = shape_variables(LIFTER, normal(1, 1, 17, 2))["params"]
    found = graformer_variables(entries)["params"]
    assert jax.tree.map(np.shape, found) == jax.tree.map(lambda leaf: leaf.shape, wanted)
    lean = {key: value for key, value in entries.items() if "temb" not in key}
    assert jax.tree.map(np.shape, graformer_variables(lean)["params"]) == {
        name: branch for name, branch in jax.tree.map(np.shape, found).items() if name != "step_unused"
    }


def test_a_missing_or_an_unknown_entry_is_named():
    entries = {key: np.zeros(shape) for key, shape in shapes_of_release(16, 17).items()}
    with pytest.raises(UserError, match="'strange'"):
        graformer_variables({**entries, "strange": np.zeros(3)})
    del entries["atten_layers.0.feed_forward.A_hat"]
    with pytest.raises(UserError, match="A_hat' is missing"):
        graformer_variables(entries)


def shapes_of_release(width: int, joints: int) -> dict[str, tuple[int, ...]]:
    """Entries of the lifter's state_dict with one layer."""
    entries = {"gconv_input": (3, 1, 2, width), "gconv_output": (3, 1, width, 3)}
    entries |= {f"gconv_layers.0.gconv{c}.gconv": (3, 1, width, width) for c in (1, 2)}
    chebyshev = {f"{name}.weight": shape for name, shape in entries.items()}
    chebyshev |= {f"{name}.bias": (1, 1, shape[-1]) for name, shape in entries.items()}
    linears = {f"atten_layers.0.self_attn.linears.{n}": (width, width) for n in range(4)}
    linears |= {
        "atten_layers.0.feed_forward.gconv1.fc": (2 * width, width),
        "atten_layers.0.feed_forward.gconv2.fc": (width, 2 * width),
        "temb.dense.0": (4 * width, width),
        "temb.dense.1": (4 * width, 4 * width),
    }
    weights = {f"{name}.weight": shape for name, shape in linears.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    norms = {f"atten_layers.0.sublayer.{n}.norm.{part}": (width,) for n in (0, 1) for part in ("a_2", "b_2")}
    return {**chebyshev, **weights, **biases, **norms, "atten_layers.0.feed_forward.A_hat": (joints, joints)}


def test_impossible_widths_and_a_missing_or_surplus_timestep_are_refused():
    with pytest.raises(UserError, match="GraFormer width"):
        shape_variables(GraFormer(H36M_17, width=18, num_heads=4), normal(1, 1, 17, 2))
    with pytest.raises(ValueError, match="expected a timestep"):
        shape_variables(NETWORK, normal(1, 1, 17, 5))
    with pytest.raises(ValueError, match="expected no timestep"):
        shape_variables(LIFTER, normal(1, 1, 17, 2), STEPS)
