"""Baselines without a network: the mean pose, and the pose of the nearest neighbour in 2D, of the training split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


def nearest_neighbour(
    train: ClipSet,
    keypoints: np.ndarray,
    *,
    batch_size: int = 256,
    max_train_frames: int = MAX_TRAIN_FRAMES,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The training pose whose keypoints are nearest to given ones, `[M, J, 3]` m, camera frame.

    Distances are measured after `normalise_keypoints`.

    Args:
        train: The training split.
        keypoints: `[M, J, 2]`, normalised image units.
        batch_size: How many are searched per device and compiled call.
        max_train_frames: Of a larger split every n-th frame is searched, with the smallest n that leaves so many.
        progress: Called after each chunk with the number of frames that are done.
    """
    assert train.poses is not None
    root = train.skeleton.root
    step = max(1, -(-train.num_frames // max_train_frames))
    known = normalise_keypoints(jnp.asarray(train.keypoints[::step]), root)
    # Whole blocks are filled up with the first frames; argmax takes the first of equals, so that no copy is chosen.
    blocks = jnp.resize(known, (-(-len(known) // _BLOCK) * _BLOCK, known.shape[1])).reshape(-1, _BLOCK, known.shape[1])
    data = parallel.replicate((blocks, normalise_keypoints(jnp.asarray(keypoints), root)))
    size = parallel.local_device_count() * batch_size
    ids = np.arange(len(keypoints), dtype=np.int32)
    search = partial(parallel.pmap_each(_nearest), None, data)
    nearest = np.zeros(len(ids), np.int32)
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        padded = np.concatenate([part, np.zeros(size - len(part), np.int32)])
        nearest[part] = np.asarray(search(parallel.shard(padded))).reshape(-1)[: len(part)]
        if progress is not None:
            progress(int(part[-1]) + 1)
    return train.poses[::step][nearest]


_BLOCK = 512


def _nearest(_: None, data: tuple[Array, Array], ids: Array) -> Array:
    # |a - b|^2 = 2 - 2 a.b for unit vectors, so the nearest has the largest dot product. First the best block is found,
    # then the best frame within it: a block stays in cache, and an argmax over all is six times slower on a CPU.
    blocks, queries = data[0], data[1][ids]

    def best_of(_: None, block: Array) -> tuple[None, Array]:
        return None, jnp.max(jnp.matmul(queries, block.T, precision="highest"), axis=-1)

    block = jnp.argmax(jax.lax.scan(best_of, None, blocks)[1], axis=0)
    within = jnp.einsum("qd,qnd->qn", queries, blocks[block], precision="highest")
    return block * _BLOCK + jnp.argmax(within, axis=-1)
