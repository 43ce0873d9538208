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
from diffpose_jax.models.normalisation import Dropout, index_rows
from diffpose_jax.models.softmax_attention import attend, attention_weights, split_heads


def mean_of_channels(rows: jax.Array) -> jax.Array:
    """The mean of every row of `[..., C]`, `[..., 1]`."""
    # XLA:CPU fuses a sum over channels with what computes its terms, and computes that anew for each of several sums.
    # The operand of a product is computed once (measured in experiments/RESULTS.md).
    return jax.lax.platform_dependent(rows, cpu=_mean_by_product, default=lambda x: x.mean(-1, keepdims=True))


def _mean_by_product(rows: jax.Array) -> jax.Array:
    channels = rows.shape[-1]
    sums = rows.reshape(-1, channels) @ jnp.ones((channels, 1), rows.dtype)
    return sums.reshape(*rows.shape[:-1], 1) / channels


# Why a custom VJP. With n = (x - mean) / std the gradient of y = scale n + bias needs n and 1 / std only:
#   d bias = sum dy,   d scale = sum dy n,   g = dy scale,   dx = (g - mean(g) - n mean(g n)) / std,
# sums over rows and means over the channels of a row. The last formula is g projected off the two directions in which
# normalisation removes changes of x: a common shift, and a common factor. Differentiation would keep x, the centred
# rows and their squares as well. With the one of `gelu` it makes the gradient of a MixSTE on CPU 6-10 % faster.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalise every row of `x [..., C]` to mean 0 and variance 1, then scale and shift it (Ba et al. 2016).

    Args:
        x: rows `[..., C]`.
        scale: `[C]`.
        bias: `[C]`.
        epsilon: added to the variance.

    Returns:
        Rows `[..., C]` of the type of x; statistics are float32.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    rows = x.astype(jnp.float32)
    # The variance of the centred rows: mean(x^2) - mean(x)^2 loses digits in float32.
    centred = rows - mean_of_channels(rows)
    inverse_std = jax.lax.rsqrt(mean_of_channels(jnp.square(centred)) + epsilon)
    normal = centred * inverse_std
    leading = tuple(range(x.ndim - 1))
    y = normal * jnp.expand_dims(scale, leading) + jnp.expand_dims(bias, leading)
    return y.astype(x.dtype), (normal.astype(x.dtype), inverse_std, scale)


def _layer_norm_backward(
    epsilon: float, saved: tuple[jax.Array, jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, inverse_std, scale = saved
    leading = tuple(range(grad.ndim - 1))
    normal, flat = normal.astype(jnp.float32), grad.astype(jnp.float32)
    grad_scale, grad_bias = (flat * normal).sum(leading), flat.sum(leading)
    grad_normal = flat * jnp.expand_dims(scale, leading)
    along = mean_of_channels(grad_normal * normal)
    grad_x = inverse_std * (grad_normal - mean_of_channels(grad_normal) - normal * along)
    return grad_x.astype(grad.dtype), grad_scale, grad_bias


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, as torch's; `epsilon`, added to the variance, is torch's default."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.epsilon)


# Why a custom VJP. With Phi and phi the distribution function and density of the standard normal, the derivative of
# x Phi(x) is Phi(x) + x phi(x). Phi(x) is kept from the forward pass; differentiation would compute erf again or keep
# its intermediate results.
@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU of `[...]`, x times the standard normal distribution function at x (Hendrycks & Gimpel 2016)."""
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
    """Multi-head self-attention of tokens (Vaswani et al. 2017, eq. 1), `[..., T, C] -> [..., T, C]`.

    Queries, keys and values come from one linear layer, side by side in this order, head after head in each.

    Attributes:
        num_heads: heads; they share the C channels equally.
        pde: graph-diffusion attention (Zhou et al. 2023, eq. 16): (A - I) V in place of A V.
        dropout: dropout rate of the attention matrix A.
        dtype: type computed in, except for scores and softmax.
    """

    num_heads: int
    pde: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, index: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:
        """Attend.

        Args:
            x: tokens `[..., T, C]`.
            train: whether dropout acts.
            index: index of each example, one per entry of the first axis of x, from which its dropout mask derives.
            mask: boolean `[T]` or `[..., T]`: the tokens that may be attended to.

        Returns:
            Tokens `[..., T, C]`.

        Raises:
            UserError: C is not divisible by the number of heads.
        """
        tokens, width = x.shape[-2:]
        if width % self.num_heads:
            raise UserError(f"attention: expected a width divisible by {self.num_heads} heads, found {width}")
        head_width = width // self.num_heads
        fused = Linear(3 * width, dtype=self.dtype, name="qkv")(x).reshape(-1, tokens, 3, self.num_heads, head_width)
        attended = None if mask is None else jnp.broadcast_to(mask, x.shape[:-1]).reshape(-1, 1, 1, tokens)
        if train and self.dropout:
            query, key, value = split_heads(fused)
            weights = attention_weights(query, key, attended).astype(self.dtype)
            rows = index_rows(index, x.shape[:-2])
            weights = Dropout(self.dropout, batch_axis=0, name="dropout")(weights, rows, train=True)
            y = jnp.swapaxes(weights @ value - (value if self.pde else 0), 1, 2)
        else:
            y = attend(fused, attended, self.pde)
        return Linear(width, dtype=self.dtype, name="project")(y.reshape(x.shape))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): zero a residual branch `[B, G, T, C]` for a whole group of tokens.

    There is one draw per example and group, and survivors are scaled so that the mean is kept. The draws of an example
    come from the 'dropout' key folded with its `index [B]`, by default its place in the batch.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, index: jax.Array | None = None) -> jax.Array:
        if not train or not self.rate:
            return x
        batch, groups = x.shape[:2]
        key, kept = self.make_rng("dropout"), 1 - self.rate
        index = jnp.arange(batch) if index is None else index
        draw = jax.vmap(lambda example: jax.random.bernoulli(jax.random.fold_in(key, example), kept, (groups,)))
        return x * (draw(index).astype(x.dtype) / kept)[:, :, None, None]


def list_drop_path_rates(largest: float, num_layers: int) -> list[float]:
    """Return the rate of stochastic depth of every layer: from 0 to `largest` in equal steps."""
    return np.linspace(0, largest, num_layers).tolist()


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron, each with a skip connection around it.

    `x = x + DropPath(Attention(LayerNorm(x)))`, then `x = x + DropPath(MLP(LayerNorm(x)))`, `[B, G, T, C]` throughout.
    With a timestep embedding `step`, `[S]` for all or `[B, S]`, SiLU and a linear layer first bring it to C channels
    which are added to every token and so remain in the residual stream (Zhou et al. 2023).

    Attributes:
        num_heads: heads of attention.
        mlp_ratio: width of the perceptron's hidden layer in units of C.
        drop_path: rate of stochastic depth of both branches.
        pde: graph-diffusion attention, see `SelfAttention`.
        epsilon: of both layer normalisations.
        dtype: type computed in.
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
            x = x + expand_to_tokens(Linear(width, dtype=self.dtype, name="step")(jax.nn.silu(step)))
        hidden = LayerNorm(self.epsilon, name="attention_norm")(x)
        hidden = SelfAttention(self.num_heads, self.pde, dtype=self.dtype, name="attention")(hidden)
        x = x + DropPath(self.drop_path, name="attention_drop_path")(hidden, train=train, index=index)
        hidden = LayerNorm(self.epsilon, name="mlp_norm")(x)
        hidden = gelu(Linear(int(width * self.mlp_ratio), dtype=self.dtype, name="expand")(hidden))
        hidden = Linear(width, dtype=self.dtype, name="contract")(hidden)
        return x + DropPath(self.drop_path, name="mlp_drop_path")(hidden, train=train, index=index)


def expand_to_tokens(embedding: jax.Array) -> jax.Array:
    """Bring what all tokens share, `[C]` or one per example `[B, C]`, to `[1, 1, 1, C]` or `[B, 1, 1, C]`."""
    return embedding.reshape(-1, 1, 1, embedding.shape[-1])
