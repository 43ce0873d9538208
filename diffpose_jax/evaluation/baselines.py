"""What a lifter must beat: the mean pose and the nearest neighbour in 2D, both taken from the training split."""

from __future__ import annotations

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
    train: ClipSet, keypoints: np.ndarray, *, batch_size: int = 64, max_train_frames: int = MAX_TRAIN_FRAMES
) -> np.ndarray:
    """The training pose whose 2D is nearest to each of `keypoints [M, J, 2]`, `[M, J, 3]` m, camera frame.

    Nearest in `scale_free` coordinates. Of a larger training split, every n-th frame is searched, n the smallest that
    leaves at most `max_train_frames`.
    """
    root = train.skeleton.root
    step = max(1, -(-train.num_frames // max_train_frames))
    known = scale_free(jnp.asarray(train.keypoints[::step]), root)
    data = parallel.place((known, scale_free(jnp.asarray(keypoints), root)))
    size = parallel.local_devices() * batch_size
    ids = np.arange(len(keypoints), dtype=np.int32)
    padded = np.concatenate([ids, np.zeros(-len(ids) % size, np.int32)])
    search = partial(parallel.pmap_each(_nearest), None, data)
    found = [np.asarray(search(parallel.split_devices(part))).reshape(-1) for part in padded.reshape(-1, size)]
    nearest = np.concatenate(found)[: len(ids)] if len(ids) else ids
    return train.poses[::step][nearest]


def _nearest(_: None, data: tuple[Array, Array], ids: Array) -> Array:
    known, queries = data
    # |a - b|^2 = 2 - 2 a.b for unit vectors, so the nearest has the largest dot product.
    return jnp.argmax(jnp.matmul(queries[ids], known.T, precision="highest"), axis=-1)
