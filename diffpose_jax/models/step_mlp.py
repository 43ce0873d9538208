"""The residual MLP as a denoiser: the coordinates of a noisy pose and of its keypoints through linear layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import KAIMING, Linear
from diffpose_jax.models.normalisation import Dropout, index_rows
from diffpose_jax.models.residual_mlp import SMALL
from diffpose_jax.skeleton import Skeleton


class StepResidualMLP(nn.Module):
    """The residual MLP of Martinez et al. (ICCV 2017) conditioned on the timestep, in place of a graph network.

    Every block normalises its input, scales and shifts it by the timestep, and adds what two linear layers make of it.
    A training step costs a fifteenth of the modulated GCN's of width 128. Frames are independent.

    Attributes:
        skeleton: joints, all coordinates of which are one vector.
        width: channels of the hidden layers.
        num_layers: residual blocks.
        dropout: dropout rate of every block.
        axis_name: not used: nothing is normalised over the batch.
        dtype: type computed in.
    """

    skeleton: Skeleton
    width: int = 512
    num_layers: int = 4
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, cond: jax.Array, k: jax.Array, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        """Predict the noise, and reconstruct the keypoints, as the other denoisers of DiffuPose do.

        Args:
            x: noisy poses `[B, F, J, 3]`.
            cond: keypoints `[B, F, J, 2]`, or with a channel that says which were seen `[B, F, J, 3]`.
            k: timestep, int32 `[B]` or a scalar for all.
            train: whether dropout acts.
            index: index of each example `[B]`, from which its dropout masks derive; by default its place in the batch.

        Returns:
            `[B, F, J, 5]`, float32: predicted noise in channels 0-2, reconstructed keypoints in 3-4.
        """
        leading, joints = x.shape[:-2], x.shape[-2]
        index = index_rows(index, leading)
        step = StepEmbedding(max(4, self.width // 8), max(4, self.width // 4), self.dtype, name="step")(k)
        step = jnp.repeat(step, leading[1], axis=0) if k.ndim else step[None]
        rows = [part.reshape(-1, joints * part.shape[-1]) for part in (x, cond)]
        # Two kernels instead of one of both inputs: what the keypoints add is the same in every step of sampling.
        hidden = Linear(self.width, KAIMING, None, self.dtype, name="pose")(rows[0])
        hidden = hidden + Linear(self.width, KAIMING, None, self.dtype, name="keypoints")(rows[1])
        for layer in range(self.num_layers):
            block = StepBlock(self.width, self.dropout, self.dtype, name=f"block_{layer}")
            hidden = hidden + block(hidden, step, index, train=train)
        output = Linear(5 * joints, SMALL, dtype=self.dtype, name="output")(LayerNorm(name="norm")(hidden))
        return output.astype(jnp.float32).reshape(*leading, joints, 5)


class StepBlock(nn.Module):
    """Layer normalisation, scale and shift by the timestep, two linear layers: `[N, C] -> [N, C]`.

    The timestep's embedding is one per row, `[N, E]`, or one for all, `[1, E]`.
    """

    features: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, step: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        modulation = Linear(2 * self.features, SMALL, dtype=self.dtype, name="modulation")(jax.nn.silu(step))
        # Adaptive layer normalisation. The modulation starts small, so that a block first works alike at all timesteps.
        scale, shift = jnp.split(modulation, 2, axis=-1)
        hidden = LayerNorm(name="norm")(x) * (1 + scale) + shift
        hidden = jax.nn.relu(Linear(self.features, KAIMING, None, self.dtype, name="linear_1")(hidden))
        hidden = Dropout(self.dropout, batch_axis=0, name="dropout")(hidden, index, train=train)
        return Linear(self.features, KAIMING, None, self.dtype, name="linear_2")(jax.nn.relu(hidden))
