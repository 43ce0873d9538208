"""Linear layers whose matrix products, in the forward and in the backward pass, are plain two-dimensional ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

Initializer = Callable[..., jax.Array]

# Normal with std sqrt(2 / inputs), which keeps the scale of activations through a ReLU (He et al. 2015).
KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def uniform_within(bound: float) -> Initializer:
    """Return an initialiser that draws uniformly from `[-bound, bound]`."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


# Why a custom VJP. For y = x W with x [..., C] the gradients are dx = dy W^T and dW = x^T dy, the latter summed over
# all leading axes. Differentiating a product with several leading axes contracts them all at once, for which XLA:CPU
# first copies dy to [D, ...] and then misses its fast matrix product. With the leading axes flattened both gradients
# are plain products: on one CPU thread the gradient of a MixSTE of width 512 takes 482 ms instead of 560.
@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply the last axis of `x [..., C]` by `kernel [C, D]`, giving `[..., D]`."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _matmul_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    flat_grad = grad.reshape(-1, grad.shape[-1])
    return (flat_grad @ kernel.T).reshape(x.shape), x.reshape(-1, x.shape[-1]).T @ flat_grad


matmul.defvjp(_matmul_forward, _matmul_backward)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Add a float32 parameter `[..., C]`, a bias or a table of positions, to `y [..., ..., C]`, in the type of y."""
    # Broadcast before the cast: the gradient of the bias is then summed in float32. A sum of 17,000 rows whose partial
    # sums are rounded to bfloat16 is wrong by 2 %.
    return y + jnp.broadcast_to(jnp.expand_dims(bias, tuple(range(y.ndim - bias.ndim))), y.shape).astype(y.dtype)


class Linear(nn.Module):
    """Affine map of the last axis, `[..., C] -> [..., features]`, initialised as torch's: uniform within `1/sqrt(C)`.

    Attributes:
        features: channels of the result.
        kernel_init: initialiser of the kernel in place of torch's.
        bias_init: initialiser of the bias in place of torch's.
        dtype: type computed in; parameters are float32.
        normalised: a batch normalisation follows. It subtracts the mean, so the bias has no effect and its gradient is
            zero up to rounding; Adam would scale that rounding error to full steps, which differ between machines.
            The gradient is therefore stopped.
        max_norm: a kernel whose norm (over all its entries) is larger is scaled down to this where it is applied, as in
            the release of Martinez et al. 2017; 0: not bounded.
    """

    features: int
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32
    normalised: bool = False
    max_norm: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        torch_init = uniform_within(1 / math.sqrt(channels))
        kernel = self.param("kernel", self.kernel_init or torch_init, (channels, self.features))
        bias = self.param("bias", self.bias_init or torch_init, (self.features,))
        if self.normalised:
            bias = jax.lax.stop_gradient(bias)
        if self.max_norm:
            kernel = kernel * (self.max_norm / jnp.maximum(jnp.linalg.norm(kernel), self.max_norm))
        y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        return add_bias(y, bias)
