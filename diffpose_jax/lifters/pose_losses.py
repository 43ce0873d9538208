"""What the supervised lifters minimise: functions of poses `[B, F, J, 3]` in metres, put together from named terms."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

PoseLoss = Callable[[jax.Array, jax.Array], jax.Array]


def distance(difference: jax.Array) -> jax.Array:
    """The length of vectors `[..., 3]`, `[...]`, with gradient 0 where it is 0 instead of NaN."""
    square = jnp.sum(jnp.square(difference), axis=-1)
    # The root has an infinite derivative at 0. The outer `where` alone would not do: the gradient of the branch that is
    # not taken is 0 times infinity, which is NaN, so that the argument of the root is replaced too.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def mpjpe(poses: jax.Array, target: jax.Array) -> jax.Array:
    """The mean distance of the joints of poses `[B, F, J, 3]` to their targets, m: PoseFormer's loss."""
    return jnp.mean(distance(poses - target))


def weighted_mpjpe(poses: jax.Array, target: jax.Array, joint_weights: np.ndarray) -> jax.Array:
    """The mean over B, F and J of joint_weights `[J]` times distance to the target, m."""
    return jnp.mean(distance(poses - target) * jnp.asarray(joint_weights)[None, None])


def mean_squared(poses: jax.Array, target: jax.Array) -> jax.Array:
    """The mean squared coordinate of the errors of poses `[B, F, J, 3]`, m^2: MixSTE's loss in Rommel et al. 2023."""
    return jnp.mean(jnp.square(poses - target))


def squared_and_absolute(poses: jax.Array, target: jax.Array) -> jax.Array:
    """0.9 MSE + 0.1 L1 of poses `[B, F, J, 3]`: the loss of Modulated GCN's release for ground-truth keypoints."""
    return 0.9 * mean_squared(poses, target) + 0.1 * jnp.mean(jnp.abs(poses - target))


def distance_and_absolute(poses: jax.Array, target: jax.Array) -> jax.Array:
    """0.99 MPJPE + 0.01 L1 of poses `[B, F, J, 3]`: the loss of Modulated GCN's release for detected keypoints."""
    return 0.99 * mpjpe(poses, target) + 0.01 * jnp.mean(jnp.abs(poses - target))


def temporal_consistency(poses: jax.Array, joint_weights: np.ndarray) -> jax.Array:
    """The mean weighted square of the coordinates' changes from frame to frame, m^2: poses should move little.

    A prior on poses `[B, F, J, 3]` that no target enters (MixSTE's TC); joint_weights `[J]`. 0 for a single frame.
    """
    return _mean(jnp.square(jnp.diff(poses, axis=1)) * jnp.asarray(joint_weights)[None, None, :, None])


def velocity_loss(poses: jax.Array, target: jax.Array) -> jax.Array:
    """Mean distance of displacements of poses `[B, F, J, 3]` from frame to frame to the true ones, m; 0 if F = 1."""
    return _mean(distance(jnp.diff(poses, axis=1) - jnp.diff(target, axis=1)))


def mixste_loss(joint_weights: np.ndarray, consistency: float = 0.5, velocity: float = 2.0) -> PoseLoss:
    """MixSTE's loss: weighted MPJPE + consistency TC + velocity MPJVE (Zhang et al., CVPR 2022, equation 7).

    The release computes two more terms, on the symmetry and the change of bones, and leaves them out of the sum.

    Args:
        joint_weights: Weights of the joints, `[J]`.
        consistency: Coefficient of temporal consistency, that of the release.
        velocity: Coefficient of the velocity loss, that of the release; 1.0 in the paper.
    """

    def loss(poses: jax.Array, target: jax.Array) -> jax.Array:
        total = weighted_mpjpe(poses, target, joint_weights)
        total += consistency * temporal_consistency(poses, joint_weights)
        return total + velocity * velocity_loss(poses, target)

    return loss


def _mean(values: jax.Array) -> jax.Array:
    return jnp.mean(values) if values.size else jnp.zeros((), values.dtype)


POSE_LOSSES: dict[str, PoseLoss] = {
    "mpjpe": mpjpe,
    "mean_squared": mean_squared,
    "squared_and_absolute": squared_and_absolute,
    "distance_and_absolute": distance_and_absolute,
}
