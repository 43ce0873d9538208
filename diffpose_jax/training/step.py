"""The training step: a pure function of state and examples, several of them in one scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffpose_jax.data.augmentation import augment, cross_over
from diffpose_jax.data.shuffling import permute_index
from diffpose_jax.data.windows import DeviceClips, Windows, draw_starts, gather
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Batch, Lifter, Variables
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.visibility import believe_guesses
from diffpose_jax.parallel import AXIS, average_over_devices
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.training.distillation import TEACHER
from diffpose_jax.training.skips import Skips, count_skips, mean_of_finite
from diffpose_jax.training.state import TrainState, update_average

# Folded into the step's key beside the two that are split from it.
_AUGMENTATION_STREAM, _PARTNER_STREAM, _CROSSOVER_STREAM = 2, 3, 4


class TrainData(NamedTuple):
    """What training reads, resident on the device: the split and its windows, and variables of a frozen teacher."""

    clips: DeviceClips
    windows: Windows
    teacher: Variables | None = None


class Examples(NamedTuple):
    """The examples that a device takes in each of S steps, int32 `[S, b]`: numpy on the host, traced in the step.

    Attributes:
        epoch: The epoch of each; with position, the window (see `permute_index`).
        position: Its position in the epoch's order.
        index: Its index in the global batch. All noise of an example derives from it, so that the trajectory of
            training does not depend on the number of devices.
    """

    epoch: jax.Array
    position: jax.Array
    index: jax.Array  # type: ignore[assignment]  # a tuple's method of that name is not used


def examples_of_steps(first_step: int, num_steps: int, batch_size: int, count: int) -> Examples:
    """The examples `[S, B]` of the global batches of consecutive steps.

    Args:
        first_step: The first step, counted from 0 over all epochs.
        num_steps: The number S of steps.
        batch_size: Examples B of a global batch.
        count: The number of training windows, which is the length of an epoch.
    """
    step = np.arange(first_step, first_step + num_steps, dtype=np.int64)[:, None]
    index = np.broadcast_to(np.arange(batch_size, dtype=np.int64)[None, :], (num_steps, batch_size))
    epoch, position = np.divmod(step * batch_size + index, count)
    parts: tuple[Any, ...] = (epoch, position, index)
    return Examples(*(part.astype(np.int32) for part in parts))


# The state after a dispatch, the metrics of its steps, and how many were skipped.
Stepped = tuple[TrainState, dict[str, jax.Array], Skips]
StepFunction = Callable[[TrainState, TrainData, Examples], Stepped]


def make_step(
    lifter: Lifter, optimizer: optax.GradientTransformation, seed: int, data: DataOptions, training: TrainingOptions
) -> StepFunction:
    """Makes the function of a dispatch, `(state, data, examples) -> (state, metrics, skips)`, for `parallel.pmap_step`.

    Gradients, metrics and batch statistics are averaged over the devices. The metrics are means over the S steps, and
    'grad_norm' is one of them. A step whose loss or gradient is not finite is skipped: it counts, and changes nothing.

    Args:
        lifter: The method.
        optimizer: Turns gradients into updates.
        seed: The seed of batch order and noise.
        data: Whether batches are flipped or filmed anew, and the kind of windows (see `training_windows`).
        training: The moving average (see `update_average`), and `scale_by_loss`, which multiplies every gradient by the
            loss: the releases of MixSTE and D3DP call backward with the loss as the incoming gradient.
    """

    def loss_and_gradient(data: TrainData, state: TrainState, key: jax.Array, batch: Batch) -> tuple[Any, ...]:
        teacher = {} if data.teacher is None else {TEACHER: data.teacher}

        def loss(params: dict) -> tuple[jax.Array, tuple]:
            return lifter.loss({**state.variables(), "params": params, **teacher}, key, batch)

        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        return average_over_devices((value, gradient, aux.metrics, aux.batch_stats), AXIS)

    def take_step(train_data: TrainData, state: TrainState, examples: Examples) -> tuple[TrainState, dict]:
        # The step is folded into a constant key: a continued run draws what one that never stopped would have drawn.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        flip_key, loss_key = jax.random.split(key)
        batch = believe_guesses(lifter, gather_batch(train_data, examples, lifter.frames, data.windows, seed))
        if data.crossover:
            partners = draw_partners(key, examples, len(train_data.windows.start))
            others = gather_batch(train_data, partners, lifter.frames, data.windows, seed)
            batch = cross_over_examples(key, batch, others, lifter, data)
        batch = film_examples(key, batch, lifter, data) if data.cameras == "random" else batch
        batch = flip_half(flip_key, batch, lifter) if data.flip else batch
        value, gradient, metrics, batch_stats = loss_and_gradient(train_data, state, loss_key, batch)
        # L grad L is the gradient of L^2 / 2. Adam divides by the gradient's size, so that little of the factor is left
        # but its changes from step to step.
        if training.scale_by_loss:
            gradient = scale_tree(gradient, value)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        # Where the gradient is not finite everything but the count of steps, from which the next batch derives, stays.
        state = jax.lax.cond(
            finite,
            lambda: update_state(optimizer, training, state, gradient, batch_stats),
            lambda: state._replace(step=state.step + 1),
        )
        return state, {**metrics, "grad_norm": norm, "finite": finite}

    def take_steps(state: TrainState, train_data: TrainData, examples: Examples) -> Stepped:
        state, metrics = jax.lax.scan(lambda carry, part: take_step(train_data, carry, part), state, examples)
        finite = metrics.pop("finite")
        return state, jax.tree.map(lambda values: mean_of_finite(values, finite), metrics), count_skips(finite)

    return take_steps


def update_state(
    optimizer: optax.GradientTransformation, training: TrainingOptions, state: TrainState, gradient: Any, stats: Any
) -> TrainState:
    """The state after a step.

    Args:
        optimizer: Turns gradients into updates.
        training: The moving average (see `update_average`).
        state: The state before.
        gradient: That of the loss, a tree like `state.params`.
        stats: The batch statistics that the loss gave.
    """
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    if state.plateau is not None:
        updates = scale_tree(updates, state.plateau.scale)
    latest = {"params": optax.apply_updates(state.params, updates), "batch_stats": stats}
    step = state.step + 1
    average = update_average(state.ema, latest, step, training)
    return TrainState(step, **latest, frozen=state.frozen, optimizer=optimizer_state, ema=average,
                      plateau=state.plateau)  # fmt: skip


def gather_batch(data: TrainData, examples: Examples, frames: int, windows: str, seed: int) -> Batch:
    """The batch `[b, F, ...]` of a step's examples `[b]`; its `index` is theirs in the global batch.

    Args:
        data: The training split and its windows.
        examples: Epoch and position of each, which with the seed determine its window.
        frames: Frames F of a window.
        windows: Their kind, as in `DataOptions`; random ones have a new start in every epoch.
        seed: The seed of the batch order.
    """
    ids = permute_index(examples.position, examples.epoch, len(data.windows.start), seed)
    if not windows.startswith("random"):
        batch = gather(data.clips, data.windows, ids, frames)
    else:
        chosen = Windows(*(part[ids] for part in data.windows))
        keys = _derive_start_keys(seed, examples.epoch, examples.position)
        chosen = draw_starts(keys, chosen, frames, release=windows == "random_release")
        batch = gather(data.clips, chosen, jnp.arange(len(ids), dtype=jnp.int32), frames)
    return batch._replace(index=examples.index)


def draw_partners(key: jax.Array, examples: Examples, count: int) -> Examples:
    """For each of the examples, arrays `[B]`, another of the `count` windows, drawn with a key of its index."""
    keys = example_keys(jax.random.fold_in(key, _PARTNER_STREAM), examples.index)
    return examples._replace(position=jax.vmap(lambda one: jax.random.randint(one, (), 0, count))(keys))


def scale_tree(tree: Any, factor: jax.Array) -> Any:
    """Every leaf `[...]` of a tree of gradients or updates times a scalar."""
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


def _derive_start_keys(seed: int, epoch: jax.Array, position: jax.Array) -> jax.Array:
    # One key per window and epoch. No step reaches the index that makes this stream.
    stream = jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))
    return jax.vmap(lambda e, p: jax.random.fold_in(jax.random.fold_in(stream, e), p))(epoch, position)


def cross_over_examples(key: jax.Array, batch: Batch, others: Batch, lifter: Lifter, data: DataOptions) -> Batch:
    """Gives a share of the examples parts of others (`data.augmentation.cross_over`).

    Args:
        key: The key of a step; every example folds in its index.
        batch: The examples, poses `[B, F, J, 3]`.
        others: As many examples that they may be given parts of.
        lifter: The method, for its joint layout.
        data: The options of the data, of which `crossover` is the share.
    """
    keys = example_keys(jax.random.fold_in(key, _CROSSOVER_STREAM), batch.index)
    return cross_over(keys, batch, others, lifter.skeleton, data.crossover)


def film_examples(key: jax.Array, batch: Batch, lifter: Lifter, data: DataOptions) -> Batch:
    """Films each example with a camera, body and detector of its own (`data.augmentation.augment`).

    Args:
        key: The key of a step; every example folds in its index.
        batch: The examples, poses `[B, F, J, 3]` m.
        lifter: The method, for its joint layout.
        data: The options of the data: how bodies vary, and how strong the detector's errors are.
    """
    keys = example_keys(jax.random.fold_in(key, _AUGMENTATION_STREAM), batch.index)
    return augment(keys, batch, lifter.skeleton, data.bodies, data.detector_strength, data.detector_bias)


def flip_half(key: jax.Array, batch: Batch, lifter: Lifter) -> Batch:
    """Mirrors each example of a batch `[B, F, J, C]` with probability one half, drawn with a key of its index."""
    keys = example_keys(key, batch.index)
    chosen = jax.vmap(jax.random.bernoulli)(keys)
    mirrored = flip_batch(batch, lifter.skeleton)

    def pick(flipped: jax.Array, straight: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(chosen, tuple(range(1, straight.ndim))), flipped, straight)

    return jax.tree.map(pick, mirrored, batch)
