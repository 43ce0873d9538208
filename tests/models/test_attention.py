"""Attention and its custom gradients, graph-diffusion attention, and stochastic depth that follows the example."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.models.attention import (
    DropPath,
    SelfAttention,
    TransformerBlock,
    gelu,
    layer_norm,
    list_drop_path_rates,
)

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def plain_layer_norm(x, scale, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    broadcast = (x - mean) / jnp.sqrt(variance + 1e-3), scale[None, None], bias[None, None]
    return broadcast[0] * broadcast[1] + broadcast[2]


@pytest.mark.parametrize(
    ("custom", "plain", "inputs"),
    [
        (lambda *inputs: layer_norm(*inputs, 1e-3), plain_layer_norm, (2 + normal(2, 3, 8), normal(8), normal(8))),
        (gelu, lambda x: jax.nn.gelu(x, approximate=False), (3 * normal(50),)),
    ],
    ids=["layer_norm", "gelu"],
)
def test_custom_gradients_are_those_of_the_formula(custom, plain, inputs):
    value, backward = jax.vjp(custom, *inputs)
    expected, differentiated = jax.vjp(plain, *inputs)
    np.testing.assert_allclose(value, expected, atol=2e-6)
    grad = normal(*expected.shape)
    for found, reference in zip(backward(grad), differentiated(grad), strict=True):
        np.testing.assert_allclose(found, reference, atol=1e-5)


def test_layer_norm_far_from_zero_keeps_its_digits():
    rows = 1000 + normal(4, 64)
    exact = rows.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(layer_norm(rows, np.ones(64, "f"), np.zeros(64, "f"), 1e-6), exact, atol=1e-3)


def attention(num_heads: int = 2, width: int = 8, **options):
    layer = SelfAttention(num_heads, **options)
    variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 3, width)))
    return layer, jax.tree.map(lambda leaf: normal(*leaf.shape), variables)


def affine(x, layer) -> np.ndarray:
    return np.asarray(x) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def test_attention_is_that_of_jax():
    layer, variables = attention()
    x, (qkv, project) = normal(4, 5, 8), (variables["params"][name] for name in ("qkv", "project"))
    query, key, value = np.moveaxis(affine(x, qkv).reshape(4, 5, 3, 2, 4), 2, 0)
    attended = jax.nn.dot_product_attention(query, key, value).reshape(4, 5, 8)
    np.testing.assert_allclose(layer.apply(variables, x), affine(attended, project), atol=1e-4)


def test_masked_tokens_have_no_effect_on_the_others():
    layer, variables = attention()
    x, mask = normal(4, 5, 8), np.array([True, True, False, True, False])
    masked = layer.apply(variables, x, mask=mask)
    np.testing.assert_allclose(masked[:, mask], layer.apply(variables, x[:, mask]), atol=1e-5)


def test_dropout_of_attention_follows_the_example_and_keeps_the_mean():
    layer, variables = attention(dropout=0.25)
    x, index = jnp.broadcast_to(normal(1, 5, 8), (400, 5, 8)), np.arange(400)

    @jax.jit
    def drop(x, index):
        return layer.apply(variables, x, train=True, index=index, rngs={"dropout": jax.random.key(1)})

    y = drop(x, index)
    order = np.concatenate([[5, 3, 0, 1, 9, 9, 2], index[7:][::-1]])
    np.testing.assert_allclose(drop(x, index[order]), y[order], atol=1e-5)
    assert np.abs(y[0] - y[1]).max() > 0.1
    expected, spread = np.asarray(layer.apply(variables, x[:1])[0]), np.std(y, axis=0)
    assert (np.abs(np.mean(y, axis=0) - expected) < 5 * spread / 20).all()


def test_graph_diffusion_of_equal_tokens_is_the_output_bias():
    layer, variables = attention(pde=True)
    x = np.broadcast_to(normal(2, 1, 8), (2, 5, 8))
    bias = variables["params"]["project"]["bias"]
    np.testing.assert_allclose(layer.apply(variables, x), np.broadcast_to(bias, x.shape), atol=1e-5)
    np.testing.assert_allclose(layer.apply(variables, x[:, :1]), np.broadcast_to(bias, (2, 1, 8)), atol=1e-6)


def test_graph_diffusion_does_not_depend_on_the_value_bias():
    layer, variables = attention(pde=True)
    x, weight = normal(2, 5, 8), normal(2, 5, 8)

    @jax.jit
    def apply(bias):
        qkv = variables["params"]["qkv"] | {"bias": bias}
        return layer.apply({"params": variables["params"] | {"qkv": qkv}}, x)

    bias = variables["params"]["qkv"]["bias"]
    moved = bias + np.where(np.arange(24) >= 16, normal(24), 0)
    np.testing.assert_allclose(apply(moved), apply(bias), atol=1e-5)
    gradient = jax.jit(jax.grad(lambda bias: jnp.sum(weight * apply(bias))))(bias)
    np.testing.assert_allclose(gradient[8:], 0, atol=1e-4)  # nor, as in any softmax attention, the key bias
    assert np.abs(gradient[:8]).min() > 1e-2


def test_graph_diffusion_takes_the_projected_values_from_plain_attention():
    layer, variables = attention(pde=True)
    x, (qkv, project) = normal(2, 5, 8), (variables["params"][name] for name in ("qkv", "project"))
    value = affine(x, qkv)[..., 16:]
    change = layer.apply(variables, x) - SelfAttention(2).apply(variables, x)
    np.testing.assert_allclose(change, -value @ project["kernel"], atol=1e-4)


def test_a_width_not_divisible_by_the_heads_is_refused():
    with pytest.raises(UserError, match="divisible by 3 heads, found 8"):
        SelfAttention(3).init(jax.random.key(0), jnp.zeros((1, 3, 8)))


def dropped(x, index=None, rate=0.25):
    return DropPath(rate).apply({}, x, train=True, index=index, rngs={"dropout": jax.random.key(4)})


def test_stochastic_depth_drops_whole_groups_and_keeps_the_mean():
    y = np.asarray(dropped(jnp.ones((50, 40, 3, 2))))
    assert (y == y[:, :, :1, :1]).all()
    draws = y[:, :, 0, 0]
    np.testing.assert_allclose(np.unique(draws), [0, 4 / 3], rtol=1e-6)
    assert abs(draws.mean() - 1) < 4 * draws.std() / np.sqrt(draws.size)
    for axis in (0, 1):  # examples and groups have draws of their own
        assert (draws.std(axis) > 0.2).all()


def test_stochastic_depth_does_not_depend_on_the_rest_of_the_batch():
    x, order = normal(8, 5, 3, 2), np.array([6, 1, 3])
    index = np.arange(8) + 100
    np.testing.assert_array_equal(dropped(x[order], index[order]), dropped(x, index)[order])


def test_stochastic_depth_is_off_outside_training_and_grows_from_zero():
    x = normal(2, 3, 4, 5)
    assert DropPath(0.5).apply({}, x, train=False) is x
    assert dropped(x, rate=0.0) is x
    np.testing.assert_allclose(list_drop_path_rates(0.1, 5), [0, 0.025, 0.05, 0.075, 0.1])
    assert list_drop_path_rates(0.1, 1) == [0]


def test_the_two_branches_of_a_block_are_dropped_separately():
    block, x = TransformerBlock(2, drop_path=0.5), normal(1, 200, 3, 8)
    variables = jax.jit(block.init, static_argnames="train")(jax.random.key(0), x, train=False)
    apply = jax.jit(functools.partial(block.apply, train=True, rngs={"dropout": jax.random.key(4)}))
    y = apply(variables, x)
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["contract"])
    no_mlp = {"params": variables["params"] | {"contract": silent}}
    attended = apply(no_mlp, x)
    kept_attention = np.abs(attended - x).max((0, 2, 3)) > 0
    kept_mlp = np.abs(y - attended).max((0, 2, 3)) > 0
    counts = np.histogram2d(kept_attention, kept_mlp, bins=2)[0]
    assert counts.min() > 200 / 4 - 4 * np.sqrt(200 * 3 / 16)


def test_half_precision_stays_near_single_with_parameters_in_single():
    single, half, x = TransformerBlock(2), TransformerBlock(2, dtype=jnp.bfloat16), normal(2, 3, 4, 8)
    init = jax.jit(half.init, static_argnames="train")
    variables = init(jax.random.key(0), jnp.asarray(x, jnp.bfloat16), train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def loss(block, variables, x):
        return jnp.mean(jnp.square(block.apply(variables, x, train=False).astype(jnp.float32)))

    gradient_of = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    half_gradient = gradient_of(half, variables, jnp.asarray(x, jnp.bfloat16))
    gradient = gradient_of(single, variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), half_gradient, gradient)
