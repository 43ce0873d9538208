"""Noise schedules: the betas of a diffusion and what is derived from them.

The forward process adds noise in K steps, `q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k)` (DDPM, Ho et al.
2020, equation 2). With `abar_k = prod_{i <= k} (1 - beta_i)` it is one draw, `q(x_k | x_0) = N(sqrt(abar_k) x_0,
1 - abar_k)` (equation 4). Timesteps count from 0: index 0 is the least noisy one, `K - 1` the noisiest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError


class Schedule(NamedTuple):
    """A variance-preserving schedule of K steps: float32 numpy arrays `[K]`, computed in float64 and cast once.

    They are numpy arrays so that plans and loss weights are known when a function is traced. To index one with a traced
    timestep use `jnp.asarray(schedule.alpha_bar)[k]`.
    """

    beta: np.ndarray  # variance that step k adds
    alpha_bar: np.ndarray  # product of (1 - beta) up to and including k
    one_minus_alpha_bar: np.ndarray  # a field of its own: 1 - float32(alpha_bar) has few digits at small k
    alpha_bar_prev: np.ndarray  # alpha_bar of timestep k - 1; 1 for k = 0

    @property
    def num_steps(self) -> int:
        """The number of timesteps, K."""
        return self.beta.shape[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and equal_arrays(self, other)

    # A tuple has its own `!=`, which would compare arrays element by element.
    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash_arrays(self)


def equal_arrays(arrays: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> bool:
    """Compare two records of numpy arrays: whether all values, types and shapes are the same."""
    return _by_value(arrays) == _by_value(others)


def hash_arrays(arrays: Iterable[np.ndarray]) -> int:
    """Hash a record of numpy arrays by its values, as `equal_arrays` compares it."""
    return hash(_by_value(arrays))


def _by_value(arrays: Iterable[np.ndarray]) -> tuple[tuple[str, tuple[int, ...], bytes], ...]:
    return tuple((array.dtype.str, array.shape, array.tobytes()) for array in arrays)


def from_betas(beta: np.ndarray) -> Schedule:
    """Derive a schedule from its betas `[K]`; a beta that is not strictly between 0 and 1 is a UserError."""
    beta = np.asarray(beta, np.float64)
    if beta.ndim != 1 or beta.size == 0 or not np.all((beta > 0) & (beta < 1)):
        raise UserError(f"diffusion schedule: expected betas [K] strictly between 0 and 1, found {_range(beta)}")
    # With log(abar) as a sum of logarithms, 1 - abar = -expm1(log(abar)) is accurate where abar is near 1.
    log_alpha_bar = np.cumsum(np.log1p(-beta))
    alpha_bar = np.exp(log_alpha_bar)
    fields = (beta, alpha_bar, -np.expm1(log_alpha_bar), np.append(1.0, alpha_bar[:-1]))
    return Schedule(*(field.astype(np.float32) for field in fields))


def linear(steps: int, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Space betas evenly from `start` to `end`, both included (DDPM; Gong et al. 2023: 51 steps, 1e-4 to 1e-3)."""
    # With 1000 steps the defaults end at an alpha_bar of 4e-5, nearly pure noise. The 51 steps of Gong et al. end at
    # 0.97, still close to the pose: their sampling starts from an estimate, not from noise.
    return from_betas(np.linspace(start, end, _positive(steps)))


def linear_rescaled(steps: int, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Rescale the linear schedule of 1000 steps to `steps`: both ends times 1000 / steps (Choi et al. 2023).

    Below 21 steps the default's last beta would reach 1, which is a UserError.
    """
    # The sum of the betas, and with it -log(alpha_bar) at the end, is then about the same for any number of steps.
    scale = 1000.0 / _positive(steps)
    return linear(steps, scale * start, scale * end)


def quadratic(steps: int, start: float = 1e-4, end: float = 0.5) -> Schedule:
    """Space the square roots of betas evenly (CSDI; an option of Rommel et al. and Gong et al. 2023)."""
    return from_betas(np.linspace(start**0.5, end**0.5, _positive(steps)) ** 2)


def cosine(steps: int, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Compute the cosine schedule (Nichol and Dhariwal 2021, equation 17), with betas of at most `max_beta`.

    `beta_k = min(1 - g((k + 1) / K) / g(k / K), max_beta)` with `g(u) = cos^2((u + s) / (1 + s) pi / 2)`. alpha_bar is
    the product of what remains after the limit, not g. Choi et al., Shan et al. and Zhou et al. 2023 take 0.999 as the
    limit, Rommel et al. 2023 take 0.5.
    """
    # The offset s keeps the first betas from being too small. Nichol and Dhariwal chose 0.008 by the size of a pixel's
    # bin; the methods for poses took the value over.
    u = np.arange(_positive(steps) + 1) / steps
    # alpha_bar would be g(u) / g(0): near the ends it is flat and between them it falls almost linearly, where that of
    # the linear schedule is nearly 0 long before the end.
    # g(1) = 0 would make the last beta 1, which destroys the signal altogether and divides by 0 in the reverse process.
    g = np.cos((u + s) / (1.0 + s) * np.pi / 2.0) ** 2
    # With 50 steps and the limit 0.5 alpha_bar ends at 0.001: the forward process still has 3 % of the pose at its end,
    # which the N(0, 1) that sampling starts from lacks.
    return from_betas(np.minimum(1.0 - g[1:] / g[:-1], max_beta))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "linear_rescaled": linear_rescaled,
    "quadratic": quadratic,
}


def make_schedule(name: str, steps: int, **options: Any) -> Schedule:
    """Build a schedule by its name.

    Args:
        name: A key of `SCHEDULES`.
        steps: The number of timesteps K, at least 1.
        **options: Passed to the schedule's function, such as `max_beta`.

    Raises:
        UserError: for an unknown name or option, listing the known ones, and for betas out of range.
    """
    if name not in SCHEDULES:
        raise UserError(f"diffusion schedule: expected one of {', '.join(sorted(SCHEDULES))}, found {name!r}")
    known = [option for option in inspect.signature(SCHEDULES[name]).parameters if option != "steps"]
    for option in options:
        if option not in known:
            raise UserError(f"diffusion schedule {name}: expected options among {', '.join(known)}, found {option!r}")
    return SCHEDULES[name](steps, **options)


def _positive(steps: int) -> int:
    if steps < 1:
        raise UserError(f"diffusion schedule: expected at least 1 step, found {steps}")
    return steps


def _range(beta: np.ndarray) -> str:
    if beta.size == 0 or beta.ndim != 1:
        return f"shape {beta.shape}"
    return f"values from {beta.min():g} to {beta.max():g}"
