"""A CSDI-shaped noise predictor for pose sequences, its two transformers replaced by graph convolutions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.embeddings import StepTableEmbedding
from diffpose_jax.models.graph import PreAggregatedGraphConv
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.non_local import PooledNonLocal, pooled_pairs
from diffpose_jax.models.normalisation import BatchNorm, Dropout
from diffpose_jax.skeleton import Skeleton

# Neighbouring joints in the order in which the release's non-local block pools them, by layout.
GROUPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "h36m17": ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9, 10), (15, 16), (12, 13), (11, 14)),
    "h36m16": ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9), (14, 15), (11, 12), (10, 13)),
}

_KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class GraphLayer(nn.Module):
    """Pre-aggregated graph convolution, batch normalisation, ReLU, dropout, keeping the shape `[J, B, M, C]`.

    Joints are the nodes, the last axis their features; rows of axis M belong to the same example.
    """

    skeleton: Skeleton
    dropout: float
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        conv = PreAggregatedGraphConv(x.shape[-1], self.skeleton, self.dtype, normalised=True, name="conv")
        y = jax.nn.relu(BatchNorm(self.axis_name, dtype=self.dtype, name="norm")(conv(rows), train=train))
        return Dropout(self.dropout, name="dropout")(y.reshape(x.shape), index, train=train)


class ResidualBlock(nn.Module):
    """One residual block: `(h, total) -> (h, total + skip)`, all `[J, B, F, C]`.

    The step is added, then come a graph layer over the frames of each channel (its normalisation has one scale per
    frame), one over the channels of each frame, the non-local block and a gate; there is no skip around any of them.
    """

    skeleton: Skeleton
    dropout: float
    groups: tuple[tuple[int, ...], ...] | None
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], step: jax.Array, index: jax.Array, train: bool
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        h, total = carry
        channels, frames = h.shape[-1], h.shape[-2]
        options = (self.skeleton, self.dropout, self.axis_name, self.dtype)
        kaiming = {"kernel_init": _KAIMING, "dtype": self.dtype}
        step = Linear(channels, dtype=self.dtype, name="step")(step)
        y = h + (step[None, None, None] if step.ndim == 1 else step[None, :, None])
        if frames > 1:
            y = GraphLayer(*options, name="time")(y.swapaxes(2, 3), index, train=train).swapaxes(2, 3)
        y = GraphLayer(*options, name="feature")(y, index, train=train)
        if self.groups is not None:
            rows = y.reshape(len(y), -1, channels)
            block = PooledNonLocal(self.groups, self.axis_name, self.dtype, name="non_local")
            y = block(rows, train=train).reshape(y.shape)
        gate, filtered = jnp.split(Linear(2 * channels, **kaiming, name="gate")(y), 2, axis=-1)
        y = jax.nn.sigmoid(gate) * jnp.tanh(filtered)
        residual, skip = jnp.split(Linear(2 * channels, **kaiming, name="output")(y), 2, axis=-1)
        return ((h + residual) / math.sqrt(2), total + skip), None


class CSDIGCN(nn.Module):
    """CSDI's residual network (Tashiro et al. 2021) with graph layers, as a noise predictor (Rommel et al. 2023).

    `x [B, F, J, C]` and the step `k`, int32 `[B]` or a scalar for all, below `num_steps`, give `[B, F, J, 3]`; an F not
    `frames` is a UserError. `index [B]` is the identity of each example, from which its dropout masks derive; by
    default its place in the batch. The blocks' parameters are stacked, `[num_layers, ...]`, and scanned. `groups` are
    the joints that the non-local block pools in pairs, see `pooled_pairs`; by default those of `GROUPS`, and without
    any a UserError.
    """

    skeleton: Skeleton
    frames: int = 27
    width: int = 64
    num_layers: int = 16
    step_width: int = 128
    num_steps: int = 50
    dropout: float = 0.0
    non_local: bool = True
    groups: tuple[tuple[int, ...], ...] | None = None
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, k: jax.Array, *, train: bool, index: jax.Array | None = None) -> jax.Array:
        if x.shape[1] != self.frames:
            raise UserError(f"CSDI-GCN: expected sequences of {self.frames} frames, found {x.shape[1]}")
        index = jnp.arange(len(x), dtype=jnp.int32) if index is None else index
        kaiming = {"kernel_init": _KAIMING, "dtype": self.dtype}
        h = jax.nn.relu(Linear(self.width, **kaiming, name="input")(jnp.moveaxis(x, 2, 0)))
        step = StepTableEmbedding(self.num_steps, self.step_width, self.dtype, name="step")(k)
        blocks = nn.scan(
            ResidualBlock,
            variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.num_layers,
        )(self.skeleton, self.dropout, self._pools(), self.axis_name, self.dtype, name="blocks")
        (_, total), _ = blocks((h, jnp.zeros_like(h)), step, index, train)
        y = jax.nn.relu(Linear(self.width, **kaiming, name="mix")(total / math.sqrt(self.num_layers)))
        y = Linear(3, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output")(y)
        return jnp.moveaxis(y, 0, 2).astype(jnp.float32)

    def _pools(self) -> tuple[tuple[int, ...], ...] | None:
        if not self.non_local:
            return None
        groups = GROUPS.get(self.skeleton.name) if self.groups is None else self.groups
        if groups is None:
            known = ", ".join(GROUPS)
            raise UserError(f"CSDI-GCN non_local: expected a layout among {known}, found {self.skeleton.name}")
        return pooled_pairs(groups)
