"""MixSTE: transformer blocks that attend over the joints of a frame and over the frames of a joint, by turns."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm, TransformerBlock, expand_to_tokens, list_drop_path_rates
from diffpose_jax.models.embeddings import StepEmbedding
from diffpose_jax.models.linear import Linear, add_bias

StepInput = Literal["none", "once", "blocks"]


class MixSTE(nn.Module):
    """MixSTE (Zhang et al., CVPR 2022), sequence to sequence, as a lifter or as a denoiser.

    A token is one joint in one frame. Spatial blocks attend over the J joints of a frame, temporal blocks over the F
    frames of a joint, by turns; one layer normalisation, shared by all spatial blocks, follows each of them, another
    one each temporal block.

    Attributes:
        frames: F, fixed by the position table.
        num_joints: J, fixed by the position table.
        width: channels of a token.
        num_layers: pairs of a spatial and a temporal block.
        num_heads: heads of attention.
        mlp_ratio: width of a perceptron's hidden layer in units of `width`.
        drop_path: stochastic depth of the last pair; it rises from zero in equal steps.
        out_channels: channels of the result.
        pde: graph-diffusion attention (Zhou et al. 2023), see `SelfAttention`.
        step: where a timestep enters: not at all; 'once', added to the tokens before the first block (D3DP, Shan et al.
            2023); or in all 'blocks' (Diff3DHPE, Zhou et al. 2023).
        middle_frame: mix the frames into one by learned weights before the head, as Diff3DHPE's released
            sequence-to-frame variant does.
        epsilon: of all normalisations but the head's.
        head_epsilon: of the head's normalisation.
        dtype: type computed in.
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
        """Lift, or predict what the denoiser is trained to predict.

        Args:
            x: keypoints `[B, F, J, 2]`, or with the noisy pose beside them `[B, F, J, 5]`.
            k: timestep, int32 `[B]` or a scalar for all; not used if `step` is 'none'.
            train: whether stochastic depth acts.
            index: index of each example `[B]`, from which its stochastic depth derives; by default its place in the
                batch.
            features: whether to return the normalised activations before the last linear layer `[B, F, J, width]`
                instead.

        Returns:
            `[B, F, J, out_channels]`, with one frame if `middle_frame`, float32.
        """
        # Tables of positions start at zero, as in the release: at first joints and frames are told apart by their
        # content alone.
        zeros = nn.initializers.zeros
        spatial_position = self.param("spatial_position", zeros, (self.num_joints, self.width))
        temporal_position = self.param("temporal_position", zeros, (self.frames, self.width))
        x = Linear(self.width, dtype=self.dtype, name="embed")(x)
        x = add_bias(x, spatial_position)
        step = None
        if self.step == "once":
            x = x + expand_to_tokens(self._embed_step(k, self.width))
        elif self.step == "blocks":
            step = self._embed_step(k, 2 * self.width)
        x = self._alternate(x, temporal_position, step, train, index)
        if self.middle_frame:
            x = mix_frames(Linear(1, dtype=self.dtype, name="frame_mix"), x)
        x = LayerNorm(self.head_epsilon, name="head_norm")(x)
        if features:
            return x.astype(jnp.float32)
        return Linear(self.out_channels, dtype=self.dtype, name="output")(x).astype(jnp.float32)

    def _alternate(
        self, x: jax.Array, temporal_position: jax.Array, step: jax.Array | None, train: bool, index: jax.Array | None
    ) -> jax.Array:
        spatial_norm = LayerNorm(self.epsilon, name="spatial_norm")
        temporal_norm = LayerNorm(self.epsilon, name="temporal_norm")
        # Blocks see [B, groups, tokens, C]: frames and joints swap these two roles after every block. A block's own
        # normalisations come before its branches, so its sum is not normalised; the shared ones are applied to that sum
        # and renew the scale of the residual stream after every block. Positions are added once, each before the first
        # block that attends over them.
        for layer, drop_path in enumerate(list_drop_path_rates(self.drop_path, self.num_layers)):
            options = (self.num_heads, self.mlp_ratio, drop_path, self.pde, self.epsilon, self.dtype)
            x = spatial_norm(TransformerBlock(*options, name=f"spatial_{layer}")(x, step, train=train, index=index))
            x = jnp.swapaxes(x, 1, 2)
            if layer == 0:
                x = add_bias(x, temporal_position)
            x = temporal_norm(TransformerBlock(*options, name=f"temporal_{layer}")(x, step, train=train, index=index))
            x = jnp.swapaxes(x, 1, 2)
        return x

    def _embed_step(self, k: jax.Array | None, features: int) -> jax.Array:
        return StepEmbedding(self.width, features, self.dtype, hidden_features=2 * self.width, name="step")(k)


def mix_frames(layer: Linear, x: jax.Array) -> jax.Array:
    """Sum the frames of `x [B, F, ...]` with the weights of a linear layer `[F] -> [1]`, giving `[B, 1, ...]`."""
    # The weights are free: neither positive nor of the sum 1, and drawn at random at first, as in the releases of
    # PoseFormer and Diff3DHPE. One bias serves all channels.
    return jnp.moveaxis(layer(jnp.moveaxis(x, 1, -1)), -1, 1)
