"""Two terms on bones that MixSTE's release computes and leaves out of its loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.lifters.pose_losses import distance
from diffpose_jax.skeleton import Skeleton


def bone_asymmetry(poses: jax.Array, skeleton: Skeleton) -> jax.Array:
    """The mean absolute difference in length of left and right bones of poses `[B, F, J, 3]`, summed over pairs, m."""
    lengths = distance(bone_vectors(poses, skeleton))
    bone_of = {child: number for number, (child, _) in enumerate(skeleton.bones)}
    left, right = (np.array([bone_of[child] for child in side]) for side in (skeleton.left, skeleton.right))
    return jnp.sum(jnp.mean(jnp.abs(lengths[..., left] - lengths[..., right]), axis=(0, 1)))


def bone_change(poses: jax.Array, skeleton: Skeleton) -> jax.Array:
    """Mean distance of bone vectors in successive frames of poses `[B, F, J, 3]`, summed over bones, m; 0 if F = 1."""
    changes = distance(jnp.diff(bone_vectors(poses, skeleton), axis=1))
    return (skeleton.num_joints - 1) * jnp.mean(changes) if changes.size else jnp.zeros(())


def bone_vectors(poses: jax.Array, skeleton: Skeleton) -> jax.Array:
    """From parent to child of poses `[..., J, 3]`, `[..., J - 1, 3]`, in the order of `skeleton.bones`."""
    child, parent = np.array(skeleton.bones).T
    return poses[..., child, :] - poses[..., parent, :]
