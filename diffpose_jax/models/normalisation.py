"""Batch normalisation over all devices, and dropout whose masks follow the example, not its place in a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.linear import Initializer
from diffpose_jax.parallel import average_over_devices


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) of the channels of `[..., C, ...]` over all other axes, as torch's.

    Running statistics in 'batch_stats' are float32 whatever the compute type.

    Attributes:
        axis_name: mapped axis of the devices over which the statistics are taken; None for this device alone.
        momentum: weight of the old running statistics; torch writes 1 - momentum.
        epsilon: added to the variance.
        scale_init: initialiser of the scale `[C]`.
        bias_init: initialiser of the shift `[C]`.
        axis: the axis of the channels.
        dtype: type computed in.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    axis: int = -1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[self.axis]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", self.bias_init, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train or self.is_initializing():
            gain = scale * jax.lax.rsqrt(running_variance.value + self.epsilon)
            return _scale_and_shift(x.astype(self.dtype), gain, bias - running_mean.value * gain, self.axis)
        axis_name = self.axis_name
        y, mean, variance = normalise_batch(x.astype(self.dtype), scale, bias, self.epsilon, axis_name, self.axis)
        # The batch is normalised by its biased variance, the running one follows the unbiased: factor n / (n - 1) with
        # n counted over all devices. So does torch; Flax's own layer keeps the biased one.
        count = x.size // channels * (1 if axis_name is None else jax.lax.axis_size(axis_name))
        unbiased = variance * (count / max(count - 1, 1))
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_variance.value = self.momentum * running_variance.value + (1 - self.momentum) * unbiased
        return y


def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None, axis: int = -1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise a batch by its own mean and variance: `scale (x - mean) / sqrt(variance + epsilon) + bias`.

    Args:
        x: the batch `[..., C, ...]`.
        scale: `[C]`.
        bias: `[C]`.
        epsilon: added to the variance.
        axis_name: mapped axis of the devices that hold equal shares of the batch; None for one device.
        axis: the axis of the channels.

    Returns:
        The normalised batch, and its mean and biased variance over all devices, `[C]` each.
    """
    # All devices hold as many rows, so the mean of their means is the mean of the batch. Its variance is the mean of
    # the squared distances from that common mean: the mean of the devices' own variances would lack the part between
    # devices, and E[x^2] - E[x]^2 loses digits in float32 where the mean is large.
    before, channels = math.prod(x.shape[:axis]), x.shape[axis]
    flat = x.reshape(before, channels, -1).astype(jnp.float32)
    mean = average_over_devices(flat.mean((0, 2)), axis_name)
    variance = average_over_devices(jnp.square(flat - mean[None, :, None]).mean((0, 2)), axis_name)
    gain = scale * jax.lax.rsqrt(variance + epsilon)
    return _scale_and_shift(x, gain, bias - mean * gain, axis), mean, variance


def _scale_and_shift(x: jax.Array, gain: jax.Array, offset: jax.Array, axis: int) -> jax.Array:
    others = tuple(other for other in range(x.ndim) if other != axis % x.ndim)
    # In float32 also where x is not: rounded gains would shift whole channels, and their gradients are sums over rows.
    return (x.astype(jnp.float32) * jnp.expand_dims(gain, others) + jnp.expand_dims(offset, others)).astype(x.dtype)


class Dropout(nn.Module):
    """Dropout: zero a fraction `rate` of the values of `x` in training and scale the rest so that the mean is kept.

    The mask of an example is drawn from the 'dropout' key folded with that example's `index [N]`, so it is the same on
    whatever device and beside whatever other examples it is processed. Masks come from 8 random bits per value:
    `rate` is rounded to a multiple of 1/256.

    Attributes:
        rate: fraction of values set to zero.
        batch_axis: the axis of x that counts examples; 1 for `[J, N, C]`.
    """

    rate: float
    batch_axis: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        kept = round(256 * (1 - self.rate))
        if not train or kept == 256:
            return x
        key = self.make_rng("dropout")
        shape = x.shape[: self.batch_axis] + x.shape[self.batch_axis + 1 :]
        draw = jax.vmap(lambda example: _draw_bytes(jax.random.fold_in(key, example), shape), out_axes=self.batch_axis)
        return jnp.where(draw(index) < kept, x * (256 / kept), 0)


def _draw_bytes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw uniform bytes of `shape`, four from each 32-bit random word."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 4),), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:count].reshape(shape)


def index_rows(index: jax.Array | None, leading: Sequence[int]) -> jax.Array:
    """Return the index `[N]` of every row when the leading axes `[B, ...]` of a batch are flattened to N rows.

    A row's index is its example's own `index [B]` times the rows per example, plus the row's place in its example;
    without `index` an example's is its place in the batch.
    """
    batch, frames = (leading[0], math.prod(leading[1:])) if leading else (1, 1)
    index = jnp.arange(batch, dtype=jnp.int32) if index is None else index.astype(jnp.int32)
    return (index[:, None] * frames + jnp.arange(frames, dtype=jnp.int32)[None]).reshape(-1)
