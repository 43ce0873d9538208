"""Random keys and noise per example, so that a result does not depend on the batch it is computed in.

Where a function takes `key`, it is one typed key, or a key array `[B]` with one key for each example. With a key array,
example b depends on its own key alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def example_keys(key: Array, index: Array) -> Array:
    """Derive keys `[B]` from one key and the global indices of the examples `[B]`.

    A key follows its example's index, so the noise of an example does not depend on batch size or device count.
    """
    return jax.vmap(fold_in, in_axes=(None, 0))(key, index)


def fold_in(key: Array, data: int | Array) -> Array:
    """Fold one integer into one key, or into each key of a key array `[B]`."""
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, data)


def split(key: Array, num: int = 2) -> Array:
    """Split one key into keys `[num]`, or each key of a key array `[B]` into keys `[num, B]`."""
    if key.ndim == 0:
        return jax.random.split(key, num)
    return jnp.moveaxis(jax.vmap(lambda example_key: jax.random.split(example_key, num))(key), 1, 0)


def standard_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw N(0, 1) of `shape` in float32; with a key array `[B]`, `shape = [B, ...]`."""
    if key.ndim == 0:
        return jax.random.normal(key, shape)
    check_keys(key, shape)
    return jax.vmap(lambda example_key: jax.random.normal(example_key, shape[1:]))(key)


def check_keys(key: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError where a key array has not one key for each example of `shape = [B, ...]`."""
    if key.shape != shape[:1]:
        raise ValueError(f"expected one key or one per example, [{shape[0]}], found keys of shape {key.shape}")
