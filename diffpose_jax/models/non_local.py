"""Non-local blocks: attention of every joint to every other, as graph networks use it. Joint-major, `[J, N, C]`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import Linear
from diffpose_jax.models.normalisation import BatchNorm


def pooled_pairs(groups: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Return what a max-pooling of two pools when it runs over the joints of `groups`, written one after the other.

    An odd last joint is dropped, and after a group of three pairs no longer match the groups: so in the releases of
    SemGCN's descendants for 17 joints.
    """
    order = [joint for group in groups for joint in group]
    return tuple(zip(order[::2], order[1::2], strict=False))


class EmbeddedGaussianNonLocal(nn.Module):
    """Non-local block over joints, `[J, N, C] -> [J, N, C]`: softmax attention without scaling, C/2 channels.

    Its last normalisation starts at zero, so it is the identity at first. Used by the benchmark variant of the
    modulated GCN and by Choi et al. 2023.
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        query, key, value = jnp.split(Linear(channels // 2 * 3, dtype=self.dtype, name="embed")(x), 3, axis=-1)
        scores = jnp.einsum("inc,jnc->nij", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = Linear(channels, dtype=self.dtype, normalised=True, name="project")(
            jnp.einsum("nij,jnc->inc", weights, value)
        )
        zeros = nn.initializers.zeros
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)


class PooledNonLocal(nn.Module):
    """Non-local block over joints with pooled keys, `[J, N, C] -> [J, N, C]` (the released `--non_local` option).

    `groups` are sets of joints of equal size, disjoint; a joint in none is a query only. Score of joint i and group j:
    relu(w_a . theta_i + w_b . phi_j), computed separably, divided by the number of groups; phi and g are max-pooled
    over each group.
    """

    groups: tuple[tuple[int, ...], ...]
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        init = {"kernel_init": kaiming, "bias_init": nn.initializers.zeros, "dtype": self.dtype}
        theta, phi, g = jnp.split(Linear(channels // 2 * 3, **init, name="embed")(x), 3, axis=-1)
        members = jnp.asarray(self.groups)
        phi, g = phi[members].max(axis=1), g[members].max(axis=1)
        score = self.param("score", kaiming, (channels, 1)).astype(self.dtype)
        own, other = theta @ score[: channels // 2, 0], phi @ score[channels // 2 :, 0]
        scores = jax.nn.relu(own[:, None] + other[None]) / len(self.groups)
        y = Linear(channels, **init, normalised=True, name="project")(jnp.einsum("ijn,jnc->inc", scores, g))
        zeros = nn.initializers.zeros
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)
