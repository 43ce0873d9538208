"""Reverse sampling, shared by all diffusion lifters: the input is encoded once, then a plan is walked per hypothesis.

A method says in a `Reverse` what is particular to it; `sampling` and `sampling_flipped` make the lifter's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffpose_jax.diffusion.hypotheses import example_keys, sample_hypotheses
from diffpose_jax.diffusion.samplers import Denoiser, Plan, centred, flip_average, initial_noise, sample
from diffpose_jax.lifters.base import Batch, Variables, check_batch, flip_batch
from diffpose_jax.skeleton import Skeleton, mirror

Array = jax.Array
Condition = Any
Sample = Callable[[Variables, Array, Batch, int], Array]


class Reverse(NamedTuple):
    """How a method comes from its input to poses.

    condition(variables, batch) -> a pytree of arrays `[B, ...]`: all that the denoiser reads of the input, encoded once
    denoise(variables, condition, x_k `[B, F, J, C]`, k scalar) -> (x0_hat, eps_hat)
    finish(x `[B, F, J, C]`) -> poses `[B, F, J, 3]` in root-relative metres, from the final state
    start(noise `[B, F, J, C]`, condition) -> (mean or None, state): where the walk begins, `mean + state`, as a base
    distribution draws it; with a mean it runs in coordinates centred there. None starts from the noise itself.
    limit(denoiser) -> denoiser: outermost, after both views of a flipped denoiser are averaged, such as `clip_x0`.
    draw(keys `[B]`, condition) -> condition: what a hypothesis draws besides its noise, such as the base distribution's
    component; `start` and `denoise` are given what it returns.
    channels is the noise's C; with `middle_frame` it has F = 1. chunk bounds how many hypotheses are in memory at once.
    """

    condition: Callable[[Variables, Batch], Condition]
    denoise: Callable[[Variables, Condition, Array, Array], tuple[Array, Array]]
    finish: Callable[[Array], Array]
    plan: Plan
    skeleton: Skeleton
    frames: int = 1
    middle_frame: bool = False
    channels: int = 3
    start: Callable[[Array, Condition], tuple[Array | None, Array]] = lambda noise, condition: (None, noise)
    limit: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser
    draw: Callable[[Array, Condition], Condition] | None = None
    chunk: int | None = None


def sampling(reverse: Reverse) -> Sample:
    """The `sample` of a lifter: hypotheses `[H, B, F, J, 3]`, each independent of H, of the batch and of the chunks.

    The noise they start from is multiplied by the temperature in the variables, see `with_temperature`.
    """
    return partial(_sample, reverse, bound_denoiser)


def sampling_flipped(reverse: Reverse) -> Sample:
    """The same, averaging over the input and its mirror image inside every step, with shared noise (Shan et al. 2023).

    Averaging after the whole chain needs nothing from here, see `base.flip_averaged`. Not for methods that `draw`.
    """
    if reverse.draw is not None:
        raise ValueError("flip averaging inside the steps would have to mirror what each hypothesis draws")
    return partial(_sample, reverse, bound_denoiser_flipped)


def bound_denoiser(reverse: Reverse, variables: Variables, batch: Batch) -> tuple[Denoiser, Condition]:
    """Encode a batch and bind the denoiser to it; the second result is the condition."""
    condition = reverse.condition(variables, batch)
    return reverse.limit(partial(reverse.denoise, variables, condition)), condition


def bound_denoiser_flipped(reverse: Reverse, variables: Variables, batch: Batch) -> tuple[Denoiser, Condition]:
    """The same, averaged over both views in each call; the condition is that of the batch as it is."""
    both = jax.tree.map(lambda *views: jnp.concatenate(views), batch, flip_batch(batch, reverse.skeleton))
    condition = reverse.condition(variables, both)
    averaged = flip_average(partial(reverse.denoise, variables, condition), partial(mirror, skeleton=reverse.skeleton))
    return reverse.limit(averaged), jax.tree.map(lambda leaf: leaf[: len(batch.index)], condition)


def with_temperature(variables: Variables, temperature: float) -> Variables:
    """Variables with which hypotheses start from noise of deviation `temperature` in place of 1.

    Above 1 they spread more, below 1 less. What a network learned about its training set is too narrow for others:
    `evaluation.calibration` finds the temperature on a split that it did not learn from.
    """
    return {**variables, "calibration": {"temperature": jnp.float32(temperature)}}


def zero_root(poses: Array, skeleton: Skeleton) -> Array:
    """Poses `[..., J, 3]` with the root set to zero and all others left where they are."""
    return poses.at[..., skeleton.root, :].set(0.0)


def subtract_root(poses: Array, skeleton: Skeleton) -> Array:
    """Poses `[..., J, 3]` moved so that the root is zero."""
    return poses - poses[..., skeleton.root : skeleton.root + 1, :]


def _sample(
    reverse: Reverse,
    bind: Callable[[Reverse, Variables, Batch], tuple[Denoiser, Condition]],
    variables: Variables,
    key: Array,
    batch: Batch,
    num_hypotheses: int,
) -> Array:
    check_batch(batch, reverse.skeleton, reverse.frames)
    denoiser, condition = bind(reverse, variables, batch)
    temperature = variables.get("calibration", {}).get("temperature", 1.0)
    frames = 1 if reverse.middle_frame else reverse.frames
    shape = (len(batch.index), frames, reverse.skeleton.num_joints, reverse.channels)

    def one(keys: Array) -> Array:
        bound, own = denoiser, condition
        if reverse.draw is not None:
            own = reverse.draw(keys, condition)
            bound = reverse.limit(partial(reverse.denoise, variables, own))
        mean, state = reverse.start(temperature * initial_noise(keys, shape), own)
        if mean is None:
            return reverse.finish(sample(keys, bound, state, reverse.plan))
        return reverse.finish(mean + sample(keys, centred(bound, mean), state, reverse.plan))

    return sample_hypotheses(one, example_keys(key, batch.index), num_hypotheses, reverse.chunk)
