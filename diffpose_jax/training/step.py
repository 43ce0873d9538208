"""One dispatch of training: several pure steps in a scan, on one device's share of the global batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffpose_jax.data.shuffling import permute_index
from diffpose_jax.data.windows import DeviceClips, Windows, draw_starts, gather
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Batch, Lifter, flip_batch
from diffpose_jax.parallel import AXIS
from diffpose_jax.training.state import TrainState, averaged


class TrainData(NamedTuple):
    """The training split, resident on the device."""

    clips: DeviceClips
    windows: Windows


class Examples(NamedTuple):
    """Which examples a device takes in each of S steps, int32 `[S, b]`.

    epoch and position say which window (see `permute_index`); index is the place in the global batch, from which all
    the example's noise derives, so that any number of devices follows the same trajectory.
    """

    epoch: np.ndarray
    position: np.ndarray
    index: np.ndarray


def examples_of_steps(first_step: int, num_steps: int, batch_size: int, count: int) -> Examples:
    """The examples `[S, B]` of the global batches first_step, first_step + 1, ... over `count` windows."""
    step = np.arange(first_step, first_step + num_steps, dtype=np.int64)[:, None]
    index = np.broadcast_to(np.arange(batch_size, dtype=np.int64)[None, :], (num_steps, batch_size))
    epoch, position = np.divmod(step * batch_size + index, count)
    return Examples(epoch.astype(np.int32), position.astype(np.int32), index.astype(np.int32))


StepFunction = Callable[[TrainState, TrainData, Examples], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    lifter: Lifter,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float,
    flip: bool,
    ema_kind: str = "grown",
    ema_every: int = 1,
    ema_start: int = 0,
    windows: str = "centred",
    scale_by_loss: bool = False,
) -> StepFunction:
    """The pure function `(state, data, examples) -> (state, metrics)` that `parallel.pmap_step` maps over devices.

    Gradients, metrics and batch statistics are averaged over the devices; metrics are means over the S steps. `windows`
    is the kind that data holds (see `training_windows`), the `ema_` options are those of `averaged`. scale_by_loss:
    the release of MixSTE seeds its backward pass with the loss, so that every gradient is multiplied by it.
    """
    average = functools.partial(averaged, decay=ema_decay, kind=ema_kind, every=ema_every, start=ema_start)

    def batch_of(data: TrainData, examples: Examples) -> Batch:
        ids = permute_index(examples.position, examples.epoch, len(data.windows.start), seed)
        if not windows.startswith("random"):
            return gather(data.clips, data.windows, ids, lifter.frames)
        chosen = Windows(*(part[ids] for part in data.windows))
        keys = _start_keys(seed, examples.epoch, examples.position)
        chosen = draw_starts(keys, chosen, lifter.frames, release=windows == "random_release")
        return gather(data.clips, chosen, jnp.arange(len(ids), dtype=jnp.int32), lifter.frames)

    def one(data: TrainData, state: TrainState, examples: Examples) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        flip_key, loss_key = jax.random.split(key)
        batch = batch_of(data, examples)._replace(index=examples.index)
        batch = flip_half(flip_key, batch, lifter) if flip else batch

        def loss(params: dict) -> tuple[jax.Array, tuple]:
            return lifter.loss({**state.variables(), "params": params}, loss_key, batch)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        value, grads, metrics, batch_stats = jax.lax.pmean((value, grads, aux.metrics, aux.batch_stats), AXIS)
        if scale_by_loss:
            grads = scaled(grads, value)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        if state.plateau is not None:
            updates = scaled(updates, state.plateau.scale)
        latest = {"params": optax.apply_updates(state.params, updates), "batch_stats": batch_stats}
        step = state.step + 1
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        return TrainState(step, **latest, frozen=state.frozen, optimizer=optimizer_state,
                          ema=average(state.ema, latest, step), plateau=state.plateau), metrics  # fmt: skip

    def many(state: TrainState, data: TrainData, examples: Examples) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = jax.lax.scan(lambda carry, part: one(data, carry, part), state, examples)
        return state, jax.tree.map(jnp.mean, metrics)

    return many


def scaled(tree: Any, factor: jax.Array) -> Any:
    """Every leaf `[...]` of a tree of gradients or updates times a scalar."""
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


def _start_keys(seed: int, epoch: jax.Array, position: jax.Array) -> jax.Array:
    # One key per item and epoch; no step is numbered like this stream.
    stream = jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))
    return jax.vmap(lambda e, p: jax.random.fold_in(jax.random.fold_in(stream, e), p))(epoch, position)


def flip_half(key: jax.Array, batch: Batch, lifter: Lifter) -> Batch:
    """Mirrors each example of a batch `[B, F, J, C]` with probability one half, decided by its index."""
    keys = example_keys(key, batch.index)
    chosen = jax.vmap(jax.random.bernoulli)(keys)
    mirrored = flip_batch(batch, lifter.skeleton)

    def pick(flipped: jax.Array, straight: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(chosen, tuple(range(1, straight.ndim))), flipped, straight)

    return jax.tree.map(pick, mirrored, batch)
