"""What DiffPose's loss compares: the pose, the next, less noisy pose as in the paper (section 4.3), or the noise."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.diffusion.process import at_step, to_eps, to_x0
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.lifters.diffpose.initial_distribution import Component


class Objective(NamedTuple):
    """What the network is trained for.

    Attributes:
        schedule: The noise schedule.
        predict: 'x0', 'next' or 'eps'.
    """

    schedule: Schedule
    predict: str

    def compute(self, x0: Array, x: Array, component: Component, k: Array) -> Array:
        """What the loss compares, `[B, F, J, 3]`, where x0 is taken for the pose that was diffused to x at timestep k.

        'next' is `mu + sqrt(abar_{k-1}) (x0 - mu) + sqrt(1 - abar_{k-1}) eps` with the eps that x and x0 imply; 'eps'
        is that noise, whitened.

        Args:
            x0: The poses, true or predicted, `[B, F, J, 3]`, m.
            x: The noisy poses, likewise.
            component: The Gaussian that poses are diffused towards.
            k: The timesteps, a scalar or `[B]`.
        """
        if self.predict == "x0":
            return x0
        x0, x = x0 - component.mean, x - component.mean
        noise = to_eps(x, x0, at_step(self.schedule.alpha_bar, k, x))
        if self.predict == "eps":
            return component.whiten(noise)
        one_minus = np.append(np.float32(0), self.schedule.one_minus_alpha_bar[:-1])
        signal = jnp.sqrt(at_step(self.schedule.alpha_bar_prev, k, x))
        return component.mean + signal * x0 + jnp.sqrt(at_step(one_minus, k, x)) * noise

    def invert(self, output: Array, x: Array, component: Component, k: Array) -> Array:
        """The pose `[B, F, J, 3]` that an output means where the network gives what `compute` names as it is.

        For 'next', x - mu = s h + n eps and output - mu = s' h + n' eps with s = sqrt(abar_k), n = sqrt(1 - abar_k) and
        the same of step k - 1 with primes. Eliminating eps gives h = (n' (x - mu) - n (output - mu)) / (s n' - s' n).

        Args:
            output: The network's output, `[B, F, J, 3]`.
            x: The noisy poses, likewise, m.
            component: The Gaussian that poses are diffused towards.
            k: The timesteps, a scalar or `[B]`.
        """
        if self.predict == "x0":
            return output
        x = x - component.mean
        if self.predict == "eps":
            return component.mean + to_x0(x, component.scale(output), at_step(self.schedule.alpha_bar, k, x))
        on_x, on_next = (at_step(column, k, x) for column in _elimination(self.schedule))
        return component.mean + on_x * x + on_next * (output - component.mean)


def _elimination(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """n' / d and -n / d with d = s n' - s' n, `[K]`, see `Objective.invert`."""
    one_minus = schedule.one_minus_alpha_bar.astype(np.float64)
    s, n = np.sqrt(schedule.alpha_bar.astype(np.float64)), np.sqrt(one_minus)
    s_next, n_next = np.sqrt(schedule.alpha_bar_prev.astype(np.float64)), np.sqrt(np.append(0.0, one_minus[:-1]))
    d = s * n_next - s_next * n
    return (n_next / d).astype(np.float32), (-n / d).astype(np.float32)
