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

from diffpose_jax.models.linear import Linear, uniform_within
from diffpose_jax.models.normalisation import BatchNorm
from diffpose_jax.skeleton import Skeleton

ModulationInit = Literal["ones", "xavier"]
GAIN = 1.414  # the releases' Xavier gain, a rounded sqrt(2)


def affinity(adjacency: np.ndarray) -> np.ndarray:
    """Return the fixed affinity `[J, J]` of a binary `adjacency [J, J]`: rows over their degree, then unit diagonal."""
    normalised = adjacency / adjacency.sum(axis=1, keepdims=True)
    np.fill_diagonal(normalised, 1)
    return normalised.astype(np.float32)


@jax.custom_vjp
def modulated_graph_conv(x: jax.Array, weight: jax.Array, modulation: jax.Array, mixing: jax.Array) -> jax.Array:
    """Mix channels, then joints, of `x [J, N, C]`, giving `[J, N, D]`.

    `diag(mixing) @ (M * (x @ W[0])) + offdiag(mixing) @ (M * (x @ W[1]))` with `weight` W `[2, C, D]`, `modulation` M
    `[J, D]` of the source joint and `mixing [J, J]` (Zou & Tang 2021, as released). The backward pass is owned: it
    transposes no activation, which makes a training step on CPU 5-10 % faster. Sampling is 5 % faster with one product
    for both W, training with two, which leave nothing to split and join; hence the two forward formulas.
    """
    joints, features = modulation.shape
    kernel = jnp.concatenate([weight[0], weight[1]], axis=1)
    both = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(joints, -1, 2 * features)
    own, neighbour = jnp.split(both * jnp.tile(modulation, 2)[:, None], 2, axis=-1)
    diagonal, rest = _split_diagonal(mixing)
    mixed = rest @ neighbour.reshape(joints, -1)
    return diagonal[:, None, None] * own + mixed.reshape(own.shape)


def _graph_conv_forward(
    x: jax.Array, weight: jax.Array, modulation: jax.Array, mixing: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    joints, features = modulation.shape
    rows = x.reshape(-1, x.shape[-1])
    own = (rows @ weight[0]).reshape(joints, -1, features)
    neighbour = (rows @ weight[1]).reshape(joints, -1, features)
    diagonal, rest = _split_diagonal(mixing)
    mixed = rest @ (neighbour * modulation[:, None]).reshape(joints, -1)
    out = (diagonal[:, None] * modulation)[:, None] * own + mixed.reshape(own.shape)
    return out, (x, weight, modulation, mixing, own, neighbour)


def _graph_conv_backward(saved: tuple[jax.Array, ...], grad: jax.Array) -> tuple[jax.Array, ...]:
    x, weight, modulation, mixing, own, neighbour = saved
    joints, features = modulation.shape
    rows, flat = x.reshape(-1, x.shape[-1]), grad.reshape(joints, -1)
    diagonal, rest = _split_diagonal(mixing)
    gathered = (rest.T @ flat).reshape(grad.shape)
    grad_own, grad_neighbour = (grad * own).sum(axis=1), (gathered * neighbour).sum(axis=1)
    grad_modulation = diagonal[:, None] * grad_own + grad_neighbour
    grad_rest = flat @ (neighbour * modulation[:, None]).reshape(joints, -1).T
    grad_diagonal = (modulation * grad_own).sum(axis=1)
    grad_mixing = jnp.where(jnp.eye(joints, dtype=bool), grad_diagonal[:, None], grad_rest)
    own_rows = (grad * (diagonal[:, None] * modulation)[:, None]).reshape(-1, features)
    neighbour_rows = (gathered * modulation[:, None]).reshape(-1, features)
    grad_x = own_rows @ weight[0].T + neighbour_rows @ weight[1].T
    grad_weight = jnp.stack([rows.T @ own_rows, rows.T @ neighbour_rows])
    return grad_x.reshape(x.shape), grad_weight, grad_modulation, grad_mixing


modulated_graph_conv.defvjp(_graph_conv_forward, _graph_conv_backward)


def _split_diagonal(mixing: jax.Array) -> tuple[jax.Array, jax.Array]:
    diagonal = jnp.diagonal(mixing)
    return diagonal, mixing - jnp.diag(diagonal)


class ModulatedGraphConv(nn.Module):
    """Modulated graph convolution `[J, N, C] -> [J, N, features]` (Zou & Tang, ICCV 2021).

    The affinity is the skeleton's plus a learned matrix, symmetrised after the sum. `modulation` says how the weight
    modulation starts: at one (the authors' ground-truth variant) or Xavier-uniform (their benchmark variant).

    `normalised` says that a batch normalisation follows, which takes the bias away: its gradient is then exactly zero
    instead of rounding noise, which Adam would blow up to full steps that differ from machine to machine.
    """

    features: int
    skeleton: Skeleton
    modulation: ModulationInit = "xavier"
    dtype: DTypeLike = jnp.float32
    normalised: bool = False

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
        if self.normalised:
            bias = jax.lax.stop_gradient(bias)
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
        y = Linear(channels, dtype=self.dtype, normalised=True, name="project")(
            jnp.einsum("nij,jnc->inc", weights, value)
        )
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
        y = Linear(channels, **init, normalised=True, name="project")(jnp.einsum("ijn,jnc->inc", scores, g))
        zeros = nn.initializers.zeros
        return x + BatchNorm(self.axis_name, scale_init=zeros, dtype=self.dtype, name="norm")(y, train=train)
