"""Transformer layers over tokens, `[B, G, T, C]`: T tokens of C channels in each of G groups of B examples.

A spatial layer takes the joints as tokens and the frames as groups, a temporal one the other way round. Statistics and
softmax are float32 whatever the compute type.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.normalisation import Dropout, example_rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalise every row of `x [..., C]` to mean 0 and variance 1, then scale and shift by `scale`, `bias [C]`.

    The backward pass is owned: it keeps the normalised rows, where differentiation would keep several arrays.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    rows = x.astype(jnp.float32)
    # The variance of the centred rows: mean(x^2) - mean(x)^2 loses digits in float32.
    centred = rows - rows.mean(-1, keepdims=True)
    deviation = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    normal = centred * deviation
    leading = tuple(range(x.ndim - 1))
    y = normal * jnp.expand_dims(scale, leading) + jnp.expand_dims(bias, leading)
    return y.astype(x.dtype), (normal.astype(x.dtype), deviation, scale)


def _layer_norm_backward(
    epsilon: float, saved: tuple[jax.Array, jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, deviation, scale = saved
    leading = tuple(range(grad.ndim - 1))
    normal, flat = normal.astype(jnp.float32), grad.astype(jnp.float32)
    grad_scale, grad_bias = (flat * normal).sum(leading), flat.sum(leading)
    grad_normal = flat * jnp.expand_dims(scale, leading)
    along = (grad_normal * normal).mean(-1, keepdims=True)
    grad_x = deviation * (grad_normal - grad_normal.mean(-1, keepdims=True) - normal * along)
    return grad_x.astype(grad.dtype), grad_scale, grad_bias


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, as torch's; `epsilon` is torch's default."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.epsilon)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU of `[...]`, x times the normal distribution function at x; the backward pass keeps the latter."""
    return _gelu_forward(x)[0]


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    below = 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
    return x * below, (x, below)


def _gelu_backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array]:
    x, below = saved
    density = jnp.exp(-0.5 * jnp.square(x)) * (1 / math.sqrt(2 * math.pi))
    return (grad * (below + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other, `[..., T, C] -> [..., T, C]`.

    Queries, keys and values come from one linear layer, side by side in this order, head after head in each. With `pde`
    a head gives (A - I) V instead of A V, the right-hand side of the diffusion equation on the tokens' graph (Zhou et
    al. 2023, eq. 16, applied to the values). `dropout` acts on the attention matrix A; its masks derive from the
    identity of each example, `index` (one per entry of the first axis), as those of `Dropout` do. `mask`, boolean `[T]`
    or `[..., T]`, says which tokens may be attended to.
    """

    num_heads: int
    pde: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, index: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:
        tokens, width = x.shape[-2:]
        if width % self.num_heads:
            raise UserError(f"attention: expected a width divisible by {self.num_heads} heads, found {width}")
        head_width = width // self.num_heads
        fused = Linear(3 * width, dtype=self.dtype, name="qkv")(x).reshape(-1, tokens, 3, self.num_heads, head_width)
        query, key, value = jnp.transpose(fused, (2, 0, 3, 1, 4))
        query, key = query * head_width**-0.5, jnp.swapaxes(key, -1, -2)
        scores = jnp.matmul(query, key, preferred_element_type=jnp.float32)
        if mask is not None:
            attended = jnp.broadcast_to(mask, x.shape[:-1]).reshape(-1, 1, 1, tokens)
            scores = jnp.where(attended, scores, -1e9)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        if train and self.dropout:
            rows = example_rows(index, x.shape[:-2])
            weights = Dropout(self.dropout, batch_axis=0, name="dropout")(weights, rows, train=True)
        y = weights @ value
        if self.pde:
            y = y - value
        return Linear(width, dtype=self.dtype, name="project")(jnp.swapaxes(y, 1, 2).reshape(x.shape))


class DropPath(nn.Module):
    """Stochastic depth: zero a residual branch `[B, G, T, C]` of a whole group, one draw per example and group.

    Survivors are scaled so that the mean is kept. The draws of an example come from the 'dropout' key folded with its
    `index`, by default its place in the batch.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, index: jax.Array | None = None) -> jax.Array:
        if not train or not self.rate:
            return x
        batch, groups = x.shape[:2]
        key, kept = self.make_rng("dropout"), 1 - self.rate
        index = jnp.arange(batch) if index is None else index
        survives = jax.vmap(lambda number: jax.random.bernoulli(jax.random.fold_in(key, number), kept, (groups,)))(
            index
        )
        return x * (survives.astype(x.dtype) / kept)[:, :, None, None]


def drop_path_rates(largest: float, num_layers: int) -> list[float]:
    """The stochastic depth of every layer: from 0 to `largest` in equal steps."""
    return np.linspace(0, largest, num_layers).tolist()


class TransformerBlock(nn.Module):
    """Pre-norm attention and two-layer perceptron, each with a skip connection, `[B, G, T, C] -> [B, G, T, C]`.

    `step` (`[S]`, or `[B, S]`) is the diffusion step's embedding; SiLU and a linear layer bring it to C channels, which
    are added to every token before all else and stay in the sum.
    """

    num_heads: int
    mlp_ratio: float = 2.0
    drop_path: float = 0.0
    pde: bool = False
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, step: jax.Array | None = None, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        width = x.shape[-1]
        if step is not None:
            x = x + to_tokens(Linear(width, dtype=self.dtype, name="step")(jax.nn.silu(step)))
        hidden = LayerNorm(self.epsilon, name="attention_norm")(x)
        hidden = SelfAttention(self.num_heads, self.pde, dtype=self.dtype, name="attention")(hidden)
        x = x + DropPath(self.drop_path, name="attention_drop_path")(hidden, train=train, index=index)
        hidden = LayerNorm(self.epsilon, name="mlp_norm")(x)
        hidden = gelu(Linear(int(width * self.mlp_ratio), dtype=self.dtype, name="expand")(hidden))
        hidden = Linear(width, dtype=self.dtype, name="contract")(hidden)
        return x + DropPath(self.drop_path, name="mlp_drop_path")(hidden, train=train, index=index)


def to_tokens(embedding: jax.Array) -> jax.Array:
    """Bring what all tokens share, `[C]` or one per example `[B, C]`, to `[1, 1, 1, C]` or `[B, 1, 1, C]`."""
    return embedding.reshape(-1, 1, 1, embedding.shape[-1])
