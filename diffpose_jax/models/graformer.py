"""GraFormer: attention over joints alternating with Chebyshev graph convolutions, with or without a diffusion step."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.attention import SelfAttention
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.graph import ChebyshevConv, mix_joints
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.normalisation import Dropout, example_rows
from diffpose_jax.skeleton import Skeleton

# The releases hard-wire these two; the configured dropout is that of the residual sub-layers.
GRAPH_DROPOUT = 0.1
ATTENTION_DROPOUT = 0.1


class DeviationNorm(nn.Module):
    """`scale (x - mean) / (std + 1e-6) + bias` over the last axis, with the unbiased standard deviation.

    The layer normalisation of The Annotated Transformer, which GraFormer uses; not LayerNorm, whose deviation is biased
    and whose epsilon stands under the root.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, leading = x.shape[-1], tuple(range(x.ndim - 1))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (channels - 1)
        # Equal channels have deviation zero, where the root has no gradient.
        deviation = jnp.sqrt(jnp.maximum(variance, 1e-24)) + 1e-6
        y = centred / deviation * jnp.expand_dims(scale, leading) + jnp.expand_dims(bias, leading)
        return y.astype(self.dtype)


class GraphNet(nn.Module):
    """Two linear layers with a learned graph before each, `[J, N, C] -> [J, N, C]`, 2 C channels between them.

    The graph `[J, J]` starts as the identity and is divided by the roots of its column sums. Nothing keeps these
    positive, and the release computes NaN once one is negative; here they count as at least 1e-3, far below what is
    met (1 at the start), and above that the numbers are the release's.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, channels = x.shape[0], x.shape[-1]
        graph = self.param("graph", lambda _key, shape: jnp.eye(*shape), (joints, joints))
        inverse = jax.lax.rsqrt(jnp.maximum(graph.sum(axis=0) + 1e-5, 1e-3))
        mixing = (inverse[:, None] * graph * inverse[None, :]).astype(self.dtype)
        hidden = jax.nn.relu(Linear(2 * channels, dtype=self.dtype, name="expand")(mix_joints(mixing, x)))
        return Linear(channels, dtype=self.dtype, name="project")(mix_joints(mixing, hidden))


class AttentionLayer(nn.Module):
    """Attention, then a learned graph network, each normalised first and added: `[J, N, C] -> [J, N, C]`."""

    num_heads: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        y = DeviationNorm(self.dtype, name="norm_1")(x)
        # The release deep-copies one module, so that its queries, keys, values and outputs start alike, in all layers;
        # here each is drawn for itself.
        attention = SelfAttention(self.num_heads, dropout=ATTENTION_DROPOUT, dtype=self.dtype, name="attention")
        y = attention(y.swapaxes(0, 1), train=train, index=index, mask=mask).swapaxes(0, 1)
        x = x + Dropout(self.dropout, name="dropout_1")(y, index, train=train)
        y = GraphNet(self.dtype, name="graph_net")(DeviationNorm(self.dtype, name="norm_2")(x))
        return x + Dropout(self.dropout, name="dropout_2")(y, index, train=train)


class ChebyshevBlock(nn.Module):
    """Two Chebyshev convolutions with ReLU and a skip connection around them, `[J, N, C] -> [J, N, C]`.

    The step's embedding (`[1, E]` or `[N, E]`, its activation applied) is added between them, after the first ReLU.
    """

    skeleton: Skeleton
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, step: jax.Array | None, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        y = jax.nn.relu(ChebyshevConv(channels, self.skeleton, self.dtype, name="conv_1")(x))
        y = Dropout(GRAPH_DROPOUT, name="dropout_1")(y, index, train=train)
        if step is not None:
            shift = Linear(channels, dtype=self.dtype, name="step")(step)
            y = y + jnp.broadcast_to(shift, y.shape[1:])[None]
        y = jax.nn.relu(ChebyshevConv(channels, self.skeleton, self.dtype, name="conv_2")(y))
        return x + Dropout(GRAPH_DROPOUT, name="dropout_2")(y, index, train=train)


class GraFormer(nn.Module):
    """GraFormer (Zhao et al., CVPR 2022) as Gong et al. (CVPR 2023) release it, `[B, F, J, C] -> [B, F, J, out]`.

    Frames are independent. Layers attend first and convolve after. With `step` the network is their denoiser, called
    `(x, k)` with k int32, `[B]` or a scalar for all; without it, their 2D-to-3D lifter, called `(x)`. That lifter also
    owns a step embedding which it never calls: `release_dead_embedding` keeps its parameters, which the published count
    includes and which receive no gradient.

    `mask [B, F, J]`, or what broadcasts to it with three axes, hides joints as keys of attention. `index [B]` is the
    identity of each example, from which its dropout derives. `features=True` returns the last layer's activations
    `[B, F, J, width]` in place of the output.
    """

    skeleton: Skeleton
    width: int = 96
    num_layers: int = 5
    num_heads: int = 4
    out_channels: int = 3
    dropout: float = 0.25
    step: bool = False
    release_dead_embedding: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        k: jax.Array | None = None,
        *,
        train: bool,
        index: jax.Array | None = None,
        mask: jax.Array | None = None,
        features: bool = False,
    ) -> jax.Array:
        self._check(k)
        leading = x.shape[:-2]
        index = example_rows(index, leading)
        if mask is not None:
            mask = jnp.broadcast_to(mask.astype(bool), x.shape[:-1]).reshape(-1, x.shape[-2])
        step = self._step(k, leading)
        h = ChebyshevConv(self.width, self.skeleton, self.dtype, name="input")(_joint_major(x))
        for layer in range(self.num_layers):
            attention = AttentionLayer(self.num_heads, self.dropout, self.dtype, name=f"attention_{layer}")
            h = attention(h, index, mask, train=train)
            h = ChebyshevBlock(self.skeleton, self.dtype, name=f"block_{layer}")(h, index, step, train=train)
        y = ChebyshevConv(self.out_channels, self.skeleton, self.dtype, name="output")(h)
        return _joints_last(h if features else y, leading)

    def _check(self, k: jax.Array | None) -> None:
        if self.width % (2 * self.num_heads) or self.width < 4:
            expected = f"a multiple of twice its {self.num_heads} heads, at least 4"
            raise UserError(f"GraFormer width: expected {expected}, found {self.width}")
        if self.step != (k is not None):
            raise ValueError(f"GraFormer with step={self.step} was called {'without' if k is None else 'with'} a step")

    def _step(self, k: jax.Array | None, leading: Sequence[int]) -> jax.Array | None:
        """The activated embedding `[N, E]`, or `[1, E]` for one step; None, at no cost, in a network without step."""
        sizes = (self.width, 4 * self.width, self.dtype)
        if not self.step:
            if self.release_dead_embedding:
                StepEmbedding(*sizes, activation="silu", name="step_unused")(jnp.zeros(1, jnp.int32))
            return None
        step = jax.nn.silu(StepEmbedding(*sizes, activation="silu", name="step")(jnp.atleast_1d(k)))
        return jnp.repeat(step, leading[1], axis=0) if k.ndim else step


def _joint_major(x: jax.Array) -> jax.Array:
    """Bring `[..., J, C]` to `[J, N, C]`."""
    return jnp.moveaxis(x, -2, 0).reshape(x.shape[-2], -1, x.shape[-1])


def _joints_last(x: jax.Array, leading: Sequence[int]) -> jax.Array:
    """Bring `[J, N, C]` back to `[..., J, C]`, float32."""
    return jnp.moveaxis(x, 0, 1).reshape(*leading, x.shape[0], x.shape[-1]).astype(jnp.float32)
