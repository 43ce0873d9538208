"""Standard normal draws that belong to their example, not to the batch it is in."""

from __future__ import annotations

import jax
from jax import Array


def standard_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw N(0, 1) of `shape` in float32.

    `key` is one typed key, or a key array `[B]` with `shape = [B, ...]`: then example b depends on its own key alone,
    so that a result does not change with the batch it is computed in.
    """
    if key.ndim == 0:
        return jax.random.normal(key, shape)
    check_keys(key, shape)
    return jax.vmap(lambda example_key: jax.random.normal(example_key, shape[1:]))(key)


def check_keys(key: Array, shape: tuple[int, ...]) -> None:
    """Fails where keys are not one per example of `shape [B, ...]`."""
    if key.shape != shape[:1]:
        raise ValueError(f"expected one key or one per example, [{shape[0]}], found keys of shape {key.shape}")
