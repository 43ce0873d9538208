"""Softmax attention of queries, keys and values that one linear layer makes, with a gradient that is fast on CPU."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

# Above so many tokens a copy of the weights costs more than it saves.
_COPIED_UP_TO = 64


def split_heads(fused: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits `[N, T, 3, heads, D]` into queries, divided by sqrt(D), keys and values `[N, heads, T, D]`."""
    query, key, value = jnp.transpose(fused, (2, 0, 3, 1, 4))
    # The product of a query and a key of D channels of unit variance has the variance D. Divided by sqrt(D) it does not
    # grow with the width of a head, and softmax does not saturate (Vaswani et al. 2017, section 3.2.1).
    return query * query.shape[-1] ** -0.5, key, value


def attention_weights(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The softmax of the scores of queries and keys `[N, heads, T, D]`: `[N, heads, T, T]`, float32.

    mask is boolean and broadcasts to the weights: the tokens that may be attended to; None: all.
    """
    scores = jnp.matmul(query, jnp.swapaxes(key, -1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        # A finite number: where no token may be attended to, all have the same weight, while minus infinity would
        # give NaN.
        scores = jnp.where(mask, scores, -1e9)
    return jax.nn.softmax(scores, axis=-1)


# Why a custom VJP. With the weights A and y = A v, the gradients are
#   dv = A^T dy,   dA = dy v^T,   dS = A (dA - sum_j dA_j A_j) by elements,   dq = dS k,   dk = dS^T q.
# XLA:CPU fuses the transposition of A and dS, and the formula of dS, into the products that read them, which are then
# slow loops. Made first, by the barrier, they are products of matrices that lie as they are needed: attention of 17
# and 27 tokens with its gradient is 1.1 to 1.2 times as fast (experiments/RESULTS.md).
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def attend(fused: jax.Array, mask: jax.Array | None, pde: bool) -> jax.Array:
    """Softmax attention A V of tokens, or (A - I) V with `pde`, `[N, T, heads, D]`.

    Args:
        fused: Queries, keys and values `[N, T, 3, heads, D]`.
        mask: As in `attention_weights`.
        pde: Graph-diffusion attention (Zhou et al. 2023, eq. 16).
    """
    return _forward(fused, mask, pde)[0]


def _forward(fused: jax.Array, mask: jax.Array | None, pde: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    query, key, value = split_heads(fused)
    weights = attention_weights(query, key, mask).astype(fused.dtype)
    y = weights @ value
    if pde:
        # Diffusion of the tokens' features v on the graph whose edge weights are the attention A (GRAND):
        # dv/dt = (A(v) - I) v, eq. 16. The skip connection around the layer makes one explicit Euler step of it,
        # v + (A - I) v up to the layer's projections. Tokens that are all alike get nothing added, which is what
        # counters over-smoothing: A V would add the common value.
        # Rows of A sum to 1, so that a bias of the values cancels and gets no gradient.
        y = y - value
    return jnp.swapaxes(y, 1, 2), (query, key, value, weights)


def _backward(pde: bool, saved: tuple[jax.Array, ...], grad: jax.Array) -> tuple[jax.Array, None]:
    query, key, value, weights = saved
    grad = jnp.swapaxes(grad, 1, 2)
    grad_weights = jnp.matmul(grad, jnp.swapaxes(value, -1, -2), preferred_element_type=jnp.float32)
    exact = weights.astype(jnp.float32)
    along = jnp.sum(grad_weights * exact, axis=-1, keepdims=True)
    grad_scores = (exact * (grad_weights - along)).astype(query.dtype)
    # A masked score has the weight 0, and so no gradient.
    made = grad_scores, jnp.swapaxes(grad_scores, -1, -2), jnp.swapaxes(weights, -1, -2)
    if weights.shape[-1] <= _COPIED_UP_TO:
        made = jax.lax.platform_dependent(made, cpu=jax.lax.optimization_barrier, default=lambda parts: parts)
    grad_scores, scores_across, weights_across = made
    grad_value = weights_across @ grad
    if pde:
        grad_value = grad_value - grad
    grad_query = grad_scores @ key * query.shape[-1] ** -0.5
    fused = jnp.stack([grad_query, scores_across @ query, grad_value])
    return jnp.transpose(fused, (1, 3, 0, 2, 4)), None


attend.defvjp(_forward, _backward)
