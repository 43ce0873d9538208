"""The modulated GCN (Zou & Tang, ICCV 2021), and a denoiser with the same trunk, conditioned on the timestep."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.embeddings import StepEmbedding, StepModulation
from diffpose_jax.models.graph import ModulatedGraphConv, ModulationInit, from_joint_major, to_joint_major
from diffpose_jax.models.non_local import POOLING_GROUPS, EmbeddedGaussianNonLocal, Groups, PooledNonLocal
from diffpose_jax.models.normalisation import BatchNorm, Dropout, index_rows
from diffpose_jax.skeleton import Skeleton

NonLocal = Literal["none", "pooled", "embedded_gaussian"]

# Options of `ModulatedGCN` as the release's two programs set them: ground-truth 2D on 16 joints, detections on 17.
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
        # The release applies ReLU once more after dropout, which changes nothing.
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
    """Input unit and residual blocks of the modulated GCN: `[J, N, C] -> [J, N, width]`.

    With `groups` a pooled non-local block follows the input unit and every residual block.
    """

    skeleton: Skeleton
    width: int
    num_layers: int
    dropout: float
    modulation: ModulationInit
    groups: Groups | None
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
    """Modulated GCN (Zou & Tang, ICCV 2021), a 2D-to-3D lifter of single frames.

    An input unit, residual blocks of two graph units, an optional non-local block, and a graph convolution to the
    output. `VARIANTS` holds the options of the released programs.

    Attributes:
        skeleton: joints and the fixed part of the affinity.
        width: channels of the hidden layers.
        num_layers: residual blocks.
        out_channels: channels of the result.
        dropout: dropout rate of every graph unit.
        modulation: start of the weight modulation, 'ones' or 'xavier'.
        non_local: 'none'; 'pooled', a block after every unit; or 'embedded_gaussian', one before the output.
        groups: joints pooled by the pooled block.
        axis_name: mapped axis of the devices, for the normalisation.
        dtype: type computed in.
    """

    skeleton: Skeleton
    width: int = 128
    num_layers: int = 4
    out_channels: int = 3
    dropout: float = 0.0
    modulation: ModulationInit = "ones"
    non_local: NonLocal = "none"
    groups: Groups = POOLING_GROUPS["h36m16"]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, index: jax.Array | None = None, features: bool = False
    ) -> jax.Array:
        """Lift.

        Args:
            x: keypoints `[..., J, C]`, normalised image units.
            train: whether dropout acts and the normalisation uses the batch's statistics.
            index: index of each example, along the first axis of x, from which its dropout masks derive; by default
                its place in the batch.
            features: whether to return the activations `[..., J, width]` before the output convolution instead.

        Returns:
            Poses `[..., J, out_channels]`, root-relative metres once trained, float32.
        """
        leading = x.shape[:-2]
        x, index = to_joint_major(x), index_rows(index, leading)
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
            return from_joint_major(x, leading)
        x = ModulatedGraphConv(self.out_channels, self.skeleton, self.modulation, self.dtype, name="output")(x)
        return from_joint_major(x, leading)


class StepModulatedGCN(nn.Module):
    """The denoiser of DiffuPose (Choi et al., IROS 2023): a modulated GCN conditioned on the timestep.

    The timestep modulates the channels before and after the non-local block; the trunk does not depend on it. Frames
    are independent.

    Attributes:
        skeleton: joints and the fixed part of the affinity.
        width: channels of the hidden layers, a multiple of 16, at least 32.
        num_layers: residual blocks of the trunk.
        dropout: dropout rate of every graph unit.
        release_dead_block: keep the parameters of a third modulation, which the release creates and never calls; the
            published counts include them, and they receive no gradient.
        axis_name: mapped axis of the devices, for the normalisation.
        dtype: type computed in.
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
        """Predict the noise, and reconstruct the keypoints, which the loss of DiffuPose asks for (eq. 9).

        Args:
            x: noisy poses `[B, F, J, 3]`.
            cond: keypoints `[B, F, J, 2]`.
            k: timestep, int32 `[B]` or a scalar for all.
            train: whether dropout acts and the normalisation uses the batch's statistics.
            index: index of each example `[B]`, from which its dropout masks derive; by default its place in the batch.

        Returns:
            `[B, F, J, 5]`, float32: predicted noise in channels 0-2, reconstructed keypoints in 3-4.

        Raises:
            UserError: the width is not a multiple of 16 of at least 32.
        """
        if self.width % 16 or self.width < 32:
            raise UserError(f"StepModulatedGCN width: expected a multiple of 16, at least 32, found {self.width}")
        leading = x.shape[:-2]
        index = index_rows(index, leading)
        # A sinusoid of an eighth of the width and an embedding of half of it, as released.
        step = StepEmbedding(self.width // 8, self.width // 2, self.dtype, name="step")(k)
        # Rows are frames, and every frame of an example has the example's timestep.
        if k.ndim:
            step = jnp.repeat(step, leading[1], axis=0)
        h = to_joint_major(jnp.concatenate([x, cond], axis=-1))
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
        # Creates the parameters; the result is unused, so nothing of it remains in the compiled program.
        if self.release_dead_block:
            StepModulation(self.dtype, name="modulation_unused")(h, step)
        return from_joint_major(ModulatedGraphConv(5, self.skeleton, dtype=self.dtype, name="output")(h), leading)
