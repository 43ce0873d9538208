"""Graph convolutions over joints.

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

from diffpose_jax.models.linear import matmul, uniform_within
from diffpose_jax.skeleton import Skeleton

ModulationInit = Literal["ones", "xavier"]
GAIN = 1.414  # the releases' Xavier gain, a rounded sqrt(2)


def affinity(adjacency: np.ndarray) -> np.ndarray:
    """Return the fixed affinity `[J, J]` of a binary `adjacency [J, J]`: rows over their degree, then unit diagonal."""
    normalised = adjacency / adjacency.sum(axis=1, keepdims=True)
    np.fill_diagonal(normalised, 1)
    return normalised.astype(np.float32)


def row_stochastic(adjacency: np.ndarray) -> np.ndarray:
    """Return a binary `adjacency [J, J]` with self-loops, each row divided by its sum; not symmetric, float32."""
    looped = adjacency + np.eye(len(adjacency), dtype=np.float32)
    return (looped / looped.sum(axis=1, keepdims=True)).astype(np.float32)


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


class PreAggregatedGraphConv(nn.Module):
    """Graph convolution with matrices of its own for every joint, `[J, N, C] -> [J, N, features]`.

    Each source joint's values are transformed, by one matrix for its own node and one for its neighbours, before the
    nodes gather them with the row-stochastic graph ("pre-aggregation", Liu et al., ECCV 2020). As products batched over
    joints. `normalised` as in `ModulatedGraphConv`.
    """

    features: int
    skeleton: Skeleton
    dtype: DTypeLike = jnp.float32
    normalised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, features, channels = self.skeleton.num_joints, self.features, x.shape[-1]
        # Xavier again, of a tensor whose joints and inputs the release's rule takes for a receptive field.
        bound = GAIN * math.sqrt(6 / ((joints + 2) * channels * features))
        weight = self.param("weight", uniform_within(bound), (2, joints, channels, features)).astype(self.dtype)
        bias = self.param("bias", uniform_within(1 / math.sqrt(channels)), (features,))
        if self.normalised:
            bias = jax.lax.stop_gradient(bias)
        diagonal, rest = _split_diagonal(jnp.asarray(row_stochastic(self.skeleton.adjacency()), self.dtype))
        x = x.astype(self.dtype)
        own = jnp.matmul(x, weight[0] * diagonal[:, None, None])
        neighbour = jnp.matmul(x, weight[1])
        mixed = (rest @ neighbour.reshape(joints, -1)).reshape(own.shape)
        return own + mixed + bias.astype(self.dtype)[None, None]


def chebyshev_basis(adjacency: np.ndarray) -> np.ndarray:
    """Return T0 = I, T1 = L and T2 = 2 L L - I, `[3, J, J]`, of `L = I - row_stochastic(adjacency)`.

    L is not rescaled to [-1, 1], as in the releases of GraFormer (Zhao et al., CVPR 2022).
    """
    identity = np.eye(len(adjacency), dtype=np.float32)
    laplacian = identity - row_stochastic(adjacency)
    return np.stack([identity, laplacian, 2 * laplacian @ laplacian - identity])


class ChebyshevConv(nn.Module):
    """Chebyshev graph convolution of order two, `[J, N, C] -> [J, N, features]`: `sum_k T_k x W_k + b`.

    The weights `[3, C, features]` start as the release's: Xavier-normal over all three at once, which is narrow.
    """

    features: int
    skeleton: Skeleton
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, channels = x.shape[0], x.shape[-1]
        deviation = math.sqrt(1 / (2 * channels * self.features))
        weight = self.param("weight", nn.initializers.normal(deviation), (3, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        basis = jnp.asarray(chebyshev_basis(self.skeleton.adjacency()), self.dtype)
        x, weight = x.astype(self.dtype), weight.astype(self.dtype)
        if channels <= self.features:
            mixed = mix_joints(basis[1:].reshape(-1, joints), x).reshape(2, *x.shape)
            y = matmul(x, weight[0]) + matmul(mixed[0], weight[1]) + matmul(mixed[1], weight[2])
        else:
            parts = [matmul(x, kernel) for kernel in weight]
            y = parts[0] + mix_joints(basis[1], parts[1]) + mix_joints(basis[2], parts[2])
        return y + bias.astype(self.dtype)[None, None]


def mix_joints(mixing: jax.Array, x: jax.Array) -> jax.Array:
    """Return `mixing [K, J] @ x [J, N, C]`, `[K, N, C]`, as one plain product."""
    return (mixing @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])
