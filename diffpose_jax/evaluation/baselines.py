"""What a lifter must beat: the mean pose and the nearest neighbour in 2D, both taken from the training split."""

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
    return train.poses.mean(axis=0, dtype=np.float64).astype(np.float32)


def scale_free(keypoints: Array, root: int = 0) -> Array:
    """Keypoints `[..., J, 2]` without place and size, as unit vectors `[..., 2 J]`: centred on the root, norm one."""
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
    """The training pose whose 2D is nearest to each of `keypoints [M, J, 2]`, `[M, J, 3]` m, camera frame.

    Nearest in `scale_free` coordinates. Of a larger training split, every n-th frame is searched, n the smallest that
    leaves at most `max_train_frames`. `progress(frames done)` is called after each chunk.
    """
    root = train.skeleton.root
    step = max(1, -(-train.num_frames // max_train_frames))
    known = scale_free(jnp.asarray(train.keypoints[::step]), root)
    # Filled up to whole blocks with its own beginning, which loses every tie against the original.
    blocks = jnp.resize(known, (-(-len(known) // _BLOCK) * _BLOCK, known.shape[1])).reshape(-1, _BLOCK, known.shape[1])
    data = parallel.replicate((blocks, scale_free(jnp.asarray(keypoints), root)))
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
    # |a - b|^2 = 2 - 2 a.b for unit vectors, so the nearest has the largest dot product. First the best block, then the
    # best within it: the maximum of a block stays in cache, an argmax over everything is six times slower on a CPU.
    blocks, queries = data[0], data[1][ids]

    def best_of(_: None, block: Array) -> tuple[None, Array]:
        return None, jnp.max(jnp.matmul(queries, block.T, precision="highest"), axis=-1)

    block = jnp.argmax(jax.lax.scan(best_of, None, blocks)[1], axis=0)
    within = jnp.einsum("qd,qnd->qn", queries, blocks[block], precision="highest")
    return block * _BLOCK + jnp.argmax(within, axis=-1)
