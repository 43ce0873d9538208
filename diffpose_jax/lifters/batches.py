"""Batches of windows: their shapes, their mirror image, the frames that are lifted, and the root of poses."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.geometry import Camera
from diffpose_jax.lifters.base import Batch, Lifter
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import Skeleton, mirror


def check_batch(batch: Batch, skeleton: Skeleton, frames: int) -> None:
    """Fails with the shapes, while tracing, where a batch is not `[B, F, J, C]` of this skeleton and frame count."""
    shape = (len(batch.index), frames, skeleton.num_joints)
    chex.assert_shape([batch.keypoints, batch.poses, batch.mask], [(*shape, 2), (*shape, 3), shape])


def example_batch(lifter: Lifter, size: int = 1) -> Batch:
    """A batch of zeros with a lifter's shapes, to initialise variables with."""
    shape = (size, lifter.frames, lifter.skeleton.num_joints)
    return Batch(jnp.zeros((*shape, 2)), jnp.zeros((*shape, 3)), jnp.ones(shape), jnp.arange(size, dtype=jnp.int32))


def lifted_frames(lifter: Lifter) -> slice:
    """Which frames of a batch `[B, F, J, C]` a lifter gives poses for."""
    return slice(lifter.frames // 2, lifter.frames // 2 + 1) if lifter.middle_frame else slice(None)


def lifted_part(lifter: Lifter, batch: Batch) -> Batch:
    """The batch reduced to the frames that a lifter gives poses for."""
    frames = lifted_frames(lifter)
    names = ("keypoints", "poses", "mask", "mixture", "root")
    parts = jax.tree.map(lambda part: part[:, frames], {name: getattr(batch, name) for name in names})
    return batch._replace(**parts)


def zero_root(poses: Array, skeleton: Skeleton) -> Array:
    """Poses `[..., J, 3]` with the root set to zero and all other joints left where they are."""
    return poses.at[..., skeleton.root, :].set(0.0)


def subtract_root(poses: Array, skeleton: Skeleton) -> Array:
    """Poses `[..., J, 3]` moved so that the root is zero."""
    return poses - poses[..., skeleton.root : skeleton.root + 1, :]


def flip_batch(batch: Batch, skeleton: Skeleton) -> Batch:
    """The batch as a mirror shows it; the examples keep their identity."""
    return batch._replace(
        keypoints=mirror(batch.keypoints, skeleton),
        poses=mirror(batch.poses, skeleton),
        mask=batch.mask[..., np.array(skeleton.flip_order)],
        mixture=None if batch.mixture is None else flip_mixture(batch.mixture, skeleton),
        camera=None if batch.camera is None else mirror_lens(batch.camera),
        root=None if batch.root is None else batch.root.at[..., 0].multiply(-1),
    )


def mirror_lens(camera: Camera) -> Camera:
    """The cameras whose pictures are the mirror images of those of cameras `[B]`; where they stand is kept as it is."""
    # u -> -u in u' = u (1 + ... + p1 u + p2 v) + p1 r^2 gives the same model with -p1 (see `geometry._distort`).
    sign = np.broadcast_to(np.array([-1, 1], np.float32), np.shape(camera.centre))
    return camera._replace(centre=camera.centre * sign, tangential=camera.tangential * sign)


def flip_mixture(mixture: Mixture, skeleton: Skeleton) -> Mixture:
    """The mirror image of 2D mixtures per joint, means `[..., J, M, 2]`, or per pose, means `[..., M, 2 J]`."""
    weights, means, covariances = mixture
    order, sign = np.array(skeleton.flip_order), np.array([-1, 1], np.float32)
    if means.shape[-1] == 2:
        axis = means.ndim - 3
        weights, means, covariances = (jnp.take(part, order, axis=axis) for part in mixture)
    else:
        order = (2 * order[:, None] + np.arange(2)[None]).reshape(-1)
        sign = np.tile(sign, skeleton.num_joints)
        means, covariances = means[..., order], covariances[..., order]
        covariances = covariances if mixture.diagonal else jnp.take(covariances, order, axis=-2)
    means = means * jnp.expand_dims(sign, tuple(range(means.ndim - 1)))
    # With S = diag(-1, 1) the mirrored covariance is S C S: entries are multiplied by the signs of both coordinates.
    if not mixture.diagonal:
        covariances = covariances * jnp.expand_dims(np.outer(sign, sign), tuple(range(covariances.ndim - 2)))
    return Mixture(weights, means, covariances)
