"""DiffuPose: the 3D pose of one frame by reverse diffusion with a modulated GCN conditioned on the 2D keypoints.

Choi et al., "DiffuPose: Monocular 3D Human Pose Estimation via Denoising Diffusion Probabilistic Model", IROS 2023.
What is diffused is the root-relative pose in metres, unscaled. The denoiser sees the noisy pose beside the keypoints
and returns, per joint, the noise (or x0) and a reconstruction of the keypoints. Sampling starts from pure noise and
clips x0 to ±1 m in every step; hypotheses are independent samples, aggregated afterwards.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.diffusion.hypotheses import example_keys
from diffpose_jax.diffusion.process import at_step, diffuse, predictions, target, uniform_steps
from diffpose_jax.diffusion.samplers import Plan, clip_x0, initial_noise
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch
from diffpose_jax.lifters.reverse import Reverse, sampling, subtract_root
from diffpose_jax.skeleton import Skeleton


def diffupose(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    predict: str = "eps",
    clip: float = 1.0,
    weight_2d: float = 0.8,
    joint_weights: jax.Array | None = None,
) -> Lifter:
    """DiffuPose around `network(x [B, 1, J, 3], keypoints [B, 1, J, 2], k) -> [B, 1, J, 5]`.

    predict names what the first three channels are: 'eps' (the paper), 'x0' or 'v'; clip is in metres; weight_2d is the
    release's weight 0.8 of the 2D reconstruction; joint_weights `[J]`.
    """
    weights = jnp.ones(skeleton.num_joints) if joint_weights is None else jnp.asarray(joint_weights, jnp.float32)

    def init(key: jax.Array, batch: Batch) -> Variables:
        return network.init(key, batch.poses, batch.keypoints, jnp.zeros(len(batch.index), jnp.int32), train=False)

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        check_batch(batch, skeleton, frames=1)
        keys = example_keys(key, batch.index)
        k = uniform_steps(keys, len(keys), schedule.num_steps)
        noise = initial_noise(keys, batch.poses.shape)
        output, updates = network.apply(
            variables,
            diffuse(schedule, batch.poses, k, noise),
            batch.keypoints,
            k,
            train=True,
            index=batch.index,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        wanted = target(predict, batch.poses, noise, at_step(schedule.alpha_bar, k, noise))
        total, displayed = denoising_loss(output, wanted, batch.keypoints, weights, weight_2d)
        return total, Aux({"loss": total, "loss_unweighted": displayed}, updates.get("batch_stats", {}))

    def denoise(variables: Variables, keypoints: jax.Array, x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = network.apply(variables, x, keypoints, k, train=False)[..., :3]
        return predictions(predict, output.astype(x.dtype), x, at_step(schedule.alpha_bar, k, x))

    reverse = Reverse(
        condition=lambda variables, batch: batch.keypoints,
        denoise=denoise,
        limit=lambda denoiser: clip_x0(denoiser, schedule.alpha_bar, -clip, clip),
        finish=lambda x: subtract_root(x, skeleton),
        plan=plan,
        skeleton=skeleton,
    )
    return Lifter(init, loss, sampling(reverse), skeleton)


def denoising_loss(
    output: jax.Array, pose_target: jax.Array, keypoints: jax.Array, joint_weights: jax.Array, weight_2d: float
) -> tuple[jax.Array, jax.Array]:
    """The loss of the release and the figure its progress bar shows, which leaves the joint weights out.

    Mean absolute error of output `[B, F, J, 5]` against pose_target `[B, F, J, 3]` beside keypoints `[B, F, J, 2]`,
    the 2D part weighted by weight_2d, joints by joint_weights `[J]` (paper: L1 + lambda L2, norm and lambda unstated).
    """
    channels = jnp.array([1.0, 1.0, 1.0, weight_2d, weight_2d], output.dtype)
    wanted = jnp.concatenate([pose_target, keypoints], axis=-1)
    error = jnp.abs(output - wanted) * channels[None, None, None, :]
    return jnp.mean(error * joint_weights[None, None, :, None]), jnp.mean(error)
