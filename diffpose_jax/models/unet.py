"""A U-Net over the joints: the baseline denoiser in the ablation of Choi et al. 2023, OUR RECONSTRUCTION."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.errors import UserError
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.normalisation import Dropout, index_rows
from diffpose_jax.skeleton import Skeleton


class UNetDenoiser(nn.Module):
    """Denoiser with the signature of `StepModulatedGCN`: noisy pose, keypoints, timestep to noise and keypoints.

    OUR RECONSTRUCTION: the paper compares its graph network with "the U-Net" of image diffusion, 2.99 M parameters and
    58.1 mm, and publishes no widths; the release does not hold it. This one is the usual design in one dimension, over
    the joints in their listed order: `num_layers` resolutions of `width`, 2 `width`, 4 `width`, ... channels, two
    residual blocks each way, self-attention at the bottom. The defaults have 2.99 M parameters (within 1 %). Frames are
    independent.

    Attributes:
        skeleton: the joints; their number at each resolution is half of the one before, rounded up.
        width: channels at the full resolution, a multiple of 4.
        num_layers: resolutions.
        step_features: entries of the timestep's embedding.
        dropout: dropout rate of the residual blocks.
        axis_name: not used, since groups of channels are normalised per row; for exchange with `StepModulatedGCN`.
        dtype: type computed in.
    """

    skeleton: Skeleton
    width: int = 24
    num_layers: int = 4
    step_features: int = 160
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, cond: jax.Array, k: jax.Array, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        """Predict the noise, and reconstruct the keypoints.

        Args:
            x: noisy poses `[B, F, J, 3]`.
            cond: keypoints `[B, F, J, 2]`.
            k: timestep, int32 `[B]` or a scalar for all.
            train: whether dropout acts.
            index: index of each example `[B]`, from which its dropout masks derive; by default its place in the batch.

        Returns:
            `[B, F, J, 5]`, float32: predicted noise in channels 0-2, reconstructed keypoints in 3-4.

        Raises:
            UserError: the width is not a positive multiple of 4.
        """
        if self.width % 4 or self.width < 4:
            raise UserError(f"U-Net width: expected a positive multiple of 4, found {self.width}")
        leading, joints = x.shape[:-2], x.shape[-2]
        rows = index_rows(index, leading)
        step = StepEmbedding(self.width, self.step_features, self.dtype, name="step")(k)
        step = jnp.broadcast_to(step[:, None] if k.ndim else step[None, None], (*leading, step.shape[-1]))
        step = step.reshape(-1, step.shape[-1])

        def block(h: jax.Array, channels: int, name: str) -> jax.Array:
            return ResidualBlock(channels, self.dropout, self.dtype, name=name)(h, step, rows, train=train)

        h = jnp.concatenate([x, cond], axis=-1).reshape(-1, joints, 5)
        h = JointConv(self.width, self.dtype, name="input")(h)
        widths = [self.width * 2**level for level in range(self.num_layers)]
        skips = []
        for level, channels in enumerate(widths):
            if level:
                h = Downsample(channels, self.dtype, name=f"halve_{level}")(h)
            for place in (1, 2):
                h = block(h, channels, f"down_{level}_{place}")
                skips.append(h)
        h = block(h, widths[-1], "bottom_1")
        # 17 joints have become 3 positions here by default, so that attention joins the whole body at little cost.
        h = PositionAttention(self.dtype, name="attention")(h)
        h = block(h, widths[-1], "bottom_2")
        # Two blocks of each resolution left an input here on the way down; the way up takes them from the last to the
        # first.
        for level in reversed(range(self.num_layers)):
            for place in (1, 2):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), widths[level], f"up_{level}_{place}")
            if level:
                h = Upsample(widths[level - 1], skips[-1].shape[1], self.dtype, name=f"double_{level}")(h)
        return Linear(5, dtype=self.dtype, name="output")(h).reshape(*leading, joints, 5).astype(jnp.float32)


class JointConv(nn.Module):
    """Convolution over three neighbouring joints, zero-padded: `[N, J, C] -> [N, J, features]`, as one product."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        windows = jnp.concatenate([padded[:, :-2], x, padded[:, 2:]], axis=-1)
        return Linear(self.features, dtype=self.dtype, name="taps")(windows)


class ResidualBlock(nn.Module):
    """Two normalised convolutions, the first scaled and shifted by the timestep `[N, E]`, with a skip connection."""

    features: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, step: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        modulation = Linear(2 * self.features, dtype=self.dtype, name="step")(jax.nn.silu(step))
        scale, shift = jnp.split(modulation[:, None], 2, axis=-1)
        h = _group_norm(self.dtype, "norm_1")(JointConv(self.features, self.dtype, name="conv_1")(x))
        h = Dropout(self.dropout, batch_axis=0, name="dropout")(
            jax.nn.silu(h * (1 + scale) + shift), index, train=train
        )
        h = jax.nn.silu(_group_norm(self.dtype, "norm_2")(JointConv(self.features, self.dtype, name="conv_2")(h)))
        if x.shape[-1] != self.features:
            x = Linear(self.features, dtype=self.dtype, name="skip")(x)
        return x + h


class PositionAttention(nn.Module):
    """Self-attention of four heads over the positions of `[N, L, C]`, normalised before, with a skip connection."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attention = nn.MultiHeadDotProductAttention(num_heads=4, dtype=self.dtype, name="heads")
        return x + attention(_group_norm(self.dtype, "norm")(x))


class Downsample(nn.Module):
    """Merge neighbouring positions in pairs: `[N, L, C] -> [N, ceil(L / 2), features]`."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # 17 joints have 9, 5 and 3 positions at the lower resolutions. A position of padding completes the last pair of
        # an odd number; on the way up it is cut off again.
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0)))
        return Linear(self.features, dtype=self.dtype, name="merge")(x.reshape(len(x), -1, 2 * x.shape[-1]))


class Upsample(nn.Module):
    """Split every position in two and keep the first `length`: `[N, L, C] -> [N, length, features]`."""

    features: int
    length: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Linear(2 * self.features, dtype=self.dtype, name="split")(x)
        return x.reshape(len(x), -1, self.features)[:, : self.length]


def _group_norm(dtype: DTypeLike, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=4, epsilon=1e-5, dtype=dtype, name=name)
