"""DiffHPE: the poses of a sequence by reverse diffusion with a graph CSDI, conditioned on keypoints or on a lifter.

Rommel et al., "DiffHPE: Robust, Coherent 3D Human Pose Lifting with Diffusion", ICCV-W 2023. What is diffused is the
root-relative pose in metres, unscaled; the network predicts the noise of all joints, the root's too. DiffHPE-2D sees
the keypoints beside the noisy pose. DiffHPE-Wrapper sees the features of a frozen lifter (MixSTE's, after the norm of
its head) beside the noisy pose, which a trained linear layer brings to their width. Samples are ancestral and not
clipped; hypotheses (5) are averaged afterwards.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffpose_jax.diffusion.hypotheses import example_keys
from diffpose_jax.diffusion.process import align, at_step, diffuse, predictions, uniform_steps
from diffpose_jax.diffusion.samplers import Plan, initial_noise
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Variables, check_batch
from diffpose_jax.lifters.reverse import Reverse, sampling, subtract_root
from diffpose_jax.models.linear import Linear
from diffpose_jax.skeleton import Skeleton

Encoding = Literal["concat", "sum"]
Condition = Literal["features", "pose"]
Start = Literal["noise", "context"]


class Conditioned(nn.Module):
    """A noise predictor `denoiser(channels [B, F, J, D], k) -> [B, F, J, 3]` shown a noisy pose and a condition.

    The pose `x [B, F, J, 3]`, with `encode_pose` lifted to the width of `condition [B, F, J, C]`, stands before it, or
    is added to it (`encoding`).
    """

    denoiser: nn.Module
    encode_pose: bool = False
    encoding: Encoding = "concat"

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, k: jax.Array, *, train: bool, index: jax.Array | None = None
    ) -> jax.Array:
        if self.encode_pose:
            x = Linear(condition.shape[-1], name="pose_encoder")(x)
        if self.encoding == "concat":
            return self.denoiser(jnp.concatenate([x, condition], axis=-1), k, train=train, index=index)
        if x.shape != condition.shape:
            found = f"{x.shape[-1]} and {condition.shape[-1]}"
            raise UserError(f"DiffHPE encoding 'sum': expected pose and condition of one width, found {found}")
        return self.denoiser(x + condition, k, train=train, index=index)


class Known(NamedTuple):
    """What the reverse process knows of its input: the condition `[B, F, J, C]`, maybe a pose to start from."""

    condition: jax.Array
    start: jax.Array | None


def diffhpe(
    network: nn.Module,
    skeleton: Skeleton,
    schedule: Schedule,
    plan: Plan,
    *,
    frames: int = 27,
    context: Lifter | None = None,
    condition: Condition = "features",
    encoding: Encoding = "concat",
    encode_pose: bool = True,
    p_uncond: float = 0.0,
    guidance: float = 0.0,
    start: Start = "noise",
    root_relative: bool = True,
    chunk: int | None = None,
) -> Lifter:
    """DiffHPE-2D around `network(channels [B, F, J, D], k) -> [B, F, J, 3]`; with a frozen `context`, DiffHPE-Wrapper.

    The context is encoded once per input. condition: what of the context is seen, its features or its pose; encoding
    and encode_pose (with a context only): see `Conditioned`. p_uncond is the chance that an example's condition is
    zeroed in training; guidance g samples with `(1 + g) eps(condition) - g eps(0)`. start 'context' begins at the first
    step of the plan with the context's pose as it is. The release leaves the root where the network puts it:
    `root_relative=False`.
    """
    denoiser = Conditioned(network, encode_pose and context is not None, _one_of("encoding", encoding, Encoding))
    _one_of("condition", condition, Condition)
    if _one_of("start", start, Start) == "context" and context is None:
        raise UserError("DiffHPE start: expected 'noise' where there is no context, found 'context'")

    def known(variables: Variables, batch: Batch) -> Known:
        check_batch(batch, skeleton, frames)
        if context is None:
            return Known(batch.keypoints, None)
        pose = None
        if condition == "pose" or start == "context":
            pose = context.sample(variables["frozen"], jax.random.key(0), batch, 1)[0]
        seen = pose if condition == "pose" else context.features(variables["frozen"], batch.keypoints)
        return Known(seen, pose if start == "context" else None)

    def init(key: jax.Array, batch: Batch) -> Variables:
        context_key, key = jax.random.split(key)
        frozen = {} if context is None else {"frozen": context.init(context_key, batch)}
        seen = known(frozen, batch).condition
        return {**denoiser.init(key, batch.poses, seen, jnp.zeros(len(seen), jnp.int32), train=False), **frozen}

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        keys = example_keys(key, batch.index)
        k = uniform_steps(keys, len(keys), schedule.num_steps)
        noise = initial_noise(keys, batch.poses.shape)
        seen = known(variables, batch).condition
        if p_uncond:
            kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 0), 1 - p_uncond))(keys)
            seen = seen * align(kept, seen)
        predicted, updates = denoiser.apply(
            _own(variables),
            diffuse(schedule, batch.poses, k, noise),
            seen,
            k,
            train=True,
            index=batch.index,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        total = denoising_loss(predicted, noise)
        return total, Aux({"loss": total}, updates.get("batch_stats", {}))

    def denoise(variables: Variables, known: Known, x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = known.condition
        if guidance:
            x, seen = jnp.concatenate([x, x]), jnp.concatenate([seen, jnp.zeros_like(seen)])
        eps = denoiser.apply(_own(variables), x, seen, k, train=False).astype(x.dtype)
        if guidance:
            x = x[: len(x) // 2]
            with_condition, without = jnp.split(eps, 2)
            eps = (1 + guidance) * with_condition - guidance * without
        return predictions("eps", eps, x, at_step(schedule.alpha_bar, k, x))

    reverse = Reverse(
        condition=known,
        denoise=denoise,
        finish=lambda x: subtract_root(x, skeleton) if root_relative else x,
        plan=plan,
        skeleton=skeleton,
        frames=frames,
        start=lambda noise, known: (None, known.start if start == "context" else noise),
        chunk=chunk,
    )
    return Lifter(init, loss, sampling(reverse), skeleton, frames)


def denoising_loss(predicted: jax.Array, noise: jax.Array) -> jax.Array:
    """The mean squared error of predicted noise `[B, F, J, 3]` over everything, the root included."""
    return jnp.mean(jnp.square(predicted - noise))


def _own(variables: Variables) -> Variables:
    return {name: part for name, part in variables.items() if name != "frozen"}


def _one_of(option: str, value: str, choices: object) -> str:
    names = get_args(choices)
    if value not in names:
        raise UserError(f"DiffHPE {option}: expected one of {', '.join(names)}, found {value!r}")
    return value
