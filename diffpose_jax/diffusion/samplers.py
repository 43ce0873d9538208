"""Samplers: a table of coefficients walked by one scan, and wrappers that turn one denoiser into another.

A denoiser is any callable `(x_k [B, ...], k scalar int32) -> (x0_hat, eps_hat)` with its conditioning already bound.
DDPM and DDIM differ in the table only. A process around a base mean is walked in centred coordinates, see `centred`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffpose_jax.diffusion.process import at_step, predictions, to_eps
from diffpose_jax.diffusion.schedules import Schedule, equal_arrays, hash_arrays
from diffpose_jax.errors import UserError
from diffpose_jax.keys import fold_in, standard_normal

Denoiser = Callable[[Array, Array], tuple[Array, Array]]
Network = Callable[[Array, Array], Array]

# Step noise folds 0 .. S - 1 into a key; the initial state takes the number no step can have.
_INITIAL_STREAM = 2**32 - 1


class Plan(NamedTuple):
    """The reverse steps of a sampler, numpy constants: `x_next = a x + b x0_hat + c eps_hat + s z`."""

    step: np.ndarray  # [S] int32, the k of each denoiser call, decreasing
    table: np.ndarray  # [S, 4] float32, a b c s

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and equal_arrays(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash_arrays(self)


class Trajectory(NamedTuple):
    """What happened at each of the S reverse steps."""

    x: Array  # [S, B, ...] state after the step
    x0: Array  # [S, B, ...] clean sample predicted in the step


def spaced_steps(total: int, steps: int, spacing: str = "linspace") -> tuple[int, ...]:
    """Choose about `steps` of the indices 0 .. total - 1, noisiest first, as the releases do.

    * linspace: `floor(total i / steps) - 1` for i = steps .. 1 (Shan et al. 2023, Zhou et al. 2023): starts at
      total - 1, never calls 0;
    * even: 0, skip, 2 skip, ... below total with `skip = total // steps` (Gong et al. 2023, "uniform"): ends at 0;
      yields more than `steps` indices when total is not a multiple;
    * quadratic: squares of evenly spaced numbers from 0 to sqrt(0.8 total), truncated (Gong et al. 2023, "quad").
    """
    if spacing not in SPACINGS:
        raise UserError(f"sampler spacing: expected one of {', '.join(SPACINGS)}, found {spacing!r}")
    if not 1 <= steps <= total:
        raise UserError(f"sampler steps: expected 1 to {total}, found {steps}")
    if spacing == "linspace":
        return tuple(total * i // steps - 1 for i in range(steps, 0, -1))
    if spacing == "even":
        return tuple(reversed(range(0, total, total // steps)))
    gaps = max(steps - 1, 1)
    return tuple(4 * total * i * i // (5 * gaps * gaps) for i in range(steps - 1, -1, -1))


SPACINGS = ("linspace", "even", "quadratic")


def ddpm_plan(schedule: Schedule, steps: int | Sequence[int] | None = None, mean: str = "x0") -> Plan:
    """Ancestral sampling with the posterior variance (DDPM, equations 6 and 7), over all steps or a subset.

    steps: None for every step, a number (spaced as `linspace`), or the explicit decreasing indices; a subset is
    treated as a diffusion of its own whose betas are those of the jumps.
    mean: "x0" forms the posterior mean from x0_hat and x, so that clipping x0_hat has its effect (Choi et al. 2023);
    "eps" forms `(x - beta / sqrt(1 - abar) eps_hat) / sqrt(1 - beta)` (Rommel et al. 2023), the same number while
    nothing is clipped.
    """
    if mean not in ("x0", "eps"):
        raise UserError(f"sampler mean: expected one of x0, eps, found {mean!r}")
    walk = range(schedule.num_steps - 1, -1, -1) if steps is None else steps
    jump = _jumps(schedule, _walk(schedule, walk, "linspace", None))
    deviation = np.sqrt(jump.beta * jump.one_minus_next / jump.one_minus)
    zero = np.zeros_like(deviation)
    if mean == "x0":
        on_x0 = jump.beta * np.sqrt(jump.alpha_bar_next) / jump.one_minus
        on_x = jump.one_minus_next * np.sqrt(jump.keep) / jump.one_minus
        return _plan(jump.step, on_x, on_x0, zero, deviation)
    on_x = 1.0 / np.sqrt(jump.keep)
    return _plan(jump.step, on_x, zero, -on_x * jump.beta / np.sqrt(jump.one_minus), deviation)


def ddim_plan(
    schedule: Schedule,
    steps: int | Sequence[int],
    eta: float = 0.0,
    spacing: str = "linspace",
    span: int | None = None,
) -> Plan:
    """DDIM (Song et al. 2021, equation 12) over explicit pairs (k, k_next); after the last index comes clean data.

    steps: how many, spaced as `spaced_steps(span, steps, spacing)`, or the explicit decreasing indices, however uneven.
    span: the walk uses indices below it (Gong et al. 2023 start partway: span 24, 2 even steps is 12, 0); None for all.
    eta: 0 is deterministic, 1 has the posterior variance of DDPM.
    """
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"sampler eta: expected 0 to 1, found {eta}")
    jump = _jumps(schedule, _walk(schedule, steps, spacing, span))
    variance = eta**2 * jump.beta * jump.one_minus_next / jump.one_minus
    # 1 - abar_next - variance, written without the subtraction that would cancel for eta = 1.
    left = (1.0 - eta**2) * jump.beta + jump.keep * jump.one_minus_next
    on_eps = np.sqrt(jump.one_minus_next * left / jump.one_minus)
    return _plan(jump.step, np.zeros_like(on_eps), np.sqrt(jump.alpha_bar_next), on_eps, np.sqrt(variance))


def initial_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Pure noise N(0, 1) `[B, ...]` to start from; `key` is one key or a key per example `[B]`.

    The same key may be given to `sample`: the streams are apart.
    """
    return standard_normal(fold_in(key, _INITIAL_STREAM), shape)


def sample(
    key: Array | None,
    denoiser: Denoiser,
    x_init: Array,
    plan: Plan,
    noise: Array | None = None,
    trajectory: bool = False,
) -> Array | tuple[Array, Trajectory]:
    """Walk a plan from `x_init` `[B, ...]` to the final state of the same shape, in one scan.

    key: one typed key, or a key array `[B]`: then z of example b at step i derives from (key[b], i) alone. None when
    the plan draws nothing. noise `[S, B, ...]` is replayed instead of drawn. With `trajectory` the second result has
    every step.
    """
    # Plans are numpy: whether any step draws noise is known while tracing.
    random = not isinstance(plan.table, np.ndarray) or bool(np.any(plan.table[:, 3]))
    if random and noise is None and key is None:
        raise ValueError("this plan draws noise: sample needs a key or the noise")

    def step(x: Array, inputs: tuple) -> tuple[Array, Trajectory | None]:
        index, k, (a, b, c, s), replayed = inputs
        x0_hat, eps_hat = (prediction.astype(x.dtype) for prediction in denoiser(x, k))
        x = a * x + b * x0_hat + c * eps_hat
        if random:
            z = standard_normal(fold_in(key, index), x.shape) if replayed is None else replayed
            x = x + s * z.astype(x.dtype)
        return x, Trajectory(x, x0_hat) if trajectory else None

    table = jnp.asarray(plan.table, x_init.dtype)
    order = jnp.arange(table.shape[0], dtype=jnp.uint32)
    inputs = (order, jnp.asarray(plan.step, jnp.int32), tuple(table.T), noise)
    x, history = lax.scan(step, x_init, inputs)
    return (x, history) if trajectory else x


def predict_with(kind: str, network: Network, schedule: Schedule) -> Denoiser:
    """Make a denoiser of a network `(x, k) -> output [B, ...]` that predicts `kind`: eps, x0 or v."""

    def denoiser(x: Array, k: Array) -> tuple[Array, Array]:
        output = network(x, k).astype(x.dtype)
        return predictions(kind, output, x, at_step(schedule.alpha_bar, k, x))

    return denoiser


def clip_x0(
    denoiser: Denoiser, alpha_bar: np.ndarray | Array, low: float = -1.0, high: float = 1.0, recompute_eps: bool = True
) -> Denoiser:
    """Clip x0_hat to [low, high] (in the units of x).

    eps_hat is recomputed from the clipped x0_hat and x with `alpha_bar [K]` (Shan et al. 2023, Zhou et al. 2023), or
    left as predicted; DDPM plans with mean "x0" do not use it.
    """

    def clipped(x: Array, k: Array) -> tuple[Array, Array]:
        x0_hat, eps_hat = denoiser(x, k)
        x0_hat = jnp.clip(x0_hat, low, high)
        return x0_hat, to_eps(x, x0_hat, at_step(alpha_bar, k, x)) if recompute_eps else eps_hat

    return clipped


def eps_without_root(denoiser: Denoiser, alpha_bar: np.ndarray | Array) -> Denoiser:
    """Estimate eps as `(x - abar x0_hat) / sqrt(1 - abar)`, where the forward process has `sqrt(abar)`; abar `[K]`.

    The slip of the release of Zhou et al. 2023 against its paper's equation 13: an oracle still returns x0, but the
    state no longer is x0 diffused by one noise. Wrap it around `clip_x0`.
    """

    def estimated(x: Array, k: Array) -> tuple[Array, Array]:
        x0_hat, _ = denoiser(x, k)
        alpha_bar_k = at_step(alpha_bar, k, x)
        return x0_hat, (x - alpha_bar_k * x0_hat) / jnp.sqrt(1.0 - alpha_bar_k)

    return estimated


def flip_average(denoiser: Denoiser, flip: Callable[[Array], Array]) -> Denoiser:
    """Average the predictions for x and for its mirror image, inside each step, in one call of twice the batch.

    As Shan et al. 2023 do. `denoiser` is bound to conditioning of 2B examples: the B originals, then their mirror
    images in the same order. `flip` maps `[B, ...]` to its mirror image and is its own inverse. The result is a
    denoiser of B examples.
    """

    def averaged(x: Array, k: Array) -> tuple[Array, Array]:
        def merge(prediction: Array) -> Array:
            straight, mirrored = jnp.split(prediction, 2)
            return 0.5 * (straight + flip(mirrored))

        x0_hat, eps_hat = denoiser(jnp.concatenate([x, flip(x)]), k)
        return merge(x0_hat), merge(eps_hat)

    return averaged


def centred(denoiser: Denoiser, mean: Array) -> Denoiser:
    """Shift a denoiser to coordinates `y = x - mean`, in which a process around a base mean is the usual one.

    `denoiser` takes and predicts poses `[B, F, J, 3]`; the result takes y and predicts `(x0_hat - mean, eps_hat)`. Walk
    a plan from `x_init - mean` with it and add the mean to the final state.
    """

    def shifted(y: Array, k: Array) -> tuple[Array, Array]:
        x0_hat, eps_hat = denoiser(y + mean, k)
        return x0_hat - mean, eps_hat

    return shifted


class _Jumps(NamedTuple):
    """float64 quantities `[S]` of the transitions k -> k_next of a walk."""

    step: np.ndarray
    keep: np.ndarray  # alpha_bar / alpha_bar_next
    beta: np.ndarray  # 1 - keep
    one_minus: np.ndarray  # 1 - alpha_bar at k
    alpha_bar_next: np.ndarray
    one_minus_next: np.ndarray


def _jumps(schedule: Schedule, walk: Sequence[int]) -> _Jumps:
    step = np.asarray(walk, np.int32)
    following = np.append(step[1:], -1)
    # Index k + 1 of these arrays is step k, index 0 clean data. Jump variances come from the betas, without
    # cancellation.
    log_alpha_bar = np.append(0.0, np.cumsum(np.log1p(-schedule.beta.astype(np.float64))))
    alpha_bar = np.append(1.0, schedule.alpha_bar.astype(np.float64))
    one_minus = np.append(0.0, schedule.one_minus_alpha_bar.astype(np.float64))
    return _Jumps(
        step=step,
        keep=alpha_bar[step + 1] / alpha_bar[following + 1],
        beta=-np.expm1(log_alpha_bar[step + 1] - log_alpha_bar[following + 1]),
        one_minus=one_minus[step + 1],
        alpha_bar_next=alpha_bar[following + 1],
        one_minus_next=one_minus[following + 1],
    )


def _walk(schedule: Schedule, steps: int | Sequence[int], spacing: str, span: int | None) -> tuple[int, ...]:
    if isinstance(steps, int | np.integer):
        span = schedule.num_steps if span is None else span
        if not 1 <= span <= schedule.num_steps:
            raise UserError(f"sampler span: expected 1 to {schedule.num_steps}, found {span}")
        steps = spaced_steps(span, int(steps), spacing)
    walk = tuple(int(k) for k in steps)
    decreasing = all(k > following for k, following in zip(walk, (*walk, -1)[1:], strict=True))
    if not walk or not decreasing or walk[0] >= schedule.num_steps:
        raise UserError(f"sampler steps: expected decreasing indices from {schedule.num_steps - 1} to 0, found {walk}")
    return walk


def _plan(step: np.ndarray, *columns: np.ndarray) -> Plan:
    return Plan(step, np.stack(columns, axis=1).astype(np.float32))
