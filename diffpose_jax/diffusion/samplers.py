"""Sampling: a scan over the reverse steps of a plan, and wrappers that make one denoiser of another.

A denoiser is any callable `(x [B, ...], k scalar int32) -> (x0_hat, eps_hat)`, both of the shape of x, whose
conditioning is already bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.process import at_step, to_eps
from diffpose_jax.keys import fold_in, standard_normal

Denoiser = Callable[[Array, Array], tuple[Array, Array]]

# The noise of reverse step i folds i = 0 .. S - 1 into a key. The initial noise folds in the largest uint32 instead,
# which is the index of no step, so one key serves both.
_INITIAL_STREAM = 2**32 - 1


class Trajectory(NamedTuple):
    """What happened at each of the S reverse steps."""

    x: Array  # [S, B, ...] state after the step
    x0: Array  # [S, B, ...] clean sample predicted in the step


def initial_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw the noise N(0, 1) of `shape = [B, ...]` that sampling starts from.

    `key` is one key or a key per example `[B]`; the same one may be given to `sample`.
    """
    return standard_normal(fold_in(key, _INITIAL_STREAM), shape)


def sample(key: Array | None, denoiser: Denoiser, x_init: Array, plan: Plan, noise: Array | None = None) -> Array:
    """Take the reverse steps of a plan, `x <- a x + b x0_hat + c eps_hat + s z`, in one scan.

    Args:
        key: One key, or a key per example `[B]`: z of example b at step i then derives from (key[b], i) alone. None
            where the plan draws no noise.
        denoiser: `(x, k) -> (x0_hat, eps_hat)`.
        x_init: The initial state `[B, ...]`.
        plan: The timesteps and their coefficients.
        noise: z `[S, B, ...]` to use in place of drawn noise.

    Returns:
        The final state `[B, ...]`.

    Raises:
        ValueError: for a plan that draws noise, without a key and without the noise.
    """
    return _scan_plan(key, denoiser, x_init, plan, noise, trajectory=False)[0]


def sample_trajectory(
    key: Array | None, denoiser: Denoiser, x_init: Array, plan: Plan, noise: Array | None = None
) -> tuple[Array, Trajectory]:
    """Take the reverse steps of a plan, and keep what happened at each.

    Args:
        key: As for `sample`.
        denoiser: `(x, k) -> (x0_hat, eps_hat)`.
        x_init: The initial state `[B, ...]`.
        plan: The timesteps and their coefficients.
        noise: z `[S, B, ...]` to use in place of drawn noise.

    Returns:
        The final state `[B, ...]`, and the trajectory.
    """
    return _scan_plan(key, denoiser, x_init, plan, noise, trajectory=True)


def _scan_plan(
    key: Array | None, denoiser: Denoiser, x_init: Array, plan: Plan, noise: Array | None, trajectory: bool
) -> tuple[Array, Trajectory]:
    # Whether any step draws noise is known while tracing, because the tables of plans are numpy arrays.
    draws_noise = not isinstance(plan.table, np.ndarray) or bool(np.any(plan.table[:, 3]))
    if draws_noise and noise is None and key is None:
        raise ValueError("this plan draws noise: sample needs a key or the noise")

    def step(x: Array, inputs: tuple) -> tuple[Array, Any]:
        index, k, (a, b, c, s), given_noise = inputs
        # A network in bfloat16 gives predictions with a relative precision of 1/256. The state is kept in its own type,
        # so that this rounding is not applied to it in every step.
        x0_hat, eps_hat = (prediction.astype(x.dtype) for prediction in denoiser(x, k))
        x = a * x + b * x0_hat + c * eps_hat
        if draws_noise:
            z = given_noise if key is None or given_noise is not None else standard_normal(fold_in(key, index), x.shape)
            x = x + s * z.astype(x.dtype)
        return x, Trajectory(x, x0_hat) if trajectory else None

    table = jnp.asarray(plan.table, x_init.dtype)
    index = jnp.arange(table.shape[0], dtype=jnp.uint32)
    inputs = (index, jnp.asarray(plan.step, jnp.int32), tuple(table.T), noise)
    # A scan compiles one step, whatever their number.
    return lax.scan(step, x_init, inputs)


def clip_x0(
    denoiser: Denoiser, alpha_bar: np.ndarray | Array, low: float = -1.0, high: float = 1.0, recompute_eps: bool = True
) -> Denoiser:
    """Clip the predicted clean samples of a denoiser.

    Args:
        denoiser: `(x, k) -> (x0_hat, eps_hat)`.
        alpha_bar: `[K]`, of the schedule.
        low: Least value of x0_hat, in the units of x.
        high: Largest value of x0_hat, in the units of x.
        recompute_eps: Whether eps_hat follows from x and the clipped x0_hat (Shan et al. 2023, Zhou et al. 2023), or
            stays as predicted. DDPM plans with the mean 'x0' do not use it.

    Returns:
        The denoiser with clipped predictions.
    """

    def clipped(x: Array, k: Array) -> tuple[Array, Array]:
        x0_hat, eps_hat = denoiser(x, k)
        x0_hat = jnp.clip(x0_hat, low, high)
        # A DDIM step goes along both predictions. With eps_hat recomputed they explain the state, x = sqrt(abar) x0_hat
        # + sqrt(1 - abar) eps_hat, so that the next state is x0_hat diffused by the same noise to a lower level.
        return x0_hat, to_eps(x, x0_hat, at_step(alpha_bar, k, x)) if recompute_eps else eps_hat

    return clipped


def eps_without_root_release(denoiser: Denoiser, alpha_bar: np.ndarray | Array) -> Denoiser:
    """Estimate eps as `(x - abar x0_hat) / sqrt(1 - abar)` with `alpha_bar [K]`, as the release of Zhou et al. 2023.

    Its paper's equation 13 has `sqrt(abar)`, as the forward process has. With an oracle for x0 a sampler still ends at
    x0, but its states between are no longer x0 diffused by one noise. It goes around `clip_x0`.
    """

    def estimated(x: Array, k: Array) -> tuple[Array, Array]:
        x0_hat, _ = denoiser(x, k)
        alpha_bar_k = at_step(alpha_bar, k, x)
        # At the noisiest timestep abar and its root are both nearly 0, and the difference shows in later steps only.
        return x0_hat, (x - alpha_bar_k * x0_hat) / jnp.sqrt(1.0 - alpha_bar_k)

    return estimated


def flip_average(denoiser: Denoiser, flip: Callable[[Array], Array]) -> Denoiser:
    """Average the predictions for x and for its mirror image within each step, as Shan et al. 2023 do.

    Both are computed in one call of twice the batch.

    Args:
        denoiser: Bound to the conditioning of 2B examples: the B originals, then their mirror images in that order.
        flip: Maps `[B, ...]` to its mirror image, and is its own inverse.

    Returns:
        A denoiser of B examples.
    """

    def averaged(x: Array, k: Array) -> tuple[Array, Array]:
        # Where (x0_hat, eps_hat) of both predictions explain x, so do their averages, because the process is linear.
        def merge(prediction: Array) -> Array:
            straight, mirrored = jnp.split(prediction, 2)
            return 0.5 * (straight + flip(mirrored))

        x0_hat, eps_hat = denoiser(jnp.concatenate([x, flip(x)]), k)
        return merge(x0_hat), merge(eps_hat)

    return averaged


def centred(denoiser: Denoiser, mean: Array) -> Denoiser:
    """Shift a denoiser to the coordinates `y = x - mean`, in which a process around a mean is the usual one.

    `denoiser` takes and predicts poses `[B, F, J, 3]`; the result takes y and predicts `(x0_hat - mean, eps_hat)`. With
    it, sample from `x_init - mean` and add the mean to the final state.
    """

    # y_k = sqrt(abar) (x0 - mean) + sqrt(1 - abar) eps: the noise is the same, x0 is shifted as y is.
    def shifted(y: Array, k: Array) -> tuple[Array, Array]:
        x0_hat, eps_hat = denoiser(y + mean, k)
        return x0_hat - mean, eps_hat

    return shifted
