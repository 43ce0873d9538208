"""The supervised lifters: one network, one forward pass, all hypotheses alike."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch
from diffpose_jax.skeleton import Skeleton

PoseLoss = Callable[[jax.Array, jax.Array], jax.Array]


def supervised(network: nn.Module, skeleton: Skeleton, pose_loss: PoseLoss, frames: int = 1) -> Lifter:
    """A lifter around `network(keypoints [B, F, J, 2]) -> poses [B, F, J, 3]` in root-relative metres."""

    def init(key: jax.Array, batch: Batch) -> Variables:
        return network.init(key, batch.keypoints, train=False)

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        check_batch(batch, skeleton, frames)
        poses, updates = network.apply(
            variables, batch.keypoints, train=True, index=batch.index, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        total = pose_loss(poses, batch.poses)
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    def sample(variables: Variables, key: jax.Array, batch: Batch, num_hypotheses: int) -> jax.Array:
        check_batch(batch, skeleton, frames)
        poses = network.apply(variables, batch.keypoints, train=False)
        poses = poses - poses[..., skeleton.root : skeleton.root + 1, :]
        return jnp.broadcast_to(poses[None], (num_hypotheses, *poses.shape))

    return Lifter(init, loss, sample, skeleton, frames, stochastic=False)


def squared_and_absolute(poses: jax.Array, target: jax.Array) -> jax.Array:
    """0.9 MSE + 0.1 L1 of poses `[B, F, J, 3]`: the loss of Modulated GCN's release for ground-truth keypoints."""
    error = poses - target
    return 0.9 * jnp.mean(jnp.square(error)) + 0.1 * jnp.mean(jnp.abs(error))


def distance_and_absolute(poses: jax.Array, target: jax.Array) -> jax.Array:
    """0.99 MPJPE + 0.01 L1 of poses `[B, F, J, 3]`: the loss of Modulated GCN's release for detected keypoints."""
    error = poses - target
    # The root has no error where the network is exact; the square root needs a defined gradient there.
    distance = jnp.sqrt(jnp.sum(jnp.square(error), axis=-1) + 1e-12)
    return 0.99 * jnp.mean(distance) + 0.01 * jnp.mean(jnp.abs(error))
