"""The forward process and the algebra between its quantities: x0, eps and v; and the weights of a loss over steps.

With base mean m the process is `x_k = m + sqrt(abar_k) (x0 - m) + sqrt(1 - abar_k) eps` (Gong et al. 2023, section
4.2); m = 0 is the usual one (DDPM, equation 4). The conversions below are for m = 0; with a mean, subtract it from x0
and x_k first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError

PREDICTION_KINDS = ("eps", "x0", "v")


def uniform_steps(key: Array, batch: int, num_steps: int) -> Array:
    """Draw training steps `[B]` int32, uniform over 0 .. num_steps - 1; `key` is one key or a key per example `[B]`."""
    if key.ndim == 0:
        return jax.random.randint(key, (batch,), 0, num_steps)
    return jax.vmap(lambda example_key: jax.random.randint(example_key, (), 0, num_steps))(key)


def at_step(values: np.ndarray | Array, k: Array, like: Array) -> Array:
    """Look up `values [K]` at steps k, a scalar or `[B]`, shaped to multiply `like` `[B, ...]`."""
    return align(jnp.asarray(values)[k], like)


def align(value: Array, like: Array) -> Array:
    """Append axes to a per-example value, a scalar or `[B]`, until it has as many as `like` `[B, ...]`."""
    value = jnp.asarray(value, like.dtype)
    return jnp.expand_dims(value, tuple(range(value.ndim, like.ndim)))


def diffuse(schedule: Schedule, x0: Array, k: Array, noise: Array, mean: Array | None = None) -> Array:
    """Diffuse x0 to step k in one draw: `mean + sqrt(abar_k) (x0 - mean) + sqrt(1 - abar_k) noise`.

    x0, noise and mean are `[B, F, J, C]`, k is a scalar or `[B]` in 0 .. K - 1; without a mean it is zero. Noise and
    mean are what a base distribution draws.
    """
    signal = jnp.sqrt(at_step(schedule.alpha_bar, k, x0))
    spread = jnp.sqrt(at_step(schedule.one_minus_alpha_bar, k, x0))
    if mean is None:
        return signal * x0 + spread * noise
    return mean + signal * (x0 - mean) + spread * noise


def to_x0(x_k: Array, eps: Array, alpha_bar_k: Array) -> Array:
    """The clean sample that eps implies at x_k `[B, ...]`; alpha_bar_k is a scalar or `[B]`."""
    alpha_bar_k = align(alpha_bar_k, x_k)
    return (x_k - jnp.sqrt(1.0 - alpha_bar_k) * eps) / jnp.sqrt(alpha_bar_k)


def to_eps(x_k: Array, x0: Array, alpha_bar_k: Array) -> Array:
    """The noise that x0 implies at x_k `[B, ...]`; alpha_bar_k is a scalar or `[B]` below 1."""
    alpha_bar_k = align(alpha_bar_k, x_k)
    return (x_k - jnp.sqrt(alpha_bar_k) * x0) / jnp.sqrt(1.0 - alpha_bar_k)


def target(kind: str, x0: Array, noise: Array, alpha_bar_k: Array | None = None) -> Array:
    """What a network of this kind should output: the noise, x0, or `v = sqrt(abar) eps - sqrt(1 - abar) x0`.

    `v` (Salimans and Ho 2022) also needs alpha_bar_k, a scalar or `[B]`. An unknown kind is a UserError.
    """
    _check_kind(kind)
    if kind == "eps":
        return noise
    if kind == "x0":
        return x0
    if alpha_bar_k is None:
        raise ValueError("the target of kind 'v' needs alpha_bar_k")
    alpha_bar_k = align(alpha_bar_k, x0)
    return jnp.sqrt(alpha_bar_k) * noise - jnp.sqrt(1.0 - alpha_bar_k) * x0


def predictions(kind: str, output: Array, x_k: Array, alpha_bar_k: Array) -> tuple[Array, Array]:
    """Turn a network's output at x_k `[B, ...]` into `(x0_hat, eps_hat)`; alpha_bar_k is a scalar or `[B]`."""
    _check_kind(kind)
    if kind == "eps":
        return to_x0(x_k, output, alpha_bar_k), output
    if kind == "x0":
        return output, to_eps(x_k, output, alpha_bar_k)
    aligned = align(alpha_bar_k, x_k)
    signal, spread = jnp.sqrt(aligned), jnp.sqrt(1.0 - aligned)
    return signal * x_k - spread * output, signal * output + spread * x_k


def p2_weight(schedule: Schedule, gamma: float, offset: float = 1.0) -> np.ndarray:
    """Loss weight `[K]`, `(offset + abar / (1 - abar))^-gamma` (Choi et al. 2022); ones for gamma 0."""
    ratio = schedule.alpha_bar.astype(np.float64) / schedule.one_minus_alpha_bar
    return ((offset + ratio) ** -gamma).astype(np.float32)


def snr_weight(schedule: Schedule, clip: float = 2.0, released: bool = False) -> np.ndarray:
    """Loss weight `[K]` on a squared x0 error: `1 + min(k_t, clip)`, Zhou et al. 2023, equations 10 and 11.

    `k_t = sqrt(abar / (1 - abar))` is the root of the signal-to-noise ratio. The release leaves out the root of abar
    in the numerator; `released=True` gives its weights.
    """
    alpha_bar = schedule.alpha_bar.astype(np.float64)
    numerator = alpha_bar if released else np.sqrt(alpha_bar)
    return (1.0 + np.minimum(numerator / np.sqrt(schedule.one_minus_alpha_bar.astype(np.float64)), clip)).astype(
        np.float32
    )


def _check_kind(kind: str) -> None:
    if kind not in PREDICTION_KINDS:
        raise UserError(f"diffusion prediction kind: expected one of {', '.join(PREDICTION_KINDS)}, found {kind!r}")
