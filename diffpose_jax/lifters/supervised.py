"""The supervised lifters: one network, one forward pass, all hypotheses alike.

MixSTE lifts sequences, PoseFormer the middle frame of one, GraFormer and Modulated GCN single frames. Their activations
before the last layer are what a frozen one of them offers to a diffusion lifter as context.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch
from diffpose_jax.lifters.pose_losses import PoseLoss
from diffpose_jax.skeleton import Skeleton


def supervised(
    network: nn.Module,
    skeleton: Skeleton,
    pose_loss: PoseLoss,
    frames: int = 1,
    *,
    middle_frame: bool = False,
    root_relative: bool = True,
) -> Lifter:
    """A lifter around `network(keypoints [B, F, J, 2]) -> poses [B, F, J, 3]` in root-relative metres.

    With `middle_frame` the network gives `[B, 1, J, 3]`, which the loss compares with frame F // 2. root_relative=False
    leaves the root where the network puts it, as the releases do; for a lifter that is a context only.
    """

    def init(key: jax.Array, batch: Batch) -> Variables:
        return network.init(key, batch.keypoints, train=False)

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        check_batch(batch, skeleton, frames)
        poses, updates = network.apply(
            variables, batch.keypoints, train=True, index=batch.index, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        middle = frames // 2
        total = pose_loss(poses, batch.poses[:, middle : middle + 1] if middle_frame else batch.poses)
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    def sample(variables: Variables, key: jax.Array, batch: Batch, num_hypotheses: int) -> jax.Array:
        check_batch(batch, skeleton, frames)
        poses = network.apply(variables, batch.keypoints, train=False)
        if root_relative:
            poses = poses - poses[..., skeleton.root : skeleton.root + 1, :]
        return jnp.broadcast_to(poses[None], (num_hypotheses, *poses.shape))

    def features(variables: Variables, keypoints: jax.Array) -> jax.Array:
        return network.apply(variables, keypoints, train=False, features=True)

    return Lifter(init, loss, sample, skeleton, frames, False, middle_frame, features=features)
