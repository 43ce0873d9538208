"""Reverse timesteps and sampler coefficients: what DDPM and DDIM do at each step, as a table of numbers.

One reverse step goes from timestep k to the next smaller one, k', or to clean data after the last. Both samplers form
it from the state x, the network's estimates of the clean sample and of the noise, and fresh standard normal noise z:
`x_next = a x + b x0_hat + c eps_hat + s z`. They differ in the coefficients a, b, c and s only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffpose_jax.diffusion.schedules import Schedule, equal_arrays, hash_arrays
from diffpose_jax.errors import UserError

SPACINGS = ("linspace", "even", "quadratic")


class Plan(NamedTuple):
    """The reverse steps of a sampler, in numpy, so that they are constants of a traced function."""

    step: np.ndarray  # [S] int32, the timestep k of each denoiser call, decreasing
    table: np.ndarray  # [S, 4] float32, the coefficients a, b, c, s

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and equal_arrays(self, other)

    # A tuple has its own `!=`, which would compare arrays element by element.
    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash_arrays(self)


def space_timesteps(total: int, steps: int, spacing: str = "linspace") -> tuple[int, ...]:
    """Choose about `steps` of the timesteps 0 .. total - 1, the noisiest first.

    Args:
        total: How many timesteps there are to choose from.
        steps: How many to choose, 1 to `total`.
        spacing: 'linspace' takes `floor(total i / steps) - 1` for i = steps .. 1 (Shan et al. 2023, Zhou et al. 2023):
            from total - 1, without 0. 'even' takes 0, skip, 2 skip, ... below total, with `skip = total // steps` (Gong
            et al. 2023, there "uniform"): it ends at 0 and has more than `steps` timesteps where total is not a
            multiple of them. 'quadratic' takes the truncated squares of evenly spaced numbers from 0 to
            sqrt(0.8 total) (Gong et al. 2023, there "quad").

    Returns:
        Decreasing timesteps.

    Raises:
        UserError: for an unknown spacing, or a number of steps out of range.
    """
    if spacing not in SPACINGS:
        raise UserError(f"sampler spacing: expected one of {', '.join(SPACINGS)}, found {spacing!r}")
    if not 1 <= steps <= total:
        raise UserError(f"sampler steps: expected 1 to {total}, found {steps}")
    if spacing == "linspace":
        # The releases take linspace(-1, total - 1, steps + 1), cut off to integers, without its first entry -1. Entry i
        # is total i / steps - 1. The integer division is exact, where a float linspace lands one lower for some numbers
        # of steps.
        return tuple(total * i // steps - 1 for i in range(steps, 0, -1))
    if spacing == "even":
        return tuple(reversed(range(0, total, total // steps)))
    # Squares lie closer together near the clean end, where a step changes the noise by a larger factor.
    # (i sqrt(0.8 total) / (steps - 1))^2 in integers, where truncation is exact.
    gaps = max(steps - 1, 1)
    return tuple(4 * total * i * i // (5 * gaps * gaps) for i in range(steps - 1, -1, -1))


def ddpm_plan(schedule: Schedule, steps: int | Sequence[int] | None = None, mean: str = "x0") -> Plan:
    """Compute the coefficients of ancestral sampling with the posterior variance (DDPM, equations 6 and 7).

    Args:
        schedule: The schedule of the forward process.
        steps: None for every timestep, a number of them (spaced as 'linspace'), or the decreasing timesteps
            themselves. A subset is a diffusion of its own, whose betas are those of its jumps.
        mean: 'x0' forms the posterior mean from x0_hat and x, so that clipping x0_hat has an effect (Choi et al. 2023).
            'eps' forms it from eps_hat and x (Rommel et al. 2023). Both are the same number while nothing is clipped.

    Returns:
        A plan of as many steps.

    Raises:
        UserError: for an unknown mean, or timesteps that are not decreasing ones of the schedule.
    """
    if mean not in ("x0", "eps"):
        raise UserError(f"sampler mean: expected one of x0, eps, found {mean!r}")
    timesteps = range(schedule.num_steps - 1, -1, -1) if steps is None else steps
    jump = _transitions(schedule, _choose_timesteps(schedule, timesteps, "linspace", None))
    # Seen from x_k', what is known is x_k' ~ N(sqrt(abar') x0, 1 - abar') and x_k ~ N(sqrt(alpha) x_k', beta).
    # Precisions add: 1 / (1 - abar') + alpha / beta = (1 - abar) / (beta (1 - abar')), because beta + alpha (1 - abar')
    # = 1 - abar. The mean is the variance times sqrt(abar') x0 / (1 - abar') + sqrt(alpha) x_k / beta.
    # q(x_k' | x_k, x0) is a Gaussian with the variance beta (1 - abar') / (1 - abar): equation 7.
    std = np.sqrt(jump.beta * jump.one_minus_next / jump.one_minus)
    # The last jump ends at clean data, 1 - abar' = 0: its std is 0 and its mean x0_hat, so that no noise is left in the
    # sample. Ho et al. also try the variance beta, which is optimal for x0 ~ N(0, I); this one is optimal for a single
    # x0, and it is the one that Choi et al. and Rommel et al. take.
    zero = np.zeros_like(std)
    if mean == "x0":
        # Its mean is (sqrt(abar') beta x0 + sqrt(alpha) (1 - abar') x_k) / (1 - abar), equation 7 too.
        on_x0 = jump.beta * np.sqrt(jump.alpha_bar_next) / jump.one_minus
        on_x = jump.one_minus_next * np.sqrt(jump.alpha) / jump.one_minus
        return _stack(jump.timestep, on_x, on_x0, zero, std)
    # With x0 = (x_k - sqrt(1 - abar) eps) / sqrt(abar) it is (x_k - beta / sqrt(1 - abar) eps) / sqrt(alpha): equation
    # 11.
    # The two terms in x_k add up to 1 / sqrt(alpha), because beta + alpha (1 - abar') = 1 - abar.
    on_x = 1.0 / np.sqrt(jump.alpha)
    return _stack(jump.timestep, on_x, zero, -on_x * jump.beta / np.sqrt(jump.one_minus), std)


def ddim_plan(
    schedule: Schedule,
    steps: int | Sequence[int],
    eta: float = 0.0,
    spacing: str = "linspace",
    num_timesteps: int | None = None,
) -> Plan:
    """Compute the coefficients of DDIM (Song et al. 2021, equation 12) for a choice of timesteps.

    Args:
        schedule: The schedule of the forward process.
        steps: How many timesteps, chosen by `space_timesteps`, or the decreasing timesteps themselves, however uneven.
        eta: 0 is deterministic, 1 has the posterior variance of DDPM, and values between interpolate (equation 16).
        spacing: How timesteps are chosen, see `space_timesteps`.
        num_timesteps: They are chosen among the first so many of the schedule; None: among all. Gong et al. 2023 start
            partway: among the first 24, 2 steps spaced as 'even' are 12 and 0.

    Returns:
        A plan of as many steps.

    Raises:
        UserError: for an eta outside 0 to 1, an unknown spacing, or timesteps that are not decreasing ones of the
            schedule.
    """
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"sampler eta: expected 0 to 1, found {eta}")
    jump = _transitions(schedule, _choose_timesteps(schedule, steps, spacing, num_timesteps))
    # For every sigma the next state has the marginal of the forward process, N(sqrt(abar') x0, 1 - abar'): the noise
    # that is kept has the variance 1 - abar' - sigma^2 and the fresh noise sigma^2. So one trained network serves every
    # eta and every choice of timesteps.
    # x_next = sqrt(abar') x0_hat + sqrt(1 - abar' - sigma^2) eps_hat + sigma z, with
    # sigma^2 = eta^2 beta (1 - abar') / (1 - abar).
    variance = eta**2 * jump.beta * jump.one_minus_next / jump.one_minus
    # For eta = 1 the difference under the second root cancels. From abar = alpha abar' follows
    # 1 - abar = beta + alpha (1 - abar'), and with it
    # 1 - abar' - sigma^2 = (1 - abar') ((1 - eta^2) beta + alpha (1 - abar')) / (1 - abar): sums only.
    left = (1.0 - eta**2) * jump.beta + jump.alpha * jump.one_minus_next
    on_eps = np.sqrt(jump.one_minus_next * left / jump.one_minus)
    return _stack(jump.timestep, np.zeros_like(on_eps), np.sqrt(jump.alpha_bar_next), on_eps, np.sqrt(variance))


class _Transitions(NamedTuple):
    """float64 quantities `[S]` of the transitions from timestep k to the next one k', abar' being 1 for clean data."""

    timestep: np.ndarray  # k
    alpha: np.ndarray  # abar / abar'
    beta: np.ndarray  # 1 - alpha
    one_minus: np.ndarray  # 1 - abar
    alpha_bar_next: np.ndarray  # abar'
    one_minus_next: np.ndarray  # 1 - abar'


def _transitions(schedule: Schedule, timesteps: Sequence[int]) -> _Transitions:
    if not schedule.alpha_bar.all():
        zero = np.argmin(schedule.alpha_bar)
        raise UserError(f"sampler: expected alpha_bar above 0 in float32, found 0 at step {zero} of the schedule")
    k = np.asarray(timesteps, np.int32)
    k_next = np.append(k[1:], -1)
    # Entry k + 1 of these arrays belongs to timestep k, entry 0 to clean data. The variance of a jump is
    # 1 - prod(1 - beta) = -expm1(sum(log1p(-beta))): a difference of cumulative products would cancel.
    log_alpha_bar = np.append(0.0, np.cumsum(np.log1p(-schedule.beta.astype(np.float64))))
    alpha_bar = np.append(1.0, schedule.alpha_bar.astype(np.float64))
    one_minus = np.append(0.0, schedule.one_minus_alpha_bar.astype(np.float64))
    return _Transitions(
        timestep=k,
        # q(x_k | x_k') = N(sqrt(alpha) x_k', beta): the product of the alphas between two timesteps is a quotient of
        # abars.
        alpha=alpha_bar[k + 1] / alpha_bar[k_next + 1],
        beta=-np.expm1(log_alpha_bar[k + 1] - log_alpha_bar[k_next + 1]),
        one_minus=one_minus[k + 1],
        alpha_bar_next=alpha_bar[k_next + 1],
        one_minus_next=one_minus[k_next + 1],
    )


def _choose_timesteps(
    schedule: Schedule, steps: int | Sequence[int], spacing: str, num_timesteps: int | None
) -> tuple[int, ...]:
    """Space a number of timesteps, and check that they are decreasing ones of the schedule."""
    if isinstance(steps, int | np.integer):
        total = schedule.num_steps if num_timesteps is None else num_timesteps
        if not 1 <= total <= schedule.num_steps:
            raise UserError(f"sampler timesteps: expected the first 1 to {schedule.num_steps}, found {total}")
        steps = space_timesteps(total, int(steps), spacing)
    timesteps = tuple(int(k) for k in steps)
    decreasing = all(k > k_next for k, k_next in zip(timesteps, (*timesteps, -1)[1:], strict=True))
    if not timesteps or not decreasing or timesteps[0] >= schedule.num_steps:
        raise UserError(
            f"sampler steps: expected decreasing indices from {schedule.num_steps - 1} to 0, found {timesteps}"
        )
    return timesteps


def _stack(timestep: np.ndarray, *columns: np.ndarray) -> Plan:
    return Plan(timestep, np.stack(columns, axis=1).astype(np.float32))
