"""A transformer whose tokens are frames: all joints of a frame, or of a few, are one vector, attention is over time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm, TransformerBlock, list_drop_path_rates
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import Linear, add_bias
from diffpose_jax.models.residual_mlp import SMALL


class FrameTransformer(nn.Module):
    """Poses of a sequence with one token per frame, where MixSTE has one per joint and frame.

    What a window costs does not grow with the joints: at equal width and depth a seventeenth of MixSTE's products, so
    that a network of twice the width and hundreds of thousands of windows an hour fit one CPU core. Poses change little
    within a few hundredths of a second: a token of several frames (`frames_per_token`, the patches of vision
    transformers in time) divides the cost again.

    Attributes:
        num_joints: J.
        frames: F, for which there are learned positions.
        frames_per_token: consecutive frames whose joints are one token; F is a multiple of it.
        width: channels of a frame.
        num_layers: blocks of attention over frames.
        num_heads: heads of attention.
        mlp_ratio: width of a block's hidden layer over its own.
        drop_path: rate at which the last block is dropped; it grows linearly from 0.
        pde: graph-diffusion attention, see `attention.SelfAttention`.
        step: whether the blocks are told the timestep ('blocks') or not ('none').
        dtype: type computed in.
    """

    num_joints: int = 17
    frames: int = 27
    frames_per_token: int = 1
    width: int = 256
    num_layers: int = 4
    num_heads: int = 8
    mlp_ratio: float = 2.0
    drop_path: float = 0.0
    pde: bool = False
    step: str = "blocks"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, k: jax.Array | None = None, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        """Predict poses.

        Args:
            x: keypoints and noisy poses `[B, F, J, C]`.
            k: timestep, int32 `[B]` or a scalar for all; None where the blocks are not told.
            train: whether stochastic depth acts.
            index: index of each example `[B]`, from which its draws derive; by default its place in the batch.

        Returns:
            Poses `[B, F, J, 3]`, float32.
        """
        batch, frames, joints = x.shape[:3]
        count = frames // self.frames_per_token
        # One group of tokens per example: all joints and channels of a token's frames, frame after frame, are one
        # vector.
        tokens = Linear(self.width, dtype=self.dtype, name="input")(x.reshape(batch, 1, count, -1))
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (self.frames // self.frames_per_token, self.width)
        )
        tokens = add_bias(tokens, positions[:count])
        step = StepEmbedding(self.width, self.width, self.dtype, name="step")(k) if self.step != "none" else None
        for layer, rate in enumerate(list_drop_path_rates(self.drop_path, self.num_layers)):
            block = TransformerBlock(
                self.num_heads, self.mlp_ratio, rate, self.pde, dtype=self.dtype, name=f"block_{layer}"
            )
            tokens = block(tokens, step, train=train, index=index)
        outputs = 3 * joints * self.frames_per_token
        poses = Linear(outputs, SMALL, dtype=self.dtype, name="output")(LayerNorm(name="norm")(tokens))
        return poses.astype(jnp.float32).reshape(batch, frames, joints, 3)
