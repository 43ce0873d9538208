"""Linear layers whose matrix products, forwards and backwards, are plain 2-D ones."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike


def uniform_within(bound: float) -> Initializer:
    """Return an initialiser that draws uniformly from `[-bound, bound]`."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply the last axis of `x [..., C]` by `kernel [C, D]`, giving `[..., D]`.

    The backward pass is owned: reverse-mode differentiation of a product with many leading axes would first copy the
    cotangent to `[D, ...]` and miss the fast matrix product on CPU.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _matmul_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    flat_grad = grad.reshape(-1, grad.shape[-1])
    return (flat_grad @ kernel.T).reshape(x.shape), x.reshape(-1, x.shape[-1]).T @ flat_grad


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nn.Module):
    """Affine map of the last axis, `[..., C] -> [..., D]`, initialised as torch's: uniform within `1/sqrt(C)`.

    `kernel_init` and `bias_init` override that. Parameters are float32, `dtype` is the type computed in. `normalised`
    says that a batch normalisation follows, which takes the bias away: its gradient is then exactly zero.
    """

    features: int
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32
    normalised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        torch_init = uniform_within(1 / math.sqrt(channels))
        kernel = self.param("kernel", self.kernel_init or torch_init, (channels, self.features))
        bias = self.param("bias", self.bias_init or torch_init, (self.features,))
        if self.normalised:
            bias = jax.lax.stop_gradient(bias)
        y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))
