"""D3DP: hypotheses of a pose sequence by stochastic DDIM, a MixSTE that predicts the clean poses as the denoiser.

Shan et al., "Diffusion-Based 3D Human Pose Estimation with Multi-Hypothesis Aggregation", ICCV 2023.
What is diffused are root-relative poses in metres times `signal_scale`. The denoiser sees the keypoints beside the
noisy poses, clamped, and returns clean poses in metres. Sampling starts from pure noise; averaging over the mirrored
input happens inside every step. The hypotheses are aggregated afterwards, see `diffusion.hypotheses`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.diffusion.hypotheses import example_keys
from diffpose_jax.diffusion.process import at_step, diffuse, predictions, uniform_steps
from diffpose_jax.diffusion.samplers import Plan, clip_x0, initial_noise
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch
from diffpose_jax.lifters.pose_losses import PoseLoss, mpjpe
from diffpose_jax.lifters.reverse import Reverse, sampling, sampling_flipped, zero_root
from diffpose_jax.skeleton import Skeleton


def d3dp(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    frames: int,
    clip: float = 1.1,
    signal_scale: float = 1.0,
    pose_loss: PoseLoss = mpjpe,
    flip_inside: bool = True,
    chunk: int | None = None,
) -> Lifter:
    """D3DP around `network(x [B, F, J, 5], k) -> poses [B, F, J, 3]`; x has the keypoints first.

    clip is in metres: noisy inputs and clean predictions keep within ±clip. pose_loss compares poses in metres; the
    release also multiplies the gradient by it (`training.scale_by_loss`). flip_inside averages flips in every step,
    otherwise after the chain. chunk bounds how many hypotheses are in memory at once.
    """
    limit = clip * signal_scale

    def init(key: jax.Array, batch: Batch) -> Variables:
        x = jnp.concatenate([batch.keypoints, batch.poses], axis=-1)
        return network.init(key, x, jnp.zeros(len(batch.index), jnp.int32), train=False)

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        check_batch(batch, skeleton, frames)
        keys = example_keys(key, batch.index)
        k = uniform_steps(keys, len(keys), schedule.num_steps)
        x_k = diffuse(schedule, signal_scale * batch.poses, k, initial_noise(keys, batch.poses.shape))
        poses, updates = network.apply(
            variables,
            seen(batch.keypoints, x_k, limit, signal_scale),
            k,
            train=True,
            index=batch.index,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        total = pose_loss(poses, batch.poses)
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    reverse = d3dp_reverse(
        network, skeleton, schedule, plan, frames=frames, clip=clip, signal_scale=signal_scale, chunk=chunk
    )
    flipped = sampling_flipped(reverse) if flip_inside else None
    return Lifter(init, loss, sampling(reverse), skeleton, frames, sample_flipped=flipped)


def d3dp_reverse(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    frames: int,
    clip: float = 1.1,
    signal_scale: float = 1.0,
    chunk: int | None = None,
) -> Reverse:
    """How D3DP samples: x0 is clamped after the flips are averaged, eps derives from the state as it is."""
    limit = clip * signal_scale

    def denoise(variables: Variables, keypoints: jax.Array, x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        poses = network.apply(variables, seen(keypoints, x, limit, signal_scale), k, train=False)
        return predictions("x0", signal_scale * poses.astype(x.dtype), x, at_step(schedule.alpha_bar, k, x))

    return Reverse(
        condition=lambda variables, batch: batch.keypoints,
        denoise=denoise,
        limit=lambda denoiser: clip_x0(denoiser, schedule.alpha_bar, -limit, limit),
        finish=lambda x: zero_root(x / signal_scale, skeleton),
        plan=plan,
        skeleton=skeleton,
        frames=frames,
        chunk=chunk,
    )


def seen(keypoints: jax.Array, x_k: jax.Array, limit: float, signal_scale: float) -> jax.Array:
    """What the network sees, `[B, F, J, 5]`: the keypoints, then the noisy poses clamped to ±limit, in metres."""
    return jnp.concatenate([keypoints, jnp.clip(x_k, -limit, limit) / signal_scale], axis=-1)
