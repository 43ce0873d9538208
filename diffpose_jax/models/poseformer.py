"""PoseFormer: a transformer over the joints of each frame, then one over the frames, for the middle frame's pose."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm, TransformerBlock, drop_path_rates
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.mixste import mix_frames


class PoseFormer(nn.Module):
    """PoseFormer (Zheng et al., ICCV 2021), `x [B, F, J, C] -> [B, 1, J, 3]`, the pose of the middle frame.

    `joint_width` channels describe a joint in the spatial stage; side by side, joint after joint, they are the
    `num_joints * joint_width` channels of a frame in the temporal one. Each stage has `num_layers` blocks.

    As a denoiser (Zhou et al. 2023) it takes x with the noisy middle pose beside the keypoints of every frame, and the
    diffusion step `k`, int32 `[B]` or a scalar, which `step='blocks'` adds to the tokens of every block; `pde` is their
    graph-diffusion attention. No code of theirs was released for this network: where the step enters is our reading.

    `index [B]` is the identity of each example, from which its stochastic depth derives. `features` asks for the
    normalised activations before the last linear layer, by joint, `[B, 1, J, joint_width]`, instead of the pose.
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
        zeros, batch, frame_width = nn.initializers.zeros, len(x), self.num_joints * self.joint_width
        spatial_position = self.param("spatial_position", zeros, (self.num_joints, self.joint_width))
        temporal_position = self.param("temporal_position", zeros, (self.frames, frame_width))
        step = None
        if self.step == "blocks":
            step = StepEmbedding(self.joint_width, 2 * self.joint_width, self.dtype, name="step")(k)

        x = Linear(self.joint_width, dtype=self.dtype, name="embed")(x)
        x = x + spatial_position.astype(self.dtype)[None, None]
        x = self._stage("spatial", x, step, train, index)
        x = x.reshape(batch, 1, self.frames, frame_width)
        x = x + temporal_position.astype(self.dtype)[None, None]
        x = self._stage("temporal", x, step, train, index)

        x = mix_frames(Linear(1, dtype=self.dtype, name="frame_mix"), x[:, 0])
        x = LayerNorm(name="head_norm")(x)
        if features:
            return x.astype(jnp.float32).reshape(batch, 1, self.num_joints, self.joint_width)
        pose = Linear(3 * self.num_joints, dtype=self.dtype, name="output")(x)
        return pose.astype(jnp.float32).reshape(batch, 1, self.num_joints, 3)

    def _stage(
        self, stage: str, x: jax.Array, step: jax.Array | None, train: bool, index: jax.Array | None
    ) -> jax.Array:
        for layer, drop_path in enumerate(drop_path_rates(self.drop_path, self.num_layers)):
            block = TransformerBlock(
                self.num_heads, self.mlp_ratio, drop_path, self.pde, dtype=self.dtype, name=f"{stage}_{layer}"
            )
            x = block(x, step, train=train, index=index)
        return LayerNorm(1e-6, name=f"{stage}_norm")(x)
