"""Batch normalisation over all devices, and dropout that belongs to the example rather than to its place in a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike


class BatchNorm(nn.Module):
    """Normalise every channel of `[..., C]` by its statistics over all other axes, as torch's BatchNorm does.

    With `axis_name` the statistics are those of the batch over all devices of that mapped axis. Running statistics in
    'batch_stats' move by a tenth of the way per step, the variance towards its unbiased estimate (factor n / (n - 1)),
    and are float32 whatever the compute type.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", self.bias_init, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train or self.is_initializing():
            gain = scale * jax.lax.rsqrt(running_variance.value + self.epsilon)
            return _affine(x.astype(self.dtype), gain, bias - running_mean.value * gain)
        axis_name = self.axis_name
        y, mean, variance = normalise_batch(x.astype(self.dtype), scale, bias, self.epsilon, axis_name)
        count = x.size // channels * (1 if axis_name is None else jax.lax.axis_size(axis_name))
        unbiased = variance * (count / max(count - 1, 1))
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_variance.value = self.momentum * running_variance.value + (1 - self.momentum) * unbiased
        return y


def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise `x [..., C]` by its own statistics; return it with the batch's mean and biased variance, both `[C]`."""
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    mean = _over_devices(flat.mean(0), axis_name)
    variance = _over_devices(jnp.square(flat - mean[None]).mean(0), axis_name)
    gain = scale * jax.lax.rsqrt(variance + epsilon)
    return _affine(x, gain, bias - mean * gain), mean, variance


def _affine(x: jax.Array, gain: jax.Array, offset: jax.Array) -> jax.Array:
    leading = tuple(range(x.ndim - 1))
    return x * jnp.expand_dims(gain.astype(x.dtype), leading) + jnp.expand_dims(offset.astype(x.dtype), leading)


def _over_devices(statistic: jax.Array, axis_name: str | None) -> jax.Array:
    return statistic if axis_name is None else jax.lax.pmean(statistic, axis_name)


class Dropout(nn.Module):
    """Zero a share `rate` of the values of `x` in training and scale the rest so that the mean is kept.

    Axis `batch_axis` of x counts examples: `[J, N, C]` by default. The mask of an example is drawn from the 'dropout'
    key folded with that example's `index [N]`, so it is the same on whatever device and beside whatever other examples
    it is processed. Masks come from 8 random bits per value: `rate` is rounded to a multiple of 1/256.
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
        draw = jax.vmap(lambda number: _random_bytes(jax.random.fold_in(key, number), shape), out_axes=self.batch_axis)
        return jnp.where(draw(index) < kept, x * (256 / kept), 0)


def _random_bytes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform bytes of `shape`, four from each random word, which is several times faster on CPU than one by one."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 4),), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:count].reshape(shape)


def example_rows(index: jax.Array | None, leading: Sequence[int]) -> jax.Array:
    """Return the identity `[N]` of every row when the leading axes `[B, ...]` of a batch are flattened to N.

    It derives from the examples' own `index [B]` and the frame's place in its example; without an index, from the place
    in the batch.
    """
    batch, frames = (leading[0], math.prod(leading[1:])) if leading else (1, 1)
    index = jnp.arange(batch, dtype=jnp.int32) if index is None else index.astype(jnp.int32)
    return (index[:, None] * frames + jnp.arange(frames, dtype=jnp.int32)[None]).reshape(-1)
