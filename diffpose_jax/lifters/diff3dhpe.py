"""Diff3DHPE: pose sequences by deterministic DDIM in few steps, with graph-diffusion attention in the denoiser.

Zhou et al., "Diff3DHPE: A Diffusion Model for 3D Human Pose Estimation", ICCV workshops 2023.
What is diffused are root-relative poses divided by one length. The denoiser sees the keypoints beside the noisy poses
and returns the clean ones; the loss is their squared error, weighted by the step. M is MixSTE, all frames at once. P is
PoseFormer: only the middle frame's pose is diffused, and shown beside the keypoints of every frame; the release does
the same with a MixSTE whose head mixes the frames. The release departs from the paper in two places, both options here.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.diffusion.hypotheses import example_keys
from diffpose_jax.diffusion.process import at_step, diffuse, predictions, snr_weight, uniform_steps
from diffpose_jax.diffusion.samplers import Denoiser, Plan, clip_x0, eps_without_root, initial_noise
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch
from diffpose_jax.lifters.reverse import Reverse, sampling, sampling_flipped, zero_root
from diffpose_jax.skeleton import Skeleton


def diff3dhpe(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    frames: int,
    scale: float,
    k_clip: float = 2.0,
    clip: float = 1.0,
    released_weight: bool = False,
    released_eps: bool = False,
    middle_frame: bool = False,
    flip_inside: bool = False,
    chunk: int | None = None,
) -> Lifter:
    """Diff3DHPE around `network(x [B, F, J, 5], k) -> [B, F, J, 3]`, or `[B, 1, J, 3]` with `middle_frame`.

    scale is the length in metres that becomes 1: the paper's [-1, 1] wants the largest coordinate of all poses, and
    x0 is clipped to ±clip of it. Weights are `1 + min(k_t, k_clip)` (equations 10 and 11); released_weight takes the
    release's k_t, released_eps its noise estimate in place of equation 13. Flips are averaged after the chain, with
    noise of their own, unless flip_inside. chunk bounds how many hypotheses are in memory at once.
    """
    weight = snr_weight(schedule, k_clip, released=released_weight)

    def init(key: jax.Array, batch: Batch) -> Variables:
        x = seen(batch.keypoints, diffused(batch.poses))
        return network.init(key, x, jnp.zeros(len(batch.index), jnp.int32), train=False)

    def diffused(poses: jax.Array) -> jax.Array:
        middle = poses[:, frames // 2 : frames // 2 + 1] if middle_frame else poses
        return middle / scale

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        check_batch(batch, skeleton, frames)
        x0, keys = diffused(batch.poses), example_keys(key, batch.index)
        k = uniform_steps(keys, len(keys), schedule.num_steps)
        output, updates = network.apply(
            variables,
            seen(batch.keypoints, diffuse(schedule, x0, k, initial_noise(keys, x0.shape))),
            k,
            train=True,
            index=batch.index,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        total = weighted_square(output, x0, at_step(weight, k, x0))
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    reverse = diff3dhpe_reverse(
        network,
        skeleton,
        schedule,
        plan,
        frames=frames,
        scale=scale,
        clip=clip,
        released_eps=released_eps,
        middle_frame=middle_frame,
        chunk=chunk,
    )
    flipped = sampling_flipped(reverse) if flip_inside else None
    return Lifter(init, loss, sampling(reverse), skeleton, frames, middle_frame=middle_frame, sample_flipped=flipped)


def diff3dhpe_reverse(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    frames: int,
    scale: float = 1.0,
    clip: float = 1.0,
    released_eps: bool = False,
    middle_frame: bool = False,
    chunk: int | None = None,
) -> Reverse:
    """How Diff3DHPE samples: the state goes to the network as it is, x0 is clipped, eps follows equation 13."""

    def denoise(variables: Variables, keypoints: jax.Array, x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = network.apply(variables, seen(keypoints, x), k, train=False)
        return predictions("x0", output.astype(x.dtype), x, at_step(schedule.alpha_bar, k, x))

    def limit(denoiser: Denoiser) -> Denoiser:
        clipped = clip_x0(denoiser, schedule.alpha_bar, -clip, clip)
        return eps_without_root(clipped, schedule.alpha_bar) if released_eps else clipped

    return Reverse(
        condition=lambda variables, batch: batch.keypoints,
        denoise=denoise,
        limit=limit,
        finish=lambda x: zero_root(scale * x, skeleton),
        plan=plan,
        skeleton=skeleton,
        frames=frames,
        middle_frame=middle_frame,
        chunk=chunk,
    )


def seen(keypoints: jax.Array, x_k: jax.Array) -> jax.Array:
    """What the network sees, `[B, F, J, 5]`: keypoints `[B, F, J, 2]`, then noisy poses; one alone in every frame."""
    return jnp.concatenate([keypoints, jnp.broadcast_to(x_k, (*keypoints.shape[:-1], x_k.shape[-1]))], axis=-1)


def weighted_square(output: jax.Array, x0: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean of `weight (output - x0)^2` over output and x0 `[B, F, J, 3]`; weight is `[B, 1, 1, 1]`."""
    return jnp.mean(weight * jnp.square(output - x0))
