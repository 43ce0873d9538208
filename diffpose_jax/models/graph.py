"""Graph convolutions over joints.

Everything here is joint-major, `[J, N, C]` with N = batch x frames: then mixing channels is one product
`[J N, C] @ [C, D]` and mixing joints is one product `[J, J] @ [J, N D]`, without a transposition between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import add_bias, matmul, uniform_within
from diffpose_jax.skeleton import Skeleton

ModulationInit = Literal["ones", "xavier"]
GAIN = 1.414  # the releases' Xavier gain, a rounded sqrt(2)


def build_affinity(adjacency: np.ndarray) -> np.ndarray:
    """Return the fixed affinity `[J, J]` of a binary `adjacency [J, J]`: rows over their degree, diagonal one."""
    normalised = adjacency / adjacency.sum(axis=1, keepdims=True)
    # Set after the division, as in the release: rows sum to 2, a joint itself and the mean of its neighbours.
    np.fill_diagonal(normalised, 1)
    return normalised.astype(np.float32)


def normalise_rows(adjacency: np.ndarray) -> np.ndarray:
    """Return a binary `adjacency [J, J]` with self-loops, rows divided by their sums: stochastic, not symmetric."""
    # A joint with d neighbours gets the mean of d + 1 features.
    looped = adjacency + np.eye(len(adjacency), dtype=np.float32)
    return (looped / looped.sum(axis=1, keepdims=True)).astype(np.float32)


# Why a custom VJP. Write y = diag(b) P + R Q with P = M * (x W0), Q = M * (x W1), b the diagonal of the mixing matrix
# B and R = B - diag(b), and let G = dL/dy [J, N, D] and H = R^T G, the gradient of Q. Sums run over rows n and
# channels d:
#   dM   = b sum_n G (x W0) + sum_n H (x W1)
#   dB   = diag(sum_nd G P) + offdiag(G Q^T)
#   dW0  = x^T (b M G),  dW1 = x^T (M H)
#   dx   = (b M G) W0^T + (M H) W1^T
# Every product is of two matrices that lie as they are needed; differentiation would transpose activations. It makes a
# training step on CPU 5-10 % faster. Sampling is 5 % faster with one product for both W, training with two, which leave
# nothing to split and join; hence the two forward formulas.
@jax.custom_vjp
def modulated_graph_conv(x: jax.Array, weight: jax.Array, modulation: jax.Array, mixing: jax.Array) -> jax.Array:
    """Modulated graph convolution without bias: `diag(B) (M * (x W[0])) + offdiag(B) (M * (x W[1]))`.

    Args:
        x: features of the joints `[J, N, C]`.
        weight: W `[2, C, D]`, for a joint itself and for its neighbours.
        modulation: M `[J, D]`, a factor for every channel of each source joint.
        mixing: B `[J, J]`, target joints by source joints.

    Returns:
        Features `[J, N, D]`.
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
    """Modulated graph convolution with bias, `[J, N, C] -> [J, N, features]` (Zou & Tang, ICCV 2021).

    A graph convolution `y_i = sum_j B_ij W x_j` has one W for all joints. Weight modulation makes it `m_j * (W x_j)`,
    a transformation of its own for every source joint j at the price of a vector each; affinity modulation adds a
    learned matrix to the skeleton's affinity, so that joints without a bone between them exchange features.

    Attributes:
        features: channels D of the result.
        skeleton: its adjacency is the fixed part of the affinity.
        modulation: start of M: 'ones' (the authors' ground-truth variant) or Xavier-uniform (their benchmark variant).
        dtype: type computed in.
        normalised: a batch normalisation follows, so the gradient of the bias is stopped; see `linear.Linear`.
    """

    features: int
    skeleton: Skeleton
    modulation: ModulationInit = "xavier"
    dtype: DTypeLike = jnp.float32
    normalised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, features, channels = self.skeleton.num_joints, self.features, x.shape[-1]
        # Xavier's bound is gain sqrt(6 / (fan_in + fan_out)). For a tensor of three axes torch takes the last one for a
        # receptive field, which multiplies both fans: they are C D and 2 D here, and the bound is far below C and D's.
        weight_bound = GAIN * math.sqrt(6 / (channels * features + 2 * features))
        modulation_bound = GAIN * math.sqrt(6 / (joints + features))
        modulation_init = nn.initializers.ones if self.modulation == "ones" else uniform_within(modulation_bound)
        weight = self.param("weight", uniform_within(weight_bound), (2, channels, features))
        modulation = self.param("modulation", modulation_init, (joints, features))
        learned = self.param("affinity", nn.initializers.constant(1e-6), (joints, joints))
        bias = self.param("bias", uniform_within(1 / math.sqrt(features)), (features,))
        if self.normalised:
            bias = jax.lax.stop_gradient(bias)
        # Symmetrised after the sum, as released: the fixed part becomes (1 / d_i + 1 / d_j) / 2 for degrees d.
        mixing = build_affinity(self.skeleton.adjacency()) + learned
        mixing = (mixing + mixing.T) / 2
        y = modulated_graph_conv(*(array.astype(self.dtype) for array in (x, weight, modulation, mixing)))
        return add_bias(y, bias)


class PreAggregatedGraphConv(nn.Module):
    """Graph convolution with matrices of its own for every joint, along one of the axes of `x [J, N, M]`.

    `y_i = A_ii x_i W[0, i] + sum_{j != i} A_ij x_j W[1, j] + b` with the row-stochastic graph A: "pre-aggregation" with
    decoupled self-connections (Liu et al., ECCV 2020), that is, features are transformed by their source joint's
    matrix before the nodes sum them. The result has as many features as x.

    Attributes:
        skeleton: its adjacency with self-loops, rows divided by their sums, is A.
        axis: the axis of x that holds the features: 2, or 1, where x_i are columns and W^T x_i stands for x_i W.
        dtype: type computed in.
        normalised: a batch normalisation follows, so the gradient of the bias is stopped; see `linear.Linear`.
    """

    skeleton: Skeleton
    axis: Literal[1, 2] = 2
    dtype: DTypeLike = jnp.float32
    normalised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, channels = self.skeleton.num_joints, x.shape[self.axis]
        # Xavier's rule again as torch applies it: of the axes [2, J, C, D] it takes 2 and J for channels, C and D for a
        # receptive field, so the fans are J C D and 2 C D.
        bound = GAIN * math.sqrt(6 / ((joints + 2) * channels * channels))
        weight = self.param("weight", uniform_within(bound), (2, joints, channels, channels)).astype(self.dtype)
        bias = self.param("bias", uniform_within(1 / math.sqrt(channels)), (channels,))
        if self.normalised:
            bias = jax.lax.stop_gradient(bias)
        x = x.astype(self.dtype)
        if self.axis == 1:
            # The barrier keeps XLA from making one operation of transposition and product, which is slower on CPU.
            weight, bias = jax.lax.optimization_barrier(weight.swapaxes(2, 3)), bias[:, None]
        own, neighbour = (x @ matrices if self.axis == 2 else matrices @ x for matrices in weight)
        diagonal, rest = _split_diagonal(jnp.asarray(normalise_rows(self.skeleton.adjacency()), self.dtype))
        mixed = (rest @ neighbour.reshape(joints, -1)).reshape(x.shape)
        return add_bias(own * diagonal[:, None, None] + mixed, bias)


def build_chebyshev_basis(adjacency: np.ndarray) -> np.ndarray:
    """Return the Chebyshev polynomials T_0, T_1, T_2 of the graph Laplacian, `[3, J, J]`.

    The Laplacian is `L = I - normalise_rows(adjacency)`, not rescaled to [-1, 1], as in the releases of GraFormer (Zhao
    et al., CVPR 2022).
    """
    # T_0 = I, T_1 = L and the recurrence T_k = 2 L T_(k-1) - T_(k-2), which gives T_2 = 2 L^2 - I (Defferrard et al.
    # 2016). Polynomials of degree k in L reach joints that are k bones away. On [-1, 1] they stay within [-1, 1]; the
    # eigenvalues of this L reach 1.4 and those of T_2 therefore 3, harmless for a sum that ends there.
    identity = np.eye(len(adjacency), dtype=np.float32)
    laplacian = identity - normalise_rows(adjacency)
    return np.stack([identity, laplacian, 2 * laplacian @ laplacian - identity])


class ChebyshevConv(nn.Module):
    """Chebyshev graph convolution of order two, `[J, N, C] -> [J, N, features]`: `y = sum_k T_k x W_k + b`.

    T_k are the polynomials of `build_chebyshev_basis` for the graph of `skeleton` (Defferrard et al. 2016), W is
    `[3, C, features]`.
    """

    features: int
    skeleton: Skeleton
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joints, channels = x.shape[0], x.shape[-1]
        # Xavier-normal over all three matrices at once, as released: std = sqrt(2 / (fan_in + fan_out)) with the fans
        # C D and 3 C D, which is narrow.
        std = math.sqrt(1 / (2 * channels * self.features))
        weight = self.param("weight", nn.initializers.normal(std), (3, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        basis = jnp.asarray(build_chebyshev_basis(self.skeleton.adjacency()), self.dtype)
        x, weight = x.astype(self.dtype), weight.astype(self.dtype)
        # (T_k x) W_k = T_k (x W_k): joints are mixed on that side of W_k which has fewer channels.
        if channels <= self.features:
            mixed = mix_joints(basis[1:].reshape(-1, joints), x).reshape(2, *x.shape)
            y = matmul(x, weight[0]) + matmul(mixed[0], weight[1]) + matmul(mixed[1], weight[2])
        else:
            parts = [matmul(x, kernel) for kernel in weight]
            y = parts[0] + mix_joints(basis[1], parts[1]) + mix_joints(basis[2], parts[2])
        return add_bias(y, bias)


def mix_joints(mixing: jax.Array, x: jax.Array) -> jax.Array:
    """Return `mixing [K, J] @ x [J, N, C]`, `[K, N, C]`, as one plain product."""
    return (mixing @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


def to_joint_major(x: jax.Array) -> jax.Array:
    """Bring `[..., J, C]` to `[J, N, C]`."""
    return jnp.moveaxis(x, -2, 0).reshape(x.shape[-2], -1, x.shape[-1])


def from_joint_major(x: jax.Array, leading: Sequence[int]) -> jax.Array:
    """Bring `[J, N, C]` back to `[*leading, J, C]`, float32."""
    return jnp.moveaxis(x, 0, 1).reshape(*leading, x.shape[0], x.shape[-1]).astype(jnp.float32)
