"""The forward process, the conversions between x0, eps and v, and weights of a loss over timesteps.

A process around a mean m is `x_k = m + sqrt(abar_k) (x0 - m) + sqrt(1 - abar_k) eps` (Gong et al. 2023, section 4.2).
With m = 0 it is that of DDPM (equation 4), for which the conversions are: with a mean, subtract it from x0 and x_k
first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError

PREDICTION_KINDS = ("eps", "x0", "v")


def draw_timesteps(key: Array, batch: int, num_steps: int) -> Array:
    """Draw timesteps for training, `[B]` int32, uniform over 0 .. num_steps - 1, from one key or a key per example."""
    # Uniform, as in DDPM's simple objective (equation 14): every timestep counts the same in expectation.
    if key.ndim == 0:
        return jax.random.randint(key, (batch,), 0, num_steps)
    return jax.vmap(lambda example_key: jax.random.randint(example_key, (), 0, num_steps))(key)


def at_step(values: np.ndarray | Array, k: Array, like: Array) -> Array:
    """Look up `values [K]` at timesteps k, a scalar or `[B]`, in a shape that multiplies `like` `[B, ...]`."""
    return align(jnp.asarray(values)[k], like)


def align(value: Array, like: Array) -> Array:
    """Append axes to a per-example value, a scalar or `[B]`, until it has as many as `like` `[B, ...]`."""
    value = jnp.asarray(value, like.dtype)
    return jnp.expand_dims(value, tuple(range(value.ndim, like.ndim)))


def diffuse(schedule: Schedule, x0: Array, k: Array, noise: Array, mean: Array | None = None) -> Array:
    """Diffuse clean samples to timestep k at once: `mean + sqrt(abar_k) (x0 - mean) + sqrt(1 - abar_k) noise`.

    Args:
        schedule: The schedule of K timesteps.
        x0: Clean samples `[B, F, J, C]`.
        k: Timesteps in 0 .. K - 1, a scalar or `[B]`.
        noise: Of mean zero, in the shape of x0.
        mean: What the signal shrinks towards, in the shape of x0; None for zero.

    Returns:
        x_k in the shape of x0.
    """
    # 1 - abar is looked up, not computed: in float32 the difference has few digits at small k.
    signal = jnp.sqrt(at_step(schedule.alpha_bar, k, x0))
    std = jnp.sqrt(at_step(schedule.one_minus_alpha_bar, k, x0))
    if mean is None:
        return signal * x0 + std * noise
    # As abar goes to 0 this becomes the mean plus the noise, a draw of the distribution that sampling starts from.
    return mean + signal * (x0 - mean) + std * noise


def to_x0(x_k: Array, eps: Array, alpha_bar_k: Array) -> Array:
    """Solve DDPM's equation 4 at x_k `[B, ...]` for x0, given eps; alpha_bar_k is a scalar or `[B]`."""
    alpha_bar_k = align(alpha_bar_k, x_k)
    return (x_k - jnp.sqrt(1.0 - alpha_bar_k) * eps) / jnp.sqrt(alpha_bar_k)


def to_eps(x_k: Array, x0: Array, alpha_bar_k: Array) -> Array:
    """Solve DDPM's equation 4 at x_k `[B, ...]` for eps, given x0; alpha_bar_k is a scalar or `[B]`, below 1."""
    alpha_bar_k = align(alpha_bar_k, x_k)
    return (x_k - jnp.sqrt(alpha_bar_k) * x0) / jnp.sqrt(1.0 - alpha_bar_k)


def target(kind: str, x0: Array, noise: Array, alpha_bar_k: Array | None = None) -> Array:
    """Compute what a network of this kind is trained to predict.

    Args:
        kind: 'eps' for the noise, 'x0' for the clean sample, 'v' for `sqrt(abar) eps - sqrt(1 - abar) x0` (Salimans and
            Ho 2022).
        x0: Clean samples `[B, ...]`.
        noise: eps, in the shape of x0.
        alpha_bar_k: A scalar or `[B]`; only 'v' needs it.

    Raises:
        UserError: for an unknown kind.
        ValueError: for 'v' without alpha_bar_k.
    """
    _check_kind(kind)
    if kind == "eps":
        return noise
    if kind == "x0":
        return x0
    if alpha_bar_k is None:
        raise ValueError("the target of kind 'v' needs alpha_bar_k")
    alpha_bar_k = align(alpha_bar_k, x0)
    # With cos(phi) = sqrt(abar) the state is x_k = cos(phi) x0 + sin(phi) eps, and v is its derivative by phi. x0 and
    # eps follow from x_k and v by a rotation, without a division by a number that is near zero at one end of the
    # schedule.
    return jnp.sqrt(alpha_bar_k) * noise - jnp.sqrt(1.0 - alpha_bar_k) * x0


def predictions(kind: str, output: Array, x_k: Array, alpha_bar_k: Array) -> tuple[Array, Array]:
    """Turn a network's output into estimates of the clean sample and of the noise.

    Args:
        kind: What the network predicts: 'eps', 'x0' or 'v'.
        output: Its output at x_k, `[B, ...]`.
        x_k: The diffused samples `[B, ...]`.
        alpha_bar_k: A scalar or `[B]`.

    Returns:
        `(x0_hat, eps_hat)`, both `[B, ...]`.

    Raises:
        UserError: for an unknown kind.
    """
    _check_kind(kind)
    if kind == "eps":
        # An error of eps is multiplied by sqrt((1 - abar) / abar) in x0, which is large at the noisy end of the
        # schedule. Clipping x0 bounds it (`samplers.clip_x0`).
        return to_x0(x_k, output, alpha_bar_k), output
    if kind == "x0":
        # An error of x0 is multiplied by sqrt(abar / (1 - abar)) in eps, which is large at the clean end.
        return output, to_eps(x_k, output, alpha_bar_k)
    # (x_k, v) is (x0, eps) turned by the angle whose cosine is sqrt(abar): turning back gives x0 and eps.
    aligned = align(alpha_bar_k, x_k)
    cosine, sine = jnp.sqrt(aligned), jnp.sqrt(1.0 - aligned)
    return cosine * x_k - sine * output, cosine * output + sine * x_k


def snr_weight(schedule: Schedule, clip: float = 2.0, release: bool = False) -> np.ndarray:
    """Compute loss weights `[K]` on a squared error of x0: `1 + min(k_t, clip)` (Zhou et al. 2023, equations 10, 11).

    `k_t = sqrt(abar / (1 - abar))` is the root of the signal-to-noise ratio. The release has `abar / sqrt(1 - abar)`,
    which `release=True` gives.
    """
    # At one x_k the noise that x0_hat implies is off by k_t times the error of x0_hat (equation 9). The squared error
    # of the noise would therefore weigh that of x0 by k_t^2, without bound as abar goes to 1. The paper takes k_t
    # instead, clips it, and adds 1 so that the noisy timesteps keep a weight.
    alpha_bar, one_minus = (values.astype(np.float64) for values in (schedule.alpha_bar, schedule.one_minus_alpha_bar))
    k_t = (alpha_bar if release else np.sqrt(alpha_bar)) / np.sqrt(one_minus)
    return (1.0 + np.minimum(k_t, clip)).astype(np.float32)


def _check_kind(kind: str) -> None:
    if kind not in PREDICTION_KINDS:
        raise UserError(f"diffusion prediction kind: expected one of {', '.join(PREDICTION_KINDS)}, found {kind!r}")
