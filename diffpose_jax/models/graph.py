"""Modulated graph convolution and the two non-local blocks over joints.

Everything here is joint-major, `[J, N, C]` with N = batch x frames: then mixing channels is one product
`[J N, C] @ [C, D]` and mixing joints is one product `[J, J] @ [J, N D]`, without a transposition between them.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import Linear, matmul, uniform_within
from diffpose_jax.models.normalisation import BatchNorm
from diffpose_jax.skeleton import Skeleton

ModulationInit = Literal["ones", "xavier"]
GAIN = 1.414  # the releases' Xavier gain, a rounded sqrt(2)


def affinity(adjacency: np.ndarray) -> np.ndarray:
    """Return the fixed affinity `[J, J]` of a binary `adjacency [J, J]`: rows divided by their degree, unit diagonal."""
    normalised = adjacency / adjacency.sum(axis=1, keepdims=True)
    np.fill_diagonal(normalised, 1)
    return normalised.astype(np.float32)


def modulated_graph_conv(x: jax.Array, weight: jax.Array, modulation: jax.Array, mixing: jax.Array) -> jax.Array:
    """Mix channels, then joints, of `x [J, N, C]`, giving `[J, N, D]`.

    `diag(mixing) @ (M * (x @ W[0])) + offdiag(mixing) @ (M * (x @ W[1]))` with `weight` W `[2, C, D]`, `modulation` M
    `[J, D]` of the source joint and `mixing [J, J]` (Zou & Tang 2021, eq. 8, as released).
    """
    joints, features = modulation.shape
    both = matmul(x, jnp.concatenate([weight[0], weight[1]], axis=1))
    own, neighbour = jnp.split(both * jnp.tile(modulation, 2)[:, None], 2, axis=-1)
    diagonal = jnp.diagonal(mixing)
    rest = mixing - jnp.diag(diagonal)
    mixed = (rest @ neighbour.reshape(joints, -1)).reshape(joints, -1, features)
    return diagonal[:, None, None] * own + mixed


class ModulatedGraphConv(nn.Module):
    """Modulated graph convolution `[J, N, C] -> [J, N, features]` (Zou & Tang, ICCV 2021).

    The affinity is the skeleton's plus a learned matrix, symmetrised after the sum. `modulation` says how the weight
    modulation starts: at one (the authors' ground-truth variant) or Xavier-uniform (their benchmark variant).
    """

    features: int
    skeleton: Skeleton
    modulation: ModulationInit = "xavier"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, features, channels = self.skeleton.num_joints, self.features, x.shape[-1]
        # The releases' Xavier rule sees the third axis of W as a receptive field: the fans are C D and 2 D.
        weight_bound = GAIN * math.sqrt(6 / (channels * features + 2 * features))
        modulation_bound = GAIN * math.sqrt(6 / (joints + features))
        modulation_init = nn.initializers.ones if self.modulation == "ones" else uniform_within(modulation_bound)
        weight = self.param("weight", uniform_within(weight_bound), (2, channels, features))
        modulation = self.param("modulation", modulation_init, (joints, features))
        learned = self.param("affinity", nn.initializers.constant(1e-6), (joints, joints))
        bias = self.param("bias", uniform_within(1 / math.sqrt(features)), (features,))
        mixing = affinity(self.skeleton.adjacency()) + learned
        mixing = (mixing + mixing.T) / 2
        y = modulated_graph_conv(*(array.astype(self.dtype) for array in (x, weight, modulation, mixing)))
        return y + bias.astype(self.dtype)[None, None]


class EmbeddedGaussianNonLocal(nn.Module):
    """Non-local block over joints, `[J, N, C] -> [J, N, C]`: softmax attention without scaling, C/2 channels.

    Its last normalisation starts at zero, so it is the identity at first. Used by the benchmark variant of the
    modulated GCN and by DiffuPose.
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        query, key, value = jnp.split(Linear(channels // 2 * 3, dtype=self.dtype, name="embed")(x), 3, axis=-1)
        scores = jnp.einsum("inc,jnc->nij", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = Linear(channels, dtype=self.dtype, name="project")(jnp.einsum("nij,jnc->inc", weights, value))
        zeros = nn.initializers.zeros
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)


class PooledNonLocal(nn.Module):
    """Non-local block over joints with pooled keys, `[J, N, C] -> [J, N, C]` (the released `--non_local` option).

    `groups` partitions the joints into sets of equal size. Score of joint i and group j: relu(w_a . theta_i + w_b .
    phi_j), computed separably, divided by the number of groups; phi and g are max-pooled over each group.
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
        y = Linear(channels, **init, name="project")(jnp.einsum("ijn,jnc->inc", scores, g))
        zeros = nn.initializers.zeros
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)
