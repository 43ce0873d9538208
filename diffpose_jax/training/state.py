"""What training carries from step to step, its optimiser and its moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from diffpose_jax.lifters.base import Batch, Lifter, Variables


class TrainState(NamedTuple):
    """A pytree: the step (int32), what is trained, what is frozen, the optimiser's state and the moving average."""

    step: jax.Array
    params: Mapping[str, Any]
    batch_stats: Mapping[str, Any]
    frozen: Mapping[str, Any]
    optimizer: optax.OptState
    ema: Mapping[str, Any]

    def variables(self) -> Variables:
        """The variables a lifter takes, as trained."""
        return _variables(self.params, self.batch_stats, self.frozen)

    def ema_variables(self) -> Variables:
        """The variables a lifter takes, averaged over training: what evaluation and prediction use."""
        return _variables(self.ema["params"], self.ema["batch_stats"], self.frozen)


def _variables(params: Mapping, batch_stats: Mapping, frozen: Mapping) -> Variables:
    parts = {"params": params, "batch_stats": batch_stats, "frozen": frozen}
    return {name: part for name, part in parts.items() if part}


def create_state(lifter: Lifter, optimizer: optax.GradientTransformation, key: jax.Array, batch: Batch) -> TrainState:
    """A state at step 0; only the shapes of the batch `[B, F, J, C]` matter."""
    variables = lifter.init(key, batch)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # The average is a copy: the step donates the state, and a buffer may be donated only once.
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    frozen = variables.get("frozen", {})
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, frozen, optimizer.init(params), average)


def learning_rate(training: ConfigDict) -> optax.Schedule:
    """The learning rate at a step: linear warm-up, then constant, cosine to zero, or stepwise exponential."""
    rate, warmup = training.learning_rate, training.warmup_steps
    if training.decay == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, training.steps - warmup))
    elif training.decay == "exponential":
        after = optax.exponential_decay(rate, training.decay_every, training.decay_rate, staircase=True)
    else:
        after = optax.constant_schedule(rate)
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup]) if warmup else after


def make_optimizer(training: ConfigDict) -> optax.GradientTransformation:
    """Adam or AMSGrad as the config says, with decoupled weight decay and clipping by the global norm where not 0."""
    scale = optax.scale_by_amsgrad() if training.optimizer == "amsgrad" else optax.scale_by_adam()
    parts = [optax.clip_by_global_norm(training.clip_norm)] if training.clip_norm else []
    parts.append(scale)
    if training.weight_decay:
        parts.append(optax.add_decayed_weights(training.weight_decay))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(training)))


def averaged(average: Any, latest: Any, step: jax.Array, decay: float) -> Any:
    """The moving average, leaf by leaf `[...]`, after `step`, counted from 1: the decay grows to `decay` as
    1 - (1 + step)^(-2/3).

    The warm-up is that of DiffuPose's release (ema-pytorch), which updates only every tenth step.
    """
    grown = 1.0 - (1.0 + step.astype(jnp.float32)) ** (-2.0 / 3.0)
    factor = jnp.minimum(grown, decay)
    return jax.tree.map(lambda old, new: new + factor.astype(old.dtype) * (old - new), average, latest)
