"""DiffPose: the distribution of poses that heatmaps leave open, denoised to the pose.

Gong et al., "DiffPose: Toward More Reliable 3D Pose Estimation", CVPR 2023, as published; what its releases compute is
`lifters.diffpose_release`. A detector's heatmaps and a frozen context lifter give the distribution H_K of each joint, a
mixture of Gaussians (`lifters.initial_distribution`). The forward process diffuses poses towards it,

    h_k = mu + sqrt(abar_k) (h_0 - mu) + sqrt(1 - abar_k) eps,    eps ~ N(0, Sigma),

with mu and Sigma of a component. Hypotheses start at draws of H_K and are denoised by g(h_k, f_ST, k), which reads the
context's features f_ST. Frames are denoised one by one.

The paper leaves open how g is fed and scaled. Here it is told which component it reverses: without that the reverse
process is not that of the forward one. And it corrects the pose that would be likeliest if the context's error were
Gaussian, in units of the deviation that this would leave at step k (as Karras et al. 2022 scale theirs), so that it is
as well conditioned at the first step as at the last and an untrained one already returns the context's uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.diffusion.process import at_step, diffuse, to_eps
from diffpose_jax.diffusion.samplers import Plan, initial_noise
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys, fold_in
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch, flip_averaged
from diffpose_jax.lifters.diffpose.conditional_denoising import (
    OBJECTIVES,
    Condition,
    compared,
    denoiser_input,
    drawn,
    likeliest,
    single,
)
from diffpose_jax.lifters.diffpose.initial_distribution import (
    ASSIGNMENTS,
    BASES,
    COVARIANCES,
    DEPTHS,
    assumed_statistics,
    base_distribution,
    estimated,
    initial_distribution,
    measured_statistics,
)
from diffpose_jax.lifters.diffpose.release import antithetic_steps, single_frames
from diffpose_jax.lifters.reverse import Reverse, sampling, zero_root
from diffpose_jax.skeleton import Skeleton

Array = jax.Array

STARTS = ("mixture", "noise", "estimate")

# Which component a hypothesis starts from; no reverse step is numbered like this stream.
_COMPONENT_STREAM = 2**32 - 2


def diffpose(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    context: Lifter,
    predict: str = "x0",
    base: str = "mixture",
    start: str = "mixture",
    depth: str = "context",
    covariance: str = "full",
    assignment: str = "posterior",
    features: bool = True,
) -> Lifter:
    """DiffPose around `network(x [B, F, J, C], k, features) -> [B, F, J, 3]` and a frozen deterministic `context`.

    predict says which error is minimised, all of the same network output: that of the 'next', less noisy pose (the
    paper's objective), of the noise ('eps', whitened), or of the pose itself ('x0'). base: poses are diffused towards
    H_K ('mixture'), one Gaussian of its moments ('gaussian') or N(0, 1 m) ('normal'). start: hypotheses start at draws
    of that ('mixture'), at N(0, 1 m) whatever it is ('noise'), or at the context's 'estimate'. depth of H_K: that of
    the 'context', or the training set's 'histogram'; its covariance in the image plane 'full' or 'diagonal'.
    assignment: in training the component is drawn by its responsibility for the pose ('posterior'), or by its weight
    alone ('prior', in the paper's words), so that it tells nothing of the pose. A hypothesis draws its own by weight.
    features=False leaves f_ST out; of the context's estimate, on which H_K stands, the denoiser still hears.

    A batch without mixtures has heatmaps that say no more than the keypoints: H_K is then the context's uncertainty.
    `measure` finds this and the depths once, before training; beside the context's variables they are
    `variables['frozen']`. Flip averaging is that of the context's estimate alone, as in the video release.
    """
    if context.stochastic or context.middle_frame:
        raise UserError("DiffPose context: expected a lifter that gives one pose for every frame")
    _one_of("diffusion.predict", predict, OBJECTIVES)
    _one_of("lifter.base", base, BASES)
    _one_of("lifter.start", start, STARTS)
    _one_of("lifter.depth", depth, DEPTHS)
    _one_of("lifter.covariance", covariance, COVARIANCES)
    _one_of("lifter.assignment", assignment, ASSIGNMENTS)

    def encode(variables: Variables, batch: Batch, context: Lifter = context) -> Condition:
        frozen = variables["frozen"]
        estimate = estimated(context, frozen["context"], batch)
        inner = context.features(frozen["context"], batch.keypoints) if features else None
        initial = initial_distribution(batch.keypoints, batch.mixture, estimate, frozen, depth, covariance)
        return Condition(batch.keypoints, estimate, inner, base_distribution(base, initial))

    def corrected(variables: Variables, condition: Condition, x: Array, k: Array, **options: Any) -> tuple[Array, Any]:
        alpha_bar = at_step(schedule.alpha_bar, k, x)
        likely = likeliest(condition, variables["frozen"]["spread"], x, alpha_bar)
        output = network.apply(variables, denoiser_input(condition, likely, x), k, condition.features, **options)
        output, updates = output if "mutable" in options else (output, {})
        return likely.pose + likely.deviation * output.astype(x.dtype), updates

    def denoise(variables: Variables, condition: Condition, x: Array, k: Array) -> tuple[Array, Array]:
        x0, _ = corrected(variables, condition, x, k, train=False)
        component = condition.component
        return x0, to_eps(x - component.mean, x0 - component.mean, at_step(schedule.alpha_bar, k, x))

    def init(key: Array, batch: Batch) -> Variables:
        network_key, context_key = jax.random.split(key)
        frozen = assumed_statistics(context.init(context_key, batch), skeleton.num_joints)
        frames = single_frames(Batch(batch.keypoints, batch.poses, batch.mask, batch.index))
        condition = single(encode({"frozen": frozen}, batch._replace(mixture=None)))
        condition = drawn(example_keys(key, frames.index), condition)
        likely = likeliest(condition, frozen["spread"], frames.poses, jnp.float32(0.5))
        x = denoiser_input(condition, likely, frames.poses)
        k = jnp.zeros(len(frames.index), jnp.int32)
        return {**network.init(network_key, x, k, condition.features, train=False), "frozen": frozen}

    def loss(variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        check_batch(batch, skeleton, context.frames)
        step_key, noise_key, component_key, dropout_key = jax.random.split(key, 4)
        condition, frames = single(encode(variables, batch)), single_frames(batch)
        known = frames.poses if assignment == "posterior" else None
        condition = drawn(example_keys(component_key, frames.index), condition, known)
        component = condition.component
        k = antithetic_steps(step_key, frames.index, schedule.num_steps)
        noise = component.coloured(initial_noise(example_keys(noise_key, frames.index), frames.poses.shape))
        x = diffuse(schedule, frames.poses, k, noise, component.mean)
        rngs = {"dropout": dropout_key}
        options = {"train": True, "index": frames.index, "rngs": rngs, "mutable": ["batch_stats"]}
        found, updates = corrected(variables, condition, x, k, **options)
        error = compared(predict, found, x, component, schedule, k) - compared(
            predict, frames.poses, x, component, schedule, k
        )
        total = jnp.mean(jnp.sum(jnp.square(error), axis=(-3, -2, -1)))
        if predict != "eps":
            total = total / jnp.sum(jnp.square(variables["frozen"]["spread"]))
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    def begin(noise: Array, condition: Condition) -> tuple[Array, Array]:
        component = condition.component
        if start == "mixture":
            return component.mean, component.coloured(noise)
        return component.mean, (noise if start == "noise" else condition.estimate) - component.mean

    def sampler(context: Lifter) -> Callable[[Variables, Array, Batch, int], Array]:
        return sampling(
            Reverse(
                condition=lambda variables, batch: encode(variables, batch, context),
                draw=lambda keys, condition: drawn(fold_in(keys, _COMPONENT_STREAM), condition),
                start=begin,
                denoise=denoise,
                finish=lambda x: zero_root(x, skeleton),
                plan=plan,
                skeleton=skeleton,
                frames=context.frames,
            )
        )

    return Lifter(
        init,
        loss,
        sampler(context),
        skeleton,
        context.frames,
        sample_flipped=sampler(flip_averaged(context)),
        measure=lambda frozen, train, valid: measured_statistics(context, frozen, train, valid),
    )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"config.{name}: expected one of {', '.join(known)}, found {value!r}")
