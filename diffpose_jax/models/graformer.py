"""GraFormer: attention over joints alternating with Chebyshev graph convolutions, with or without a timestep."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.attention import SelfAttention
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.graph import ChebyshevConv, from_joint_major, mix_joints, to_joint_major
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.normalisation import Dropout, index_rows
from diffpose_jax.skeleton import Skeleton

# The releases hard-wire these two; the configured dropout is that of the residual sub-layers.
GRAPH_DROPOUT = 0.1
ATTENTION_DROPOUT = 0.1


class UnbiasedLayerNorm(nn.Module):
    """`scale (x - mean) / (std + 1e-6) + bias` over the last axis, with the unbiased standard deviation.

    The layer normalisation of The Annotated Transformer, which GraFormer uses. `LayerNorm` differs: its standard
    deviation is biased (divided by C instead of C - 1) and its epsilon stands under the root.
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
        # Equal channels have standard deviation zero, where the root has an infinite derivative.
        std = jnp.sqrt(jnp.maximum(variance, 1e-24)) + 1e-6
        y = centred / std * jnp.expand_dims(scale, leading) + jnp.expand_dims(bias, leading)
        return y.astype(self.dtype)


class GraphNet(nn.Module):
    """Two linear layers with a learned graph A before each, `[J, N, C] -> [J, N, C]`, 2 C channels between them.

    `y = L relu(L x W_1) W_2` with `L = D^(-1/2) A D^(-1/2)`, D the column sums of A `[J, J]`, which starts as the
    identity. It takes the place of a transformer's perceptron.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, channels = x.shape[0], x.shape[-1]
        graph = self.param("graph", lambda _key, shape: jnp.eye(*shape), (joints, joints))
        # Nothing keeps the column sums positive, and the release computes NaN once one is negative. Here they count as
        # at least 1e-3, far below what occurs (they start at 1), and above that the numbers are the release's.
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
        y = UnbiasedLayerNorm(self.dtype, name="norm_1")(x)
        # The release copies one module, so that its query, key, value and output layers start equal, in all layers of
        # the network; here each is initialised independently.
        attention = SelfAttention(self.num_heads, dropout=ATTENTION_DROPOUT, dtype=self.dtype, name="attention")
        y = attention(y.swapaxes(0, 1), train=train, index=index, mask=mask).swapaxes(0, 1)
        x = x + Dropout(self.dropout, name="dropout_1")(y, index, train=train)
        y = GraphNet(self.dtype, name="graph_net")(UnbiasedLayerNorm(self.dtype, name="norm_2")(x))
        return x + Dropout(self.dropout, name="dropout_2")(y, index, train=train)


class ChebyshevBlock(nn.Module):
    """Two Chebyshev convolutions with ReLU and a skip connection around them, `[J, N, C] -> [J, N, C]`.

    The timestep's embedding, `[1, E]` or `[N, E]` with its activation applied, is added between them, after the first
    ReLU.
    """

    skeleton: Skeleton
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, step: jax.Array | None, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        # The release applies ReLU once more after each dropout, which changes nothing: the values are not negative any
        # more.
        y = jax.nn.relu(ChebyshevConv(channels, self.skeleton, self.dtype, name="conv_1")(x))
        y = Dropout(GRAPH_DROPOUT, name="dropout_1")(y, index, train=train)
        if step is not None:
            shift = Linear(channels, dtype=self.dtype, name="step")(step)
            y = y + jnp.broadcast_to(shift, y.shape[1:])[None]
        y = jax.nn.relu(ChebyshevConv(channels, self.skeleton, self.dtype, name="conv_2")(y))
        return x + Dropout(GRAPH_DROPOUT, name="dropout_2")(y, index, train=train)


class GraFormer(nn.Module):
    """GraFormer (Zhao et al., CVPR 2022) as DiffPose releases it (Gong et al., CVPR 2023), for single frames.

    Every layer attends first and convolves after. With `step` the network is DiffPose's denoiser, without it its
    2D-to-3D lifter of single frames.

    Attributes:
        skeleton: joints and the graph of the convolutions.
        width: channels of the hidden layers, a multiple of twice the heads.
        num_layers: pairs of an attention layer and a block of two convolutions.
        num_heads: heads of attention.
        out_channels: channels of the result.
        dropout: dropout rate of the sub-layers of attention; those of the convolutions and of the attention matrix are
            fixed at 0.1, as released.
        step: whether the network takes a timestep.
        release_dead_embedding: without `step`, keep the parameters of a timestep embedding that the release's lifter
            creates and never calls; the published count includes them, and they receive no gradient.
        dtype: type computed in.
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
        """Lift, or predict what the denoiser is trained to predict.

        Args:
            x: keypoints or noisy poses, `[B, F, J, C]`; frames are independent.
            k: timestep, int32 `[B]` or a scalar for all; None without `step`.
            train: whether dropout acts.
            index: index of each example `[B]`, from which its dropout masks derive; by default its place in the batch.
            mask: visible joints, `[B, F, J]` or what broadcasts to it with three axes; the others are no keys of
                attention.
            features: whether to return the activations of the last layer `[B, F, J, width]` instead.

        Returns:
            `[B, F, J, out_channels]`, float32.

        Raises:
            UserError: the width does not suit the heads.
            ValueError: a timestep is missing, or given to a network without `step`.
        """
        self._check(k)
        leading = x.shape[:-2]
        index = index_rows(index, leading)
        if mask is not None:
            mask = jnp.broadcast_to(mask.astype(bool), x.shape[:-1]).reshape(-1, x.shape[-2])
        step = self._embed_step(k, leading)
        h = ChebyshevConv(self.width, self.skeleton, self.dtype, name="input")(to_joint_major(x))
        for layer in range(self.num_layers):
            attention = AttentionLayer(self.num_heads, self.dropout, self.dtype, name=f"attention_{layer}")
            h = attention(h, index, mask, train=train)
            h = ChebyshevBlock(self.skeleton, self.dtype, name=f"block_{layer}")(h, index, step, train=train)
        # Each sub-layer normalises its input, and nothing normalises the sum of all of them, as released.
        y = ChebyshevConv(self.out_channels, self.skeleton, self.dtype, name="output")(h)
        return from_joint_major(h if features else y, leading)

    def _check(self, k: jax.Array | None) -> None:
        if self.width % (2 * self.num_heads) or self.width < 4:
            expected = f"a multiple of twice its {self.num_heads} heads, at least 4"
            raise UserError(f"GraFormer width: expected {expected}, found {self.width}")
        if k is not None and not self.step:
            raise ValueError("GraFormer without step: expected no timestep k, found one")

    def _embed_step(self, k: jax.Array | None, leading: Sequence[int]) -> jax.Array | None:
        """Return the activated embedding `[N, E]`, or `[1, E]` for one timestep; None in a network without one."""
        sizes = (self.width, 4 * self.width, self.dtype)
        if self.step:
            # Every block of the release applies this SiLU to the same embedding.
            step = jax.nn.silu(StepEmbedding(*sizes, activation="silu", name="step")(k))
            return step[None] if step.ndim == 1 else jnp.repeat(step, leading[1], axis=0)
        if self.release_dead_embedding:
            # Creates the parameters; the result is unused, so nothing of it remains in the compiled program.
            StepEmbedding(*sizes, activation="silu", name="step_unused")(jnp.zeros(1, jnp.int32))
        return None
