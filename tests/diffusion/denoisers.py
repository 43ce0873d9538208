"""Denoisers made of plain functions."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from diffpose_jax.diffusion.process import at_step, predictions
from diffpose_jax.diffusion.samplers import Denoiser
from diffpose_jax.diffusion.schedules import Schedule

Network = Callable[[Array, Array], Array]


def predict_with(kind: str, network: Network, schedule: Schedule) -> Denoiser:
    """Make a denoiser of a network `(x, k) -> output [B, ...]` that predicts `kind`: 'eps', 'x0' or 'v'."""

    def denoiser(x: Array, k: Array) -> tuple[Array, Array]:
        output = network(x, k).astype(x.dtype)
        return predictions(kind, output, x, at_step(schedule.alpha_bar, k, x))

    return denoiser
