"""The modulated GCN, and a denoiser that is the same trunk told the diffusion step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.embeddings import StepEmbedding, StepModulation
from diffpose_jax.models.graph import ModulatedGraphConv, ModulationInit
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.non_local import EmbeddedGaussianNonLocal, PooledNonLocal
from diffpose_jax.models.normalisation import BatchNorm, Dropout, example_rows
from diffpose_jax.skeleton import Skeleton

NonLocal = Literal["none", "pooled", "embedded_gaussian"]

# Pairs of Human3.6M-16 joints that the pooled non-local block of the release max-pools together.
H36M_16_GROUPS = ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9), (14, 15), (11, 12), (10, 13))

# The two programs of the release as option sets of `ModulatedGCN`: ground-truth 2D on 16 joints, detections on 17.
VARIANTS: dict[str, dict[str, Any]] = {
    "gt": {"width": 128, "num_layers": 4, "dropout": 0.0, "modulation": "ones", "non_local": "none"},
    "benchmark": {
        "width": 384,
        "num_layers": 4,
        "dropout": 0.2,
        "modulation": "xavier",
        "non_local": "embedded_gaussian",
    },
}


class GraphUnit(nn.Module):
    """Modulated graph convolution, batch normalisation, ReLU and dropout: `[J, N, C] -> [J, N, features]`."""

    features: int
    skeleton: Skeleton
    dropout: float
    modulation: ModulationInit
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        options = (self.features, self.skeleton, self.modulation, self.dtype)
        x = ModulatedGraphConv(*options, normalised=True, name="conv")(x)
        x = jax.nn.relu(BatchNorm(self.axis_name, dtype=self.dtype, name="norm")(x, train=train))
        return Dropout(self.dropout, name="dropout")(x, index, train=train)


class GraphBlock(nn.Module):
    """Two graph units with a skip connection around the pair and nothing after the sum: `[J, N, C] -> [J, N, C]`."""

    skeleton: Skeleton
    dropout: float
    modulation: ModulationInit
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        options = (x.shape[-1], self.skeleton, self.dropout, self.modulation, self.axis_name, self.dtype)
        hidden = GraphUnit(*options, name="unit_1")(x, index, train=train)
        return x + GraphUnit(*options, name="unit_2")(hidden, index, train=train)


class GraphTrunk(nn.Module):
    """Input unit and residual blocks of the modulated GCN, joint-major: `[J, N, C] -> [J, N, width]`.

    With `groups` a pooled non-local block follows the input unit and every residual block.
    """

    skeleton: Skeleton
    width: int
    num_layers: int
    dropout: float
    modulation: ModulationInit
    groups: tuple[tuple[int, ...], ...] | None
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        options = (self.skeleton, self.dropout, self.modulation, self.axis_name, self.dtype)
        x = GraphUnit(self.width, *options, name="input")(x, index, train=train)
        x = self._non_local(x, "input_non_local", train)
        for layer in range(self.num_layers):
            x = GraphBlock(*options, name=f"block_{layer}")(x, index, train=train)
            x = self._non_local(x, f"block_{layer}_non_local", train)
        return x

    def _non_local(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        if self.groups is None:
            return x
        return PooledNonLocal(self.groups, self.axis_name, self.dtype, name=name)(x, train=train)


class ModulatedGCN(nn.Module):
    """Modulated GCN (Zou & Tang, ICCV 2021), `[..., J, C] -> [..., J, out_channels]`.

    `VARIANTS` holds the released option sets. `index` (the leading shape of x without J and C, or its first axis) is
    the identity of each example, from which its dropout mask derives; by default the position in the batch. `features`
    asks for the activations `[..., J, width]` before the output convolution instead.
    """

    skeleton: Skeleton
    width: int = 128
    num_layers: int = 4
    out_channels: int = 3
    dropout: float = 0.0
    modulation: ModulationInit = "ones"
    non_local: NonLocal = "none"
    groups: tuple[tuple[int, ...], ...] = H36M_16_GROUPS
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, index: jax.Array | None = None, features: bool = False
    ) -> jax.Array:
        leading = x.shape[:-2]
        x, index = _joint_major(x), example_rows(index, leading)
        groups = self.groups if self.non_local == "pooled" else None
        x = GraphTrunk(
            self.skeleton,
            self.width,
            self.num_layers,
            self.dropout,
            self.modulation,
            groups,
            self.axis_name,
            self.dtype,
            name="trunk",
        )(x, index, train=train)
        if self.non_local == "embedded_gaussian":
            x = EmbeddedGaussianNonLocal(self.axis_name, self.dtype, name="non_local")(x, train=train)
        if features:
            return _joints_last(x, leading)
        x = ModulatedGraphConv(self.out_channels, self.skeleton, self.modulation, self.dtype, name="output")(x)
        return _joints_last(x, leading)


class StepModulatedGCN(nn.Module):
    """A modulated GCN told the step: pose `x [B, F, J, 3]`, keypoints `cond [B, F, J, 2]`, `k` -> `[B, F, J, 5]`.

    Channels 0-2 of the result are the predicted noise, 3-4 the keypoints reconstructed. `k` is int32, `[B]` or a scalar
    for all; frames are independent. The trunk does not see the step, which modulates the channels before and after the
    non-local block (Choi et al., IROS 2023, as released). The release also owns a third such block and never calls it:
    `release_dead_block` keeps its parameters, which the published counts include and which receive no gradient.
    """

    skeleton: Skeleton
    width: int = 384
    num_layers: int = 4
    dropout: float = 0.0
    release_dead_block: bool = True
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, cond: jax.Array, k: jax.Array, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        if self.width % 16 or self.width < 32:
            raise UserError(f"StepModulatedGCN width: expected a multiple of 16, at least 32, found {self.width}")
        leading = x.shape[:-2]
        index = example_rows(index, leading)
        step = StepEmbedding(self.width // 8, self.width // 2, self.dtype, name="step")(k)
        if k.ndim:
            step = jnp.repeat(step, leading[1], axis=0)
        h = _joint_major(jnp.concatenate([x, cond], axis=-1))
        h = GraphTrunk(
            self.skeleton,
            self.width,
            self.num_layers,
            self.dropout,
            "xavier",
            None,
            self.axis_name,
            self.dtype,
            name="trunk",
        )(h, index, train=train)
        h = StepModulation(self.dtype, name="modulation_1")(h, step)
        h = EmbeddedGaussianNonLocal(self.axis_name, self.dtype, name="non_local")(h, train=train)
        h = StepModulation(self.dtype, name="modulation_2")(h, step)
        if self.release_dead_block:
            StepModulation(self.dtype, name="modulation_unused")(h, step)
        return _joints_last(ModulatedGraphConv(5, self.skeleton, dtype=self.dtype, name="output")(h), leading)


class RefineHead(nn.Module):
    """The benchmark program's second stage: mix the x and y of a prediction with those of its back-projection.

    `predicted` and `back_projected [..., J, 3]`, both root-relative metres, give `[..., J, 3]`: z as predicted,
    (x, y) = s * predicted + (1 - s) * back-projected with s from a two-layer network. The release leaves its dropout on
    at test time; here it is off unless `train`.
    """

    hidden: int = 1024
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, predicted: jax.Array, back_projected: jax.Array, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        leading, joints = predicted.shape[:-2], predicted.shape[-2]
        flat = jnp.concatenate([predicted, back_projected], axis=-1).reshape(1, -1, 6 * joints)
        hidden = jax.nn.relu(Linear(self.hidden, dtype=self.dtype, name="expand")(flat))
        hidden = Dropout(self.dropout, name="dropout")(hidden, example_rows(index, leading), train=train)
        share = jax.nn.sigmoid(Linear(2 * joints, dtype=self.dtype, name="share")(hidden).astype(jnp.float32))
        share = share.reshape(*leading, joints, 2)
        mixed = share * predicted[..., :2] + (1 - share) * back_projected[..., :2]
        return jnp.concatenate([mixed, predicted[..., 2:]], axis=-1)


def _joint_major(x: jax.Array) -> jax.Array:
    """Bring `[..., J, C]` to `[J, N, C]`."""
    return jnp.moveaxis(x, -2, 0).reshape(x.shape[-2], -1, x.shape[-1])


def _joints_last(x: jax.Array, leading: Sequence[int]) -> jax.Array:
    """Bring `[J, N, C]` back to `[..., J, C]`, float32."""
    return jnp.moveaxis(x, 0, 1).reshape(*leading, x.shape[0], x.shape[-1]).astype(jnp.float32)
