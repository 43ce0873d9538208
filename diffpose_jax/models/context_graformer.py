"""The denoiser of DiffPose: GraFormer with a timestep and the features of a context encoder as further input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.linear import Linear
from diffpose_jax.skeleton import Skeleton


class ContextGraFormer(nn.Module):
    """DiffPose's denoiser g(h_k, f_ST, k) (Gong et al., CVPR 2023), `[B, F, J, C] -> [B, F, J, out_channels]`.

    The features f_ST of the context encoder are normalised, projected to `feature_width` channels and concatenated to
    the noisy pose h_k. How the paper's network takes them is not published; the release ignores them.

    Attributes:
        skeleton: joints and the graph of the convolutions.
        width: channels of the hidden layers, a multiple of twice the heads.
        num_layers: pairs of an attention layer and a block of two convolutions.
        num_heads: heads of attention.
        feature_width: channels to which the features are projected.
        out_channels: channels of the result.
        dropout: dropout rate of the sub-layers of attention.
        dtype: type computed in.
    """

    skeleton: Skeleton
    width: int = 96
    num_layers: int = 5
    num_heads: int = 4
    feature_width: int = 32
    out_channels: int = 3
    dropout: float = 0.25
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        k: jax.Array,
        features: jax.Array | None = None,
        *,
        train: bool,
        index: jax.Array | None = None,
    ) -> jax.Array:
        """Predict what the denoiser is trained to predict.

        Args:
            x: noisy poses `[B, F, J, C]`.
            k: timestep, int32 `[B]` or a scalar for all.
            features: features of the context encoder `[B, F, J, W]`; None leaves them out.
            train: whether dropout acts.
            index: index of each example `[B]`, from which its dropout masks derive; by default its place in the batch.

        Returns:
            `[B, F, J, out_channels]`, float32.
        """
        if features is not None:
            # Any lifter may be the context, with features of any scale.
            features = LayerNorm(name="feature_norm")(features.astype(jnp.float32))
            features = Linear(self.feature_width, dtype=self.dtype, name="features")(features)
            x = jnp.concatenate([x, features.astype(x.dtype)], axis=-1)
        network = GraFormer(
            self.skeleton,
            self.width,
            self.num_layers,
            self.num_heads,
            self.out_channels,
            self.dropout,
            step=True,
            dtype=self.dtype,
            name="graformer",
        )
        return network(x, k, train=train, index=index)
