"""DiffPose as released: another lifter's estimate, refined by diffusion of image and metric coordinates together.

Gong et al., "DiffPose: Toward More Reliable 3D Pose Estimation", CVPR 2023, as its two releases compute it, for frames
and for video. What is diffused is `(u, v, x, y, z)` of every joint: normalised image units beside root-relative metres.
The schedule is so weak (0.17 m at its end) that the process stays in the neighbourhood of the pose, and the denoiser
is trained on true poses alone. Sampling starts at the estimate of a frozen context lifter, GraFormer for a frame and
MixSTE for video, taken as it is for the state at a small step; so all hypotheses agree. Frames are refined one by one.

The published method, `lifters.diffpose`, differs in where it starts (draws from a distribution H_K fitted to detector
heatmaps), in its forward process (around that distribution's mean) and in what the denoiser sees (the context's
features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.diffusion.noise import ScaledNormal
from diffpose_jax.diffusion.process import at_step, diffuse, predictions, uniform_steps
from diffpose_jax.diffusion.samplers import Plan
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch, flip_averaged
from diffpose_jax.lifters.reverse import Reverse, sampling, subtract_root
from diffpose_jax.models.normalisation import example_rows
from diffpose_jax.skeleton import Skeleton

Array = jax.Array
# (keys [N], batch of N single frames) -> x0, the mean of the process or None for zero, noise: all [N, 1, J, 5].
Forward = Callable[[Array, Batch], tuple[Array, Array | None, Array]]
# (keys [B], estimate [B, F, J, 5]) -> the mean of the process or None for zero, the first state.
Start = Callable[[Array, Array], tuple[Array | None, Array]]

VIDEO_SCALE = (0.5, 0.5, 1.0, 1.0, 1.0)


def released_forward(scale: Sequence[float] = VIDEO_SCALE, mixture_spread: bool = True) -> Forward:
    """The forward process of the releases: zero-mean noise of deviation `scale [5]`, the signal shrinks to zero.

    With the batch's mixture of 2D Gaussians, u and v are the mean of a component drawn per joint. Its spread scales
    their noise in place of `scale` (the frame release) unless mixture_spread is False (the video release).
    """

    def draw(keys: Array, batch: Batch) -> tuple[Array, None, Array]:
        noise_keys, mixture_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        base = ScaledNormal(jnp.asarray(scale)[None, None, None])
        keypoints, (_, noise) = batch.keypoints, base.draw(noise_keys, (*batch.poses.shape[:-1], 5))
        if batch.mixture is not None:
            keypoints, spread = batch.mixture.draw(mixture_keys, keypoints.shape)
            noise = jnp.concatenate([spread, noise[..., 2:]], axis=-1) if mixture_spread else noise
        return jnp.concatenate([keypoints, batch.poses], axis=-1), None, noise

    return draw


def at_estimate(noise: Array, estimate: Array) -> tuple[None, Array]:
    """Start at the context's estimate `[B, F, J, 3]` without adding noise, as the releases do."""
    return None, estimate


def noised_estimate(schedule: Schedule, step: int, scale: Sequence[float] = (0.01, 0.01, 1.0, 1.0, 1.0)) -> Start:
    """Start at the estimate diffused to `step` with noise of deviation `scale [5]`: a line the releases leave out."""

    def start(noise: Array, estimate: Array) -> tuple[None, Array]:
        return None, diffuse(schedule, estimate, jnp.int32(step), jnp.asarray(scale)[None, None, None] * noise)

    return start


def diffpose_release(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    context: Lifter,
    centre_estimate: bool = True,
    forward: Forward | None = None,
    start: Start = at_estimate,
) -> Lifter:
    """DiffPose around `network(x [B, F, J, 5], k) -> eps [B, F, J, 5]` and a frozen deterministic `context`.

    The frames of a window are those of the context, whose variables are `variables['frozen']`; training does not use
    them. centre_estimate subtracts the root from its estimate (the frame release does, the video release does not).
    forward defaults to `released_forward()`. Flip averaging is that of the context alone, as in the video release.
    """
    if context.stochastic or context.middle_frame:
        raise UserError("DiffPose context: expected a lifter that gives one pose for every frame")
    forward = released_forward() if forward is None else forward

    def init(key: Array, batch: Batch) -> Variables:
        network_key, context_key = jax.random.split(key)
        x = jnp.concatenate([batch.keypoints, batch.poses], axis=-1)
        variables = network.init(network_key, x, jnp.zeros(len(batch.index), jnp.int32), train=False)
        return {**variables, "frozen": context.init(context_key, batch)}

    def loss(variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        check_batch(batch, skeleton, context.frames)
        step_key, noise_key, dropout_key = jax.random.split(key, 3)
        batch = single_frames(batch)
        k = antithetic_steps(step_key, batch.index, schedule.num_steps)
        x0, mean, noise = forward(example_keys(noise_key, batch.index), batch)
        output, updates = network.apply(
            variables,
            diffuse(schedule, x0, k, noise, mean),
            k,
            train=True,
            index=batch.index,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        total = denoising_loss(output, noise)
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    def denoise(variables: Variables, _condition: Array, x: Array, k: Array) -> tuple[Array, Array]:
        eps = network.apply(variables, x, k, train=False)
        return predictions("eps", eps.astype(x.dtype), x, at_step(schedule.alpha_bar, k, x))

    def refined(context: Lifter) -> Callable[[Variables, Array, Batch, int], Array]:
        def estimate(variables: Variables, batch: Batch) -> Array:
            # The context is deterministic: which key it gets does not matter.
            poses = context.sample(variables["frozen"], jax.random.key(0), batch, 1)[0]
            poses = subtract_root(poses, skeleton) if centre_estimate else poses
            return jnp.concatenate([batch.keypoints, poses], axis=-1)

        return sampling(
            Reverse(
                condition=estimate,
                denoise=denoise,
                finish=lambda x: subtract_root(x[..., 2:], skeleton),
                start=start,
                channels=5,
                plan=plan,
                skeleton=skeleton,
                frames=context.frames,
            )
        )

    return Lifter(
        init,
        loss,
        refined(context),
        skeleton,
        context.frames,
        stochastic=start is not at_estimate or bool(np.any(plan.table[:, 3])),
        sample_flipped=refined(flip_averaged(context)),
    )


def denoising_loss(output: Array, noise: Array) -> Array:
    """The squared error of the predicted (scaled) noise `[N, 1, J, 5]`: summed over a pose, averaged over poses."""
    return jnp.mean(jnp.sum(jnp.square(output - noise), axis=(-3, -2, -1)))


def antithetic_steps(key: Array, index: Array, num_steps: int) -> Array:
    """Draw steps `[N]`, uniform over 0 .. num_steps - 1, such that examples 2m and 2m + 1 take k and num_steps - 1 - k.

    The releases pair the first half of a batch with the second; pairs by example number do not depend on the number of
    devices that a batch is spread over.
    """
    k = uniform_steps(example_keys(key, index // 2), len(index), num_steps)
    return jnp.where(index % 2 == 0, k, num_steps - 1 - k)


def single_frames(batch: Batch) -> Batch:
    """The frames of a batch `[B, F, ...]` as examples `[B F, 1, ...]`, each with an index of its own."""
    leading = batch.keypoints.shape[:2]
    frames = jax.tree.map(lambda part: part.reshape(-1, 1, *part.shape[2:]), batch._replace(index=None))
    return frames._replace(index=example_rows(batch.index, leading))
