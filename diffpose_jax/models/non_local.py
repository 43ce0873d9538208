"""Non-local blocks (Wang et al. 2018): attention of every joint to every other. Joint-major, `[J, N, C]`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import KAIMING, Linear, add_bias, matmul
from diffpose_jax.models.normalisation import BatchNorm

Groups = tuple[tuple[int, ...], ...]

# Neighbouring joints that the pooled non-local block of the releases groups, by layout and in their order.
POOLING_GROUPS: dict[str, Groups] = {
    "h36m17": ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9, 10), (15, 16), (12, 13), (11, 14)),
    "h36m16": ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9), (14, 15), (11, 12), (10, 13)),
}


def pair_joints_release(groups: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Return the pairs that a max-pooling of window two pools when the joints of `groups` stand one after the other.

    An odd last joint is dropped, and after a group of three the pairs no longer match the groups: so in the releases
    that descend from SemGCN, for 17 joints.
    """
    order = [joint for group in groups for joint in group]
    return tuple(zip(order[::2], order[1::2], strict=False))


class EmbeddedGaussianNonLocal(nn.Module):
    """Non-local block with softmax attention without scaling over joints, `[J, N, C] -> [J, N, C]`.

    `y = x + BatchNorm(Linear(softmax_j(theta_i . phi_j) g_j))`, the embedded Gaussian of Wang et al. 2018, with theta,
    phi and g of C/2 channels. The scale of the normalisation starts at zero, so the block starts as the identity. Part
    of the modulated GCN's benchmark variant and of DiffuPose (Choi et al. 2023).
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        query, key, value = jnp.split(Linear(channels // 2 * 3, dtype=self.dtype, name="embed")(x), 3, axis=-1)
        scores = jnp.einsum("inc,jnc->nij", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = jnp.einsum("nij,jnc->inc", weights, value)
        y = Linear(channels, dtype=self.dtype, normalised=True, name="project")(y)
        zeros = nn.initializers.zeros
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)


class PooledEmbedding(nn.Module):
    """What the pooled non-local block takes of `x [J, N, C]`: `w . theta [J, N]`, and phi and g side by side.

    Theta, phi and g are linear maps to C/2 channels, stored as one. Theta itself is not computed:
    `w . (W^T x + b) = (W w) . x + b . w`, which is C products instead of C^2 / 2.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        channels, half = x.shape[-1], x.shape[-1] // 2
        kernel = self.param("kernel", KAIMING, (channels, 3 * half)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * half,))
        x = x.astype(self.dtype)
        scores = (x @ (kernel[:, :half] @ w) + jnp.vdot(bias[:half].astype(self.dtype), w))[..., 0]
        return scores, add_bias(matmul(x, kernel[:, half:]), bias[half:])


class PooledNonLocal(nn.Module):
    """Non-local block over joints with pooled keys and values, `[J, N, C] -> [J, N, C]`, as released for SemGCN.

    The score of joint i and group j is `relu(w . [theta_i, phi_j]) / number of groups`, the concatenation form of Wang
    et al. 2018 without softmax; phi and g are max-pooled over each group. It starts as the identity.

    Attributes:
        groups: disjoint sets of joints, all of the same size; a joint in none attends but is not attended to.
        axis_name: mapped axis of the devices, for the normalisation.
        dtype: type computed in.
    """

    groups: Groups
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels, zeros = x.shape[-1], nn.initializers.zeros
        # w . [theta_i, phi_j] = w_a . theta_i + w_b . phi_j: two vectors are computed and added crosswise, and neither
        # theta nor the tensor of all concatenated pairs [J, groups, N, C] is built.
        score = self.param("score", KAIMING, (channels, 1)).astype(self.dtype)
        own, embedded = PooledEmbedding(self.dtype, name="embed")(x, score[: channels // 2])
        firsts_to_lasts = (embedded[jnp.asarray(members)] for members in zip(*self.groups, strict=True))
        phi, g = jnp.split(functools.reduce(jnp.maximum, firsts_to_lasts), 2, axis=-1)
        other = (phi @ score[channels // 2 :])[..., 0]
        scores = jax.nn.relu(own[:, None] + other[None]) / len(self.groups)
        # A product of small matrices for every row would have to gather them first; sums need nothing to be moved.
        weighted = [scores[:, group, :, None] * g[group][None] for group in range(len(self.groups))]
        project = Linear(channels, KAIMING, zeros, self.dtype, normalised=True, name="project")
        y = project(functools.reduce(jnp.add, weighted))
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)
