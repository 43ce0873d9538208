"""Noise schedules: the betas of a diffusion and everything derived from them.

Index 0 is the least noisy step, `K - 1` the noisiest; where a step has to be named after the last one, -1 means clean
data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError


class Schedule(NamedTuple):
    """A variance-preserving schedule of K steps: float32 numpy arrays `[K]`, computed in float64 and cast once.

    They are host constants on purpose: plans and loss weights are then known when a function is traced. To index one
    with a traced step use `jnp.asarray(schedule.alpha_bar)[k]`.
    """

    beta: np.ndarray  # variance added by step k
    alpha_bar: np.ndarray  # product of (1 - beta) up to and including k
    one_minus_alpha_bar: np.ndarray  # kept apart because 1 - float32(alpha_bar) has few digits at small k
    alpha_bar_prev: np.ndarray  # alpha_bar of step k - 1, 1 in front
    posterior_variance: np.ndarray  # beta tilde, DDPM (Ho et al. 2020) equation 7; 0 at k = 0
    posterior_mean_x0: np.ndarray  # coefficient of x0 in the posterior mean, same equation
    posterior_mean_x: np.ndarray  # coefficient of x_k in the posterior mean

    @property
    def num_steps(self) -> int:
        """K."""
        return self.beta.shape[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and equal_arrays(self, other)

    # A tuple has its own `!=`, which would compare arrays element by element.
    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash_arrays(self)


def equal_arrays(arrays: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> bool:
    """Whether two records of numpy arrays hold the same values in the same types and shapes."""
    return _by_value(arrays) == _by_value(others)


def hash_arrays(arrays: Iterable[np.ndarray]) -> int:
    """A hash of the values of a record of numpy arrays, for records that are compared by `equal_arrays`."""
    return hash(_by_value(arrays))


def _by_value(arrays: Iterable[np.ndarray]) -> tuple[tuple[str, tuple[int, ...], bytes], ...]:
    return tuple((array.dtype.str, array.shape, array.tobytes()) for array in arrays)


def from_betas(beta: np.ndarray) -> Schedule:
    """Derive a schedule from its betas `[K]`, each strictly between 0 and 1 (else UserError)."""
    beta = np.asarray(beta, np.float64)
    if beta.ndim != 1 or beta.size == 0 or not np.all((beta > 0) & (beta < 1)):
        raise UserError(f"diffusion schedule: expected betas [K] strictly between 0 and 1, found {_range(beta)}")
    # The sum of logarithms keeps 1 - alpha_bar accurate where alpha_bar is near 1.
    log_alpha_bar = np.cumsum(np.log1p(-beta))
    alpha_bar, one_minus = np.exp(log_alpha_bar), -np.expm1(log_alpha_bar)
    alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
    one_minus_prev = np.append(0.0, one_minus[:-1])
    columns = (
        beta,
        alpha_bar,
        one_minus,
        alpha_bar_prev,
        beta * one_minus_prev / one_minus,
        beta * np.sqrt(alpha_bar_prev) / one_minus,
        one_minus_prev * np.sqrt(1.0 - beta) / one_minus,
    )
    return Schedule(*(column.astype(np.float32) for column in columns))


def linear(steps: int, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Betas evenly spaced from `start` to `end`, both included (DDPM; Gong et al. 2023: 51 steps, 1e-4 to 1e-3)."""
    return from_betas(np.linspace(start, end, _positive(steps)))


def linear_rescaled(steps: int, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """The linear schedule of 1000 steps rescaled to `steps` (Choi et al. 2023): both ends times 1000 / steps.

    Below 21 steps the last beta of the default would reach 1, which is a UserError.
    """
    scale = 1000.0 / _positive(steps)
    return linear(steps, scale * start, scale * end)


def quadratic(steps: int, start: float = 1e-4, end: float = 0.5) -> Schedule:
    """Betas whose square roots are evenly spaced (CSDI; an option of Rommel et al. and Gong et al. 2023)."""
    return from_betas(np.linspace(start**0.5, end**0.5, _positive(steps)) ** 2)


def cosine(steps: int, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """The cosine schedule of Nichol and Dhariwal (2021) in its ratio form, betas capped at `max_beta`.

    `beta_k = min(1 - g((k + 1) / K) / g(k / K), max_beta)` with `g(u) = cos^2((u + s) / (1 + s) pi / 2)`; alpha_bar is
    the product after capping. Choi et al., Shan et al. and Zhou et al. 2023 cap at 0.999, Rommel et al. 2023 at 0.5.
    """
    u = np.arange(_positive(steps) + 1) / steps
    g = np.cos((u + s) / (1.0 + s) * np.pi / 2.0) ** 2
    return from_betas(np.minimum(1.0 - g[1:] / g[:-1], max_beta))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "linear_rescaled": linear_rescaled,
    "quadratic": quadratic,
}


def make_schedule(name: str, steps: int, **options: Any) -> Schedule:
    """Build the schedule called `name`; an unknown name or option is a UserError that lists the known ones."""
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
