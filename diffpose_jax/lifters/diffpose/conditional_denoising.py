"""What a denoiser of poses is given of its input, what its output corrects, and what its error is measured in."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.diffusion.process import at_step, to_eps
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.lifters.diffpose.initial_distribution import Component, draw_component
from diffpose_jax.mixtures.mixture import Mixture

Array = jax.Array

OBJECTIVES = ("x0", "next", "eps")


class Condition(NamedTuple):
    """What is known of the input: keypoints `[B, F, J, 2]`, the context's estimate `[B, F, J, 3]` and features
    `[B, F, J, W]` or None, the distribution that poses are diffused towards, and the component of it once it is drawn.
    """

    keypoints: Array
    estimate: Array
    features: Array | None
    base: Mixture
    component: Component | None = None


def drawn(keys: Array, condition: Condition, poses: Array | None = None) -> Condition:
    """The condition with a component drawn by keys `[B]`, by its responsibility for poses `[B, F, J, 3]` if given."""
    return condition._replace(component=draw_component(keys, condition.base, poses))


def single(condition: Condition) -> Condition:
    """The frames of a condition `[B, F, ...]` as examples `[B F, 1, ...]`."""
    return jax.tree.map(lambda part: part.reshape(-1, 1, *part.shape[2:]), condition)


class Likely(NamedTuple):
    """The likeliest pose given h_k and a Gaussian context error, what that leaves open, and h_k's own distance from
    what it was to be expected at, in deviations: all `[B, F, J, 3]`, the first two in metres.
    """

    pose: Array
    deviation: Array
    surprise: Array


def likeliest(condition: Condition, spread: Array, x: Array, alpha_bar: Array) -> Likely:
    """Bayes' rule for one coordinate at a time: h_0 ~ N(estimate, spread^2), h_k diffused from it to x.

    spread `[J, 3]` and x `[B, F, J, 3]` in metres; alpha_bar broadcasts against x.
    """
    component, estimate = condition.component, condition.estimate
    signal, variance = jnp.sqrt(alpha_bar), jnp.square(jnp.broadcast_to(spread[None, None], x.shape))
    noise = (1 - alpha_bar) * jnp.square(component.deviation())
    expected = component.mean + signal * (estimate - component.mean)
    total = alpha_bar * variance + noise
    pose = estimate + signal * variance / total * (x - expected)
    return Likely(pose, jnp.sqrt(variance * noise / total), (x - expected) / jnp.sqrt(total))


def denoiser_input(condition: Condition, likely: Likely, x: Array) -> Array:
    """What the network reads beside f_ST, `[B, F, J, 18]`: h_k, likeliest pose and surprise, keypoints, component."""
    component = condition.component
    parts = (
        x,
        likely.pose,
        likely.surprise,
        condition.keypoints,
        10 * (component.mean - condition.estimate),
        jnp.log(10 * component.deviation()),
        component.weight[..., None],
    )
    return jnp.concatenate(parts, axis=-1)


def compared(kind: str, x0: Array, x: Array, component: Component, schedule: Schedule, k: Array) -> Array:
    """What an objective compares, `[B, F, J, 3]`, when x0 is taken for the pose that was diffused to x at step k.

    'next' is `mu + sqrt(abar_{k-1}) (x0 - mu) + sqrt(1 - abar_{k-1}) eps` with the eps that x and x0 imply. As g's own
    output it would be hard to learn: x is almost it, and the difference times about k is what it says of the pose.
    """
    if kind == "x0":
        return x0
    centred_x0 = x0 - component.mean
    noise = to_eps(x - component.mean, centred_x0, at_step(schedule.alpha_bar, k, x))
    if kind == "eps":
        return component.whitened(noise)
    one_minus = np.append(np.float32(0), schedule.one_minus_alpha_bar[:-1])
    signal = jnp.sqrt(at_step(schedule.alpha_bar_prev, k, x))
    return component.mean + signal * centred_x0 + jnp.sqrt(at_step(one_minus, k, x)) * noise
