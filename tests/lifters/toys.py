"""Batches and networks that compute something simple, for tests of lifters."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.lifters.base import Batch, Lifter, Sampling

KEY = jax.random.key(3)


def pose_batch(size: int, frames: int, spacing: int = 5) -> Batch:
    """Random keypoints, and poses within 0.5 m of which the root is zero; the examples' indices are `spacing` apart."""
    rng = np.random.default_rng(0)
    poses = np.clip(0.3 * rng.standard_normal((size, frames, 17, 3)), -0.45, 0.45).astype(np.float32)
    keypoints = rng.standard_normal((size, frames, 17, 2)).astype(np.float32)
    parts = (keypoints, poses - poses[:, :, :1], np.ones((size, frames, 17), np.float32))
    return Batch(*map(jnp.asarray, parts), jnp.arange(size, dtype=jnp.int32) * spacing)


def take(batch: Batch, rows: Any) -> Batch:
    """Some examples of a batch, in the given order."""
    return jax.tree.map(lambda leaf: leaf[np.array(rows)], batch)


@partial(jax.jit, static_argnums=0)
def sample(lifter: Lifter, variables: Any, key: jax.Array, batch: Batch, sampling: Sampling) -> jax.Array:
    """`lifter.sample`, compiled once for all equal lifters."""
    return lifter.sample(variables, key, batch, sampling)


class Oracle:
    """A network that returns the poses `[B, F, J, 3]` whatever it is given."""

    def __init__(self, poses: jax.Array):
        self.poses = poses

    def apply(self, variables: Any, x: jax.Array, k: jax.Array, *, train: bool) -> jax.Array:
        return self.poses


class Mixing:
    """Poses from keypoints and noisy poses `[B, F, J, 5]` by a map that is the same for left and right.

    `lopsided` is added to the poses of the joints one after the other, so that it is not. Counts its traces.
    """

    def __init__(self, lopsided: float = 0.0):
        self.lopsided, self.traces = lopsided, 0

    def apply(self, variables: Any, x: jax.Array, k: jax.Array, *, train: bool) -> jax.Array:
        self.traces += 1
        keypoints = x[..., :2] - 0.3 * jnp.cumsum(x[..., :2], axis=1)
        size = jnp.mean(jnp.square(keypoints), axis=-1, keepdims=True)
        poses = jnp.tanh(0.4 * x[..., 2:] + jnp.concatenate([keypoints, keypoints[..., 1:]], axis=-1) * (1 + size))
        return poses + self.lopsided * jnp.linspace(-1.0, 1.0, 17)[None, None, :, None]
