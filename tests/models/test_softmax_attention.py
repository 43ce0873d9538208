"""The gradient of attention that is written out is the one of its formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.models.softmax_attention import attend, attention_weights, split_heads

RNG = np.random.default_rng(0)


def plain_attention(fused, mask, pde):
    query, key, value = split_heads(fused)
    y = attention_weights(query, key, mask) @ value - (value if pde else 0)
    return jnp.swapaxes(y, 1, 2)


@pytest.mark.parametrize("tokens", [5, 70])  # with copies of the weights, and without
@pytest.mark.parametrize("pde", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_its_gradient_is_that_of_the_formula(tokens, pde, masked):
    fused = RNG.standard_normal((3, tokens, 3, 2, 4)).astype(np.float32)
    mask = jnp.asarray(RNG.random((3, 1, 1, tokens)) < 0.7) if masked else None
    value, backward = jax.vjp(lambda x: attend(x, mask, pde), fused)
    expected, differentiated = jax.vjp(lambda x: plain_attention(x, mask, pde), fused)
    np.testing.assert_allclose(value, expected, atol=2e-6)
    grad = RNG.standard_normal(value.shape).astype(np.float32)
    np.testing.assert_allclose(backward(grad)[0], differentiated(grad)[0], atol=2e-5)


def test_a_token_that_may_not_be_attended_to_gives_no_gradient_to_its_key_and_value():
    fused = RNG.standard_normal((1, 4, 3, 2, 4)).astype(np.float32)
    mask = jnp.array([True, True, False, True]).reshape(1, 1, 1, 4)
    grad = np.asarray(jax.grad(lambda x: jnp.sum(jnp.sin(attend(x, mask, False))))(fused))
    assert np.all(grad[0, 2, 1:] == 0)
    assert np.all(np.abs(grad[0, 3]).max(axis=-1) > 0)


def test_in_bfloat16_the_gradient_is_that_of_float32_up_to_rounding():
    fused = RNG.standard_normal((2, 9, 3, 2, 8)).astype(np.float32)
    grad = RNG.standard_normal((2, 9, 2, 8)).astype(np.float32)
    exact = jax.vjp(lambda x: attend(x, None, False), fused)[1](grad)[0]
    found = jax.vjp(lambda x: attend(x, None, False), jnp.asarray(fused, jnp.bfloat16))[1](grad.astype(jnp.bfloat16))[0]
    assert found.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(found, np.float32) - exact) < 0.02 * np.linalg.norm(exact)
