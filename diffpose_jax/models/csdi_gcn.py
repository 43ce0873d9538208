"""A noise predictor for pose sequences in the form of CSDI, its two transformers replaced by graph convolutions."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.embeddings import StepTableEmbedding
from diffpose_jax.models.graph import PreAggregatedGraphConv
from diffpose_jax.models.linear import KAIMING, Linear
from diffpose_jax.models.non_local import POOLING_GROUPS, Groups, PooledNonLocal, pair_joints_release
from diffpose_jax.models.normalisation import BatchNorm, Dropout
from diffpose_jax.skeleton import Skeleton


class GraphLayer(nn.Module):
    """Pre-aggregated graph convolution, batch normalisation, ReLU, dropout, keeping the shape `[J, F, B, C]`.

    Joints are the nodes. Their features are the frames of a channel, axis 1 of `[J, F, B C]`, or the channels of a
    frame, axis 2 of `[J, F B, C]`.
    """

    skeleton: Skeleton
    axis: Literal[1, 2]
    dropout: float
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        joints, frames, _, channels = x.shape
        y = x.reshape((joints, frames, -1) if self.axis == 1 else (joints, -1, channels))
        y = PreAggregatedGraphConv(self.skeleton, self.axis, self.dtype, normalised=True, name="conv")(y)
        norm = BatchNorm(self.axis_name, axis=self.axis, dtype=self.dtype, name="norm")
        y = jax.nn.relu(norm(y, train=train)).reshape(x.shape)
        return Dropout(self.dropout, batch_axis=2, name="dropout")(y, index, train=train)


class ResidualBlock(nn.Module):
    """One residual block of CSDI with graph layers: `(h, total) -> (h, total + skip)`, all `[J, F, B, C]`.

    The timestep's embedding is added, then come a graph layer along time for each channel (its normalisation has one
    scale per frame), one along the channels of each frame, the non-local block, and the gate of WaveNet; no skip
    connection leads around any of them (Rommel et al. 2023, section 3.3).
    """

    skeleton: Skeleton
    dropout: float
    groups: Groups | None
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], step: jax.Array, index: jax.Array, train: bool
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        h, total = carry
        frames, channels = h.shape[1], h.shape[-1]
        options = (self.dropout, self.axis_name, self.dtype)
        kaiming = functools.partial(Linear, kernel_init=KAIMING, dtype=self.dtype)
        step = Linear(channels, dtype=self.dtype, name="step")(step)
        y = h + jnp.broadcast_to(step, (h.shape[2], channels))[None, None]
        # Of a single frame there is nothing to mix along time, and the release leaves the layer out.
        if frames > 1:
            y = GraphLayer(self.skeleton, 1, *options, name="time")(y, index, train=train)
        y = GraphLayer(self.skeleton, 2, *options, name="feature")(y, index, train=train)
        if self.groups is not None:
            rows = y.reshape(len(y), -1, channels)
            block = PooledNonLocal(self.groups, self.axis_name, self.dtype, name="non_local")
            y = block(rows, train=train).reshape(y.shape)
        # The gated activation of WaveNet, DiffWave and CSDI: sigmoid(W_g y) * tanh(W_f y). A linear layer then splits
        # it into what is added to the residual stream and what goes straight to the output. Two terms of unit variance
        # have a sum of variance two, hence the sqrt(2) here, and the sqrt(num_layers) over the sum of the skips.
        gate, filtered = jnp.split(kaiming(2 * channels, name="gate")(y), 2, axis=-1)
        y = jax.nn.sigmoid(gate) * jnp.tanh(filtered)
        residual, skip = jnp.split(kaiming(2 * channels, name="output")(y), 2, axis=-1)
        return ((h + residual) / math.sqrt(2), total + skip), None


def compute_vectors_first(variables: Any) -> Any:
    """Variables of one block of a stack, the same, whose vectors are computed before the loops that read them.

    XLA:CPU moves the slice that takes a vector from its stack into every loop that reads it, and such a loop runs one
    number at a time: of sampling, the gate took 29 %. It moves no product, and one with ones and zeros is exact, at the
    highest precision also on an accelerator that a program is exported for.
    """

    def compute_first(leaf: jax.Array) -> jax.Array:
        if leaf.ndim != 1 or jax.default_backend() != "cpu":
            return leaf
        return jnp.matmul(jnp.ones((1, 2), leaf.dtype), jnp.stack([leaf, jnp.zeros_like(leaf)]), precision="highest")[0]

    return jax.tree.map(compute_first, variables)


class CSDIGCN(nn.Module):
    """CSDI's residual network (Tashiro et al. 2021) with graph layers, as a noise predictor (Rommel et al. 2023).

    The blocks' parameters are stacked, `[num_layers, ...]`, and scanned: the program that is compiled holds one block.

    Attributes:
        skeleton: joints and the graph of the graph layers.
        frames: F; the graph layers along time have parameters for each frame.
        width: channels C of the residual stream.
        num_layers: residual blocks.
        step_width: entries of the timestep's embedding.
        num_steps: timesteps of the diffusion process.
        dropout: dropout rate of the graph layers.
        non_local: whether every block has a non-local block.
        groups: joints that the non-local block pools in pairs, see `pair_joints_release`; the layout's of
            `POOLING_GROUPS` if None.
        axis_name: mapped axis of the devices, for the normalisation.
        dtype: type computed in.
    """

    skeleton: Skeleton
    frames: int = 27
    width: int = 64
    num_layers: int = 16
    step_width: int = 128
    num_steps: int = 50
    dropout: float = 0.0
    non_local: bool = True
    groups: Groups | None = None
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, k: jax.Array, *, train: bool, index: jax.Array | None = None) -> jax.Array:
        """Predict the noise.

        Args:
            x: noisy poses and their condition side by side `[B, F, J, C]`.
            k: timestep, int32 `[B]` or a scalar for all, below `num_steps`.
            train: whether dropout acts and the normalisation uses the batch's statistics.
            index: index of each example `[B]`, from which its dropout masks derive; by default its place in the batch.

        Returns:
            Predicted noise `[B, F, J, 3]`, float32.

        Raises:
            UserError: x has another number of frames, or no groups of joints are known for the layout.
        """
        if x.shape[1] != self.frames:
            raise UserError(f"CSDI-GCN: expected sequences of {self.frames} frames, found {x.shape[1]}")
        index = jnp.arange(len(x), dtype=jnp.int32) if index is None else index
        kaiming = functools.partial(Linear, kernel_init=KAIMING, dtype=self.dtype)
        # [J, F, B, C]: the layers along time multiply matrices [F, B C] from the left, those along channels [F B, C]
        # from the right, and nothing is transposed between them.
        h = jax.nn.relu(kaiming(self.width, name="input")(x.transpose(2, 1, 0, 3)))
        step = StepTableEmbedding(self.num_steps, self.step_width, self.dtype, name="step")(k)
        # Statistics are only read where they are not collected.
        read = "params" if train else ["params", "batch_stats"]
        block = nn.map_variables(ResidualBlock, read, trans_in_fn=compute_vectors_first, init=self.is_initializing())
        blocks = nn.scan(
            block,
            variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.num_layers,
        )(self.skeleton, self.dropout, self._pair_joints(), self.axis_name, self.dtype, name="blocks")
        (_, total), _ = blocks((h, jnp.zeros_like(h)), step, index, train)
        y = jax.nn.relu(kaiming(self.width, name="mix")(total / math.sqrt(self.num_layers)))
        # The kernel starts at zero, so that the first prediction is the bias, the same for all inputs: nearly no noise.
        y = Linear(3, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output")(y)
        return y.transpose(2, 1, 0, 3).astype(jnp.float32)

    def _pair_joints(self) -> Groups | None:
        if not self.non_local:
            return None
        groups = POOLING_GROUPS.get(self.skeleton.name) if self.groups is None else self.groups
        if groups is None:
            known = ", ".join(POOLING_GROUPS)
            raise UserError(f"CSDI-GCN non_local: expected a layout among {known}, found {self.skeleton.name}")
        return pair_joints_release(groups)
