"""What training carries from step to step: its optimiser, its moving average, its wait on a plateau."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffpose_jax.lifters.base import Batch, Lifter, Variables
from diffpose_jax.sections import TrainingOptions


class Plateau(NamedTuple):
    """The state of the schedule 'plateau': the scale of the learning rate, the error to beat, the lowest error seen
    (float32), and how many validations in a row did not beat it (int32).
    """

    scale: jax.Array
    best: jax.Array
    lowest: jax.Array
    waited: jax.Array


class TrainState(NamedTuple):
    """A pytree: the step (int32), what is trained, what is frozen, the optimiser's state and the moving average."""

    step: jax.Array
    params: Mapping[str, Any]
    batch_stats: Mapping[str, Any]
    frozen: Mapping[str, Any]
    optimizer: optax.OptState
    ema: Mapping[str, Any]
    plateau: Plateau | None = None

    def variables(self) -> Variables:
        """The variables a lifter takes, as trained."""
        return _variables(self.params, self.batch_stats, self.frozen)

    def ema_variables(self) -> Variables:
        """The variables a lifter takes, averaged over training: what evaluation and prediction use."""
        return _variables(self.ema["params"], self.ema["batch_stats"], self.frozen)


def _variables(params: Mapping, batch_stats: Mapping, frozen: Mapping) -> Variables:
    parts = {"params": params, "batch_stats": batch_stats, "frozen": frozen}
    return {name: part for name, part in parts.items() if part}


def create_state(
    lifter: Lifter, optimizer: optax.GradientTransformation, key: jax.Array, batch: Batch, plateau: bool = False
) -> TrainState:
    """A state at step 0; only the shapes of the batch `[B, F, J, C]` matter. `plateau` as `training.decay` says."""
    variables = lifter.init(key, batch)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # The average is a copy: the step donates the state, and a buffer may be donated only once.
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    frozen = variables.get("frozen", {})
    waiting = Plateau(jnp.ones(()), jnp.full((), jnp.inf), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        batch_stats,
        frozen,
        optimizer.init(params),
        average,
        waiting if plateau else None,
    )


def learning_rate(training: TrainingOptions) -> optax.Schedule:
    """The learning rate at a step: linear warm-up, then constant, cosine to zero, or stepwise exponential."""
    rate, warmup = training.learning_rate, training.warmup_steps
    if training.decay == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, training.steps - warmup))
    elif training.decay == "exponential":
        after = optax.exponential_decay(rate, training.decay_every, training.decay_rate, staircase=True)
    else:
        after = optax.constant_schedule(rate)
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup]) if warmup else after


def make_optimizer(training: TrainingOptions) -> optax.GradientTransformation:
    """Adam or AMSGrad as the config says, with weight decay and clipping by the global norm where not 0.

    Weights decay in every parameter, norms, biases and position tables included, as torch's optimisers do it: beside
    the update ('decoupled': with Adam, AdamW) or within the gradient, after clipping ('l2').
    """
    scale = optax.scale_by_amsgrad() if training.optimizer == "amsgrad" else optax.scale_by_adam()
    decay = [optax.add_decayed_weights(training.weight_decay)] if training.weight_decay else []
    clip = [optax.clip_by_global_norm(training.clip_norm)] if training.clip_norm else []
    rule = [*decay, scale] if training.weight_decay_kind == "l2" else [scale, *decay]
    return optax.chain(*clip, *rule, optax.scale_by_learning_rate(learning_rate(training)))


def update_plateau(plateau: Plateau, error: float, training: TrainingOptions) -> Plateau:
    """What a plateau becomes after a validation with this error: torch's ReduceLROnPlateau, relative, no cooldown."""
    scale, best, lowest, waited = (np.asarray(part) for part in plateau)
    lowest = np.fmin(lowest, np.float32(error))
    judged = lowest if training.plateau_feed == "best" else np.float32(error)
    if judged < best * np.float32(1 - training.plateau_threshold):
        best, waited = judged, np.int32(0)
    else:
        waited = waited + np.int32(1)
    if waited > training.plateau_patience:
        least = np.float32(min(training.plateau_min_rate / training.learning_rate, 1.0))
        scale, waited = np.maximum(scale * np.float32(training.plateau_factor), least), np.int32(0)
    return Plateau(scale, best, lowest, waited)


def update_average(average: Any, latest: Any, step: jax.Array, training: TrainingOptions) -> Any:
    """The moving average, leaf by leaf `[...]`, after `step`, counted from 1.

    Up to step `ema_start` it is a copy, then it has the decay `ema_decay` ('constant'), or one that grows to it as 1 -
    (1 + step - ema_start)^(-2/3) ('grown', as the package ema-pytorch does). It moves in the steps 1, 1 + ema_every, 1
    + 2 ema_every, ... only. Choi et al. 2023 release the grown one to 0.995 with ema_every=10, ema_start=101, Gong et
    al. 2023 the constant one of 0.999.
    """
    since = jnp.maximum(step - training.ema_start, 0).astype(jnp.float32)
    grown = jnp.minimum(1.0 - (1.0 + since) ** (-2.0 / 3.0), training.ema_decay)
    factor = grown if training.ema_kind == "grown" else jnp.where(since > 0, training.ema_decay, 0.0)
    moved = jax.tree.map(lambda old, new: new + factor.astype(old.dtype) * (old - new), average, latest)
    if training.ema_every == 1:
        return moved
    moves = (step - 1) % training.ema_every == 0
    return jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, average)
