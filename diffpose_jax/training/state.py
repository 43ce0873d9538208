"""The state of training: parameters, optimiser, moving average of the parameters, plateau schedule."""

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
    """The state of the learning rate schedule 'plateau', all scalars.

    Attributes:
        scale: The factor of the learning rate, float32.
        best: The error to improve on, float32: that of the last validation that counted as progress.
        lowest: The lowest error so far, float32.
        waited: Validations in a row without progress, int32.
    """

    scale: jax.Array
    best: jax.Array
    lowest: jax.Array
    waited: jax.Array


class TrainState(NamedTuple):
    """Everything that a training step changes, and what is frozen: a pytree.

    Attributes:
        step: How many steps were taken, int32.
        params: What is trained.
        batch_stats: Running statistics of batch normalisation, `{}` where there is none.
        frozen: Variables of a frozen context and what was measured with it, `{}` where there is none.
        optimizer: The optimiser's state.
        ema: The moving average of parameters and statistics, `{"params", "batch_stats"}`.
        plateau: The state of the schedule 'plateau', None with any other.
    """

    step: jax.Array
    params: Mapping[str, Any]
    batch_stats: Mapping[str, Any]
    frozen: Mapping[str, Any]
    optimizer: optax.OptState
    ema: Mapping[str, Any]
    plateau: Plateau | None = None

    def variables(self) -> Variables:
        """The variables that a lifter takes, as trained."""
        return _variables(self.params, self.batch_stats, self.frozen)

    def ema_variables(self) -> Variables:
        """The variables that a lifter takes, averaged over training steps: what evaluation and prediction use."""
        return _variables(self.ema["params"], self.ema["batch_stats"], self.frozen)


def _variables(params: Mapping, batch_stats: Mapping, frozen: Mapping) -> Variables:
    parts = {"params": params, "batch_stats": batch_stats, "frozen": frozen}
    return {name: part for name, part in parts.items() if part}


def create_state(
    lifter: Lifter, optimizer: optax.GradientTransformation, key: jax.Array, batch: Batch, plateau: bool = False
) -> TrainState:
    """The state at step 0.

    Args:
        lifter: The method; its `init` makes the variables.
        optimizer: The optimiser.
        key: The key of the initial parameters.
        batch: Any batch `[B, F, J, C]`; only its shapes matter.
        plateau: Whether the learning rate follows the schedule 'plateau'.
    """
    variables = lifter.init(key, batch)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # The average is a copy: the step donates the state, and a buffer may be donated only once.
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    frozen = variables.get("frozen", {})
    start = Plateau(jnp.ones(()), jnp.full((), jnp.inf), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, batch_stats, frozen, optimizer.init(params), average, start if plateau else None)


def learning_rate(training: TrainingOptions) -> optax.Schedule:
    """The learning rate as a function of the step: linear warm-up, then what `training.decay` says.

    'cosine' falls to zero at the last step; 'exponential' is a staircase; 'constant' and 'plateau' stay, the latter
    because its scale is part of the state (see `update_plateau`).
    """
    rate, warmup = training.learning_rate, training.warmup_steps
    if training.decay == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, training.steps - warmup))
    elif training.decay == "exponential":
        after = optax.exponential_decay(rate, training.decay_every, training.decay_rate, staircase=True)
    else:
        after = optax.constant_schedule(rate)
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup]) if warmup else after


def current_rate(state: TrainState, training: TrainingOptions, step: int) -> float:
    """The learning rate of the last of `step` steps, the scale of the schedule 'plateau' in it."""
    scale = 1.0 if state.plateau is None else float(np.ravel(np.asarray(state.plateau.scale))[0])
    return scale * float(learning_rate(training)(max(0, step - 1)))


def make_optimizer(training: TrainingOptions) -> optax.GradientTransformation:
    """Adam or AMSGrad, with weight decay and clipping by the global norm where those are not 0.

    Every parameter decays, those of norms, biases and position tables too, as with torch's optimisers: beside Adam's
    update ('decoupled', AdamW) or as part of the gradient, after clipping ('l2').
    """
    scale = optax.scale_by_amsgrad() if training.optimizer == "amsgrad" else optax.scale_by_adam()
    decay = [optax.add_decayed_weights(training.weight_decay)] if training.weight_decay else []
    clip = [optax.clip_by_global_norm(training.clip_norm)] if training.clip_norm else []
    # Decay before Adam is part of the gradient and divided by its root mean square, so that parameters with large
    # gradients decay little. After it, decay is the same share of every parameter (Loshchilov and Hutter 2019).
    rule = [*decay, scale] if training.weight_decay_kind == "l2" else [scale, *decay]
    return optax.chain(*clip, *rule, optax.scale_by_learning_rate(learning_rate(training)))


def update_plateau(plateau: Plateau, error: float, training: TrainingOptions) -> Plateau:
    """The state of the schedule 'plateau' after a validation with an error, the MPJPE (mm) or the loss.

    It is torch's ReduceLROnPlateau with mode 'min', a relative threshold and no cooldown. The releases differ in what
    they give it, the error of the validation or the lowest so far: `training.plateau_feed`.
    """
    scale, best, lowest = (np.float32(np.asarray(part)) for part in plateau[:3])
    waited = int(np.asarray(plateau.waited)) + 1
    lowest = np.fmin(lowest, np.float32(error))  # ignores NaN, which then counts as no progress
    judged = lowest if training.plateau_feed == "best" else np.float32(error)
    if judged < best * np.float32(1 - training.plateau_threshold):
        best, waited = judged, 0
    if waited > training.plateau_patience:
        least = np.float32(min(training.plateau_min_rate / training.learning_rate, 1.0))
        scale, waited = np.maximum(scale * np.float32(training.plateau_factor), least), 0
    after: tuple[Any, ...] = (scale, best, lowest, np.int32(waited))
    return Plateau(*after)


def update_average(average: Any, latest: Any, step: jax.Array, training: TrainingOptions) -> Any:
    """The moving average of parameters and statistics after a step: `average + (1 - decay) (latest - average)`.

    Up to step `ema_start` it is a copy of the latest values. Then its decay is `ema_decay` ('constant'), or grows to
    that as 1 - (1 + step - ema_start)^(-2/3) ('grown', as in the package ema-pytorch). It changes in the steps 1, 1 +
    ema_every, 1 + 2 ema_every and so on. Choi et al. 2023 release a grown decay up to 0.995 with ema_every=10 and
    ema_start=101, Gong et al. 2023 a constant one of 0.999.

    Args:
        average: The average before the step, a tree of leaves `[...]`.
        latest: The values after the step, a tree of the same structure.
        step: The step, counted from 1.
        training: The `ema_` options.
    """
    since = jnp.maximum(step - training.ema_start, 0).astype(jnp.float32)
    # An average of decay d reaches back over about 1 / (1 - d) steps: here over (1 + n)^(2/3) of the last n, so that
    # the first weights are soon forgotten.
    grown = jnp.minimum(1.0 - (1.0 + since) ** (-2.0 / 3.0), training.ema_decay)
    # A decay of 0 copies the latest values.
    factor = grown if training.ema_kind == "grown" else jnp.where(since > 0, training.ema_decay, 0.0)
    # The same as decay old + (1 - decay) new, with one product for each leaf.
    moved = jax.tree.map(lambda old, new: new + factor.astype(old.dtype) * (old - new), average, latest)
    if training.ema_every == 1:
        return moved
    moves = (step - 1) % training.ema_every == 0
    return jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, average)
