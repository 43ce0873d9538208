"""MixSTE: transformer blocks that attend over the joints of a frame and over the frames of a joint by turns."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm, TransformerBlock, drop_path_rates, to_tokens
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import Linear

StepInput = Literal["none", "once", "blocks"]


class MixSTE(nn.Module):
    """MixSTE (Zhang et al., CVPR 2022), `x [B, F, J, C] -> [B, F, J, out_channels]`.

    F = `frames` and J = `num_joints` are fixed by the position tables; `num_layers` counts pairs of a spatial and a
    temporal block. One normalisation follows all spatial blocks and one all temporal blocks.

    As a denoiser it also takes the diffusion step `k`, int32 `[B]` or a scalar: with `step='once'` its embedding is
    added to the tokens before the first block (Shan et al. 2023), with 'blocks' to those of every block (Zhou et al.
    2023). `pde` is their graph-diffusion attention. `middle_frame` mixes the frames into one before the head by learned
    weights, as their released sequence-to-frame variant does: the result is `[B, 1, J, out_channels]`.

    `index [B]` is the identity of each example, from which its stochastic depth derives. `features` asks for the
    normalised activations before the last linear layer, `[B, F, J, width]`, instead of the result.
    """

    frames: int
    num_joints: int = 17
    width: int = 512
    num_layers: int = 8
    num_heads: int = 8
    mlp_ratio: float = 2.0
    drop_path: float = 0.0
    out_channels: int = 3
    pde: bool = False
    step: StepInput = "none"
    middle_frame: bool = False
    epsilon: float = 1e-6
    head_epsilon: float = 1e-5
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
        zeros = nn.initializers.zeros
        spatial_position = self.param("spatial_position", zeros, (self.num_joints, self.width))
        temporal_position = self.param("temporal_position", zeros, (self.frames, self.width))
        spatial_norm = LayerNorm(self.epsilon, name="spatial_norm")
        temporal_norm = LayerNorm(self.epsilon, name="temporal_norm")

        x = Linear(self.width, dtype=self.dtype, name="embed")(x)
        x = x + spatial_position.astype(self.dtype)[None, None]
        step = self._embed_step(k)
        if self.step == "once":
            x, step = x + to_tokens(step), None
        for layer, drop_path in enumerate(drop_path_rates(self.drop_path, self.num_layers)):
            options = (self.num_heads, self.mlp_ratio, drop_path, self.pde, self.epsilon, self.dtype)
            x = spatial_norm(TransformerBlock(*options, name=f"spatial_{layer}")(x, step, train=train, index=index))
            x = jnp.swapaxes(x, 1, 2)
            if layer == 0:
                x = x + temporal_position.astype(self.dtype)[None, None]
            x = temporal_norm(TransformerBlock(*options, name=f"temporal_{layer}")(x, step, train=train, index=index))
            x = jnp.swapaxes(x, 1, 2)

        if self.middle_frame:
            x = mix_frames(Linear(1, dtype=self.dtype, name="frame_mix"), x)
        x = LayerNorm(self.head_epsilon, name="head_norm")(x)
        if features:
            return x.astype(jnp.float32)
        return Linear(self.out_channels, dtype=self.dtype, name="output")(x).astype(jnp.float32)

    def _embed_step(self, k: jax.Array | None) -> jax.Array | None:
        if self.step == "none":
            return None
        features = self.width if self.step == "once" else 2 * self.width
        return StepEmbedding(self.width, features, self.dtype, hidden_features=2 * self.width, name="step")(k)


def mix_frames(layer: Linear, x: jax.Array) -> jax.Array:
    """Sum the frames of `x [B, F, ...]` with the weights of a linear layer `[F] -> [1]`, giving `[B, 1, ...]`."""
    return jnp.moveaxis(layer(jnp.moveaxis(x, 1, -1)), -1, 1)
