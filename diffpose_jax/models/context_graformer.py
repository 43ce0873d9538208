"""GraFormer with a diffusion step that also reads the features of another network."""

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
    """A denoiser `(x [B, F, J, C], k, features [B, F, J, W]) -> [B, F, J, out]` (Gong et al. 2023: g(h_k, f_ST, k)).

    Features are normalised, projected to `feature_width` channels and concatenated to x; features None leaves them out.
    How the paper's network takes them is not published. `k` is int32, `[B]` or a scalar; `index [B]` names the examples
    for dropout.
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
        if features is not None:
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
