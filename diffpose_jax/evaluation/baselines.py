"""Baselines without a network: the mean pose, and the poses of the nearest neighbours in 2D, of the training split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax import parallel
from diffpose_jax.data.clips import ClipSet

Array = jax.Array

MAX_TRAIN_FRAMES = 200_000


def mean_pose(train: ClipSet) -> np.ndarray:
    """The mean of all root-relative training poses, `[J, 3]` m, camera frame."""
    assert train.poses is not None
    return train.poses.mean(axis=0, dtype=np.float64).astype(np.float32)


def normalise_keypoints(keypoints: Array, root: int = 0) -> Array:
    """Removes the position and size of a person from keypoints `[..., J, 2]`: centred, of norm one, `[..., 2 J]`."""
    # Without them a pose near the camera could only be matched by training poses at the same distance.
    centred = (keypoints - keypoints[..., root : root + 1, :]).reshape(*keypoints.shape[:-2], -1)
    return centred / jnp.maximum(jnp.linalg.norm(centred, axis=-1, keepdims=True), 1e-12)


def nearest_neighbour(train: ClipSet, keypoints: np.ndarray, **options: Any) -> np.ndarray:
    """The training pose whose keypoints are nearest to given ones, `[M, J, 3]` m; options of `nearest_neighbours`."""
    return nearest_neighbours(train, keypoints, 1, **options)[:, 0]


def nearest_neighbours(
    train: ClipSet,
    keypoints: np.ndarray,
    count: int,
    *,
    batch_size: int = 256,
    max_train_frames: int = MAX_TRAIN_FRAMES,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The training poses whose keypoints are nearest to given ones, the nearest first, `[M, N, J, 3]` m, camera frame.

    Distances are measured after `normalise_keypoints`. As hypotheses they are an ensemble without a network.

    Args:
        train: The training split.
        keypoints: `[M, J, 2]`, normalised image units.
        count: How many poses N.
        batch_size: How many keypoints are searched per device and compiled call, for one pose each.
        max_train_frames: Of a larger split every n-th frame is searched, with the smallest n that leaves so many.
        progress: Called after each chunk with the number of frames that are done.
    """
    assert train.poses is not None
    root = train.skeleton.root
    # Neighbouring frames are nearly equal, so that every n-th one stands for the others.
    step = max(1, -(-train.num_frames // max_train_frames))
    known = normalise_keypoints(jnp.asarray(train.keypoints[::step]), root)
    count = min(count, len(known))
    blocks = jnp.resize(known, (-(-len(known) // _BLOCK) * _BLOCK, known.shape[1])).reshape(-1, _BLOCK, known.shape[1])
    data = parallel.replicate((blocks, normalise_keypoints(jnp.asarray(keypoints), root)))
    size = parallel.local_device_count() * max(1, batch_size // count)
    ids = np.arange(len(keypoints), dtype=np.int32)
    search = partial(parallel.pmap_each(partial(_nearest, count, len(known))), None, data)
    nearest = np.zeros((len(ids), count), np.int32)
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        padded = np.concatenate([part, np.zeros(size - len(part), np.int32)])
        nearest[part] = np.asarray(search(parallel.shard(padded))).reshape(-1, count)[: len(part)]
        if progress is not None:
            progress(int(part[-1]) + 1)
    return train.poses[::step][nearest]


_BLOCK = 512


def _nearest(count: int, known: int, _: None, data: tuple[Array, Array], ids: Array) -> Array:
    """The `count` nearest of the first `known` frames, `[B, N]`; the frames after them fill up the last block."""
    # |a - b|^2 = 2 - 2 a.b for unit vectors, so the nearest have the largest dot products. First the best blocks are
    # found, then the best frames within them: a block stays in cache, and an argmax over all is six times slower on a
    # CPU. The N best frames lie in the N blocks with the best frames: outside there are N better ones at least.
    blocks, queries = data[0], data[1][ids]
    inside = jnp.arange(blocks.shape[0] * _BLOCK).reshape(-1, _BLOCK) < known

    def best_of(_: None, block: tuple[Array, Array]) -> tuple[None, Array]:
        found = jnp.matmul(queries, block[0].T, precision="highest")
        return None, jnp.max(jnp.where(block[1][None], found, -jnp.inf), axis=-1)

    best = jax.lax.scan(best_of, None, (blocks, inside))[1].T
    chosen = jax.lax.top_k(best, min(count, len(blocks)))[1]
    within = jnp.einsum("qd,qknd->qkn", queries, blocks[chosen], precision="highest")
    within = jnp.where(inside[chosen], within, -jnp.inf).reshape(len(queries), -1)
    place = jax.lax.top_k(within, count)[1]
    return jnp.take_along_axis(chosen, place // _BLOCK, axis=-1) * _BLOCK + place % _BLOCK
