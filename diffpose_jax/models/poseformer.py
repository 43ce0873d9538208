"""PoseFormer: a transformer over the joints of each frame, then one over the frames, for the middle frame's pose."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm, TransformerBlock, list_drop_path_rates
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import Linear, add_bias
from diffpose_jax.models.mixste import mix_frames


class PoseFormer(nn.Module):
    """PoseFormer (Zheng et al., ICCV 2021), sequence to middle frame, as a lifter or as a denoiser.

    The spatial stage attends over the joints of each frame, `joint_width` channels a joint. Side by side, joint after
    joint, they are the `num_joints * joint_width` channels of a frame in the temporal stage, which attends over the
    frames. A learned weighted sum over the frames and a linear layer give the pose. As a denoiser (Diff3DHPE-P, Zhou
    et al. 2023) it also takes the noisy pose of the middle frame, repeated beside the keypoints of every frame.

    Attributes:
        frames: F, fixed by the position table.
        num_joints: J.
        joint_width: channels of a joint in the spatial stage.
        num_layers: transformer blocks of each stage.
        num_heads: heads of attention.
        mlp_ratio: width of a perceptron's hidden layer in units of the stage's channels.
        drop_path: stochastic depth of the last block of each stage; it rises from zero in equal steps.
        pde: graph-diffusion attention (Zhou et al. 2023), see `SelfAttention`.
        step: where a timestep enters: not at all, or in all 'blocks'. Our reading: no code was released for it.
        dtype: type computed in.
    """

    frames: int
    num_joints: int = 17
    joint_width: int = 32
    num_layers: int = 4
    num_heads: int = 8
    mlp_ratio: float = 2.0
    drop_path: float = 0.0
    pde: bool = False
    step: Literal["none", "blocks"] = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        k: jax.Array | None = None,
        *,
        train: bool,
        index: jax.Array | None = None,
        features: bool = False,
    ) -> jax.Array:
        """Lift, or predict what the denoiser is trained to predict.

        Args:
            x: keypoints `[B, F, J, 2]`, or with the noisy pose beside them `[B, F, J, 5]`.
            k: timestep, int32 `[B]` or a scalar for all; not used if `step` is 'none'.
            train: whether stochastic depth acts.
            index: index of each example `[B]`, from which its stochastic depth derives; by default its place in the
                batch.
            features: whether to return the normalised activations before the last linear layer, by joint,
                `[B, 1, J, joint_width]`, instead.

        Returns:
            The pose of the middle frame `[B, 1, J, 3]`, float32.
        """
        zeros, batch, frame_width = nn.initializers.zeros, len(x), self.num_joints * self.joint_width
        spatial_position = self.param("spatial_position", zeros, (self.num_joints, self.joint_width))
        temporal_position = self.param("temporal_position", zeros, (self.frames, frame_width))
        step = None
        # One embedding serves both stages; each block brings it to its own width.
        if self.step == "blocks":
            step = StepEmbedding(self.joint_width, 2 * self.joint_width, self.dtype, name="step")(k)

        x = Linear(self.joint_width, dtype=self.dtype, name="embed")(x)
        x = add_bias(x, spatial_position)
        x = self._apply_stage("spatial", x, step, train, index)
        # Joint after joint, as in the release: channel = joint * joint_width + channel of the joint.
        # One group per example, whose tokens are the frames: stochastic depth now drops whole examples, not frames.
        x = x.reshape(batch, 1, self.frames, frame_width)
        x = add_bias(x, temporal_position)
        x = self._apply_stage("temporal", x, step, train, index)

        x = mix_frames(Linear(1, dtype=self.dtype, name="frame_mix"), x[:, 0])
        x = LayerNorm(name="head_norm")(x)
        if features:
            return x.astype(jnp.float32).reshape(batch, 1, self.num_joints, self.joint_width)
        pose = Linear(3 * self.num_joints, dtype=self.dtype, name="output")(x)
        return pose.astype(jnp.float32).reshape(batch, 1, self.num_joints, 3)

    def _apply_stage(
        self, stage: str, x: jax.Array, step: jax.Array | None, train: bool, index: jax.Array | None
    ) -> jax.Array:
        for layer, drop_path in enumerate(list_drop_path_rates(self.drop_path, self.num_layers)):
            block = TransformerBlock(
                self.num_heads, self.mlp_ratio, drop_path, self.pde, dtype=self.dtype, name=f"{stage}_{layer}"
            )
            x = block(x, step, train=train, index=index)
        return LayerNorm(1e-6, name=f"{stage}_norm")(x)
