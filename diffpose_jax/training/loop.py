"""Training from a config to a work directory: the loop, and nothing that the loop calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import read_options, save_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Batch, DeviceClips, Windows, device_clips, gather, training_windows
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter, MeasuringLifter, Variables
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.wrappers import with_occlusion
from diffpose_jax.parallel import AXIS, local_device_count, pmap_step, replicate
from diffpose_jax.progress import Progress
from diffpose_jax.registry import build_lifter, complete_config, load_dataset, validate
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.training.logging import MetricAverages, MetricsLog
from diffpose_jax.training.state import TrainState, create_state, make_optimizer, update_plateau
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step
from diffpose_jax.training.validation import CheckpointManager, Validation
from diffpose_jax.workdir.directory import open_workdir
from diffpose_jax.workdir.trained import resolve_context


class Summary(NamedTuple):
    """How a run ended: its last step, the best valid MPJPE in mm with its step, and whether it was asked to stop."""

    step: int
    best_step: int
    best_mpjpe: float
    stopped: bool
    state: TrainState


def train(config: ConfigDict, workdir: str | os.PathLike) -> Summary:
    """Trains until `config.training.steps`, continuing where the work directory stands; returns a summary.

    SIGTERM and SIGINT save a checkpoint and return early. Raises UserError for what a user can mend.
    """
    config = complete_config(config) if set(config.lifter) == {"name"} else config
    validate(config)
    training = read_options(TrainingOptions, config.training, "training")
    data_options = read_options(DataOptions, config.data, "data")
    _check_batch(training.batch_size)
    config, context = resolve_context(config, workdir)
    path = open_workdir(workdir, config)
    lifter, optimizer = build_lifter(config, AXIS), make_optimizer(training)

    def create() -> TrainState:
        plateau = training.decay == "plateau"
        return create_state(lifter, optimizer, jax.random.key(config.seed), example_batch(lifter), plateau)

    splits = _load_splits(config)
    save_config(config, path / "config.json")
    validation = Validation.of(config, splits["valid"])
    manager = CheckpointManager(path, training.keep, validation)
    first, state = manager.restore(create)
    data = TrainData(
        device_clips(splits["train"]), training_windows(splits["train"], lifter.frames, data_options.windows)
    )
    if context and not first:
        state = state._replace(frozen=_freeze(lifter, context, data, validation))
    log = MetricsLog(path, first, enabled=jax.process_index() == 0)
    occluded = with_occlusion(lifter, data_options.occlusion, data_options.occlusion_rate or None)
    step = pmap_step(make_step(occluded, optimizer, config.seed, data_options, training))
    try:
        run = Run(training, step, replicate(data), training.batch_size * _lifted_poses(lifter), manager, log)
        return run.steps(replicate(state), first)
    finally:
        manager.close()
        log.close()


def _load_splits(config: ConfigDict) -> dict[str, ClipSet]:
    splits = load_dataset(config.data, ["train", "valid"])
    for split, clips in splits.items():
        if not clips.num_frames or clips.poses is None:
            found = "no frames" if not clips.num_frames else "no 3D poses"
            raise UserError(f"{config.data.source}: expected 3D poses to train with in split {split}, found {found}")
    return splits


def _lifted_poses(lifter: Lifter) -> int:
    return 1 if lifter.middle_frame else lifter.frames


def _freeze(lifter: Lifter, context: Variables, train: TrainData, valid: Validation) -> Variables:
    """What a lifter keeps frozen: its context's variables, and what it measures with them before training."""
    if not isinstance(lifter, MeasuringLifter):
        return context
    batches = (_spread_batches(part.clips, part.windows, lifter.frames) for part in (train, valid))
    return lifter.measure(context, *batches)


def _spread_batches(clips: DeviceClips, windows: Windows, frames: int, limit: int = 8192) -> Iterator[Batch]:
    """Batches of equal size with about `limit` frames, evenly spread over windows."""
    count = min(max(1, limit // frames), len(windows.start))
    size = min(max(1, 512 // frames), count)
    ids = np.linspace(0, len(windows.start) - 1, count).astype(np.int32)
    for part in np.split(ids[: count // size * size], count // size):
        yield gather(clips, windows, jnp.asarray(part), frames)


class Run(NamedTuple):
    """A training run: its options, the compiled step, the data on the devices, and what is kept and logged of it."""

    training: TrainingOptions
    step: Callable
    data: TrainData
    poses_per_step: int
    manager: CheckpointManager
    log: MetricsLog

    def steps(self, state: TrainState, first: int) -> Summary:
        """Trains from step `first` to the last one, or until a signal asks to stop."""
        training, manager, windows, done = self.training, self.manager, len(self.data.windows.start), first
        averages = MetricAverages(self.poses_per_step, first)
        leading = jax.process_index() == 0
        with (
            _stop_signals() as stop,
            Progress("train", training.steps, "steps", start=first, enabled=leading) as progress,
        ):
            progress.say(f"{f'continuing from step {first}' if first else 'starting'}: {windows} training windows on "
                         f"{jax.device_count()} x {jax.devices()[0].device_kind}; the first step compiles")  # fmt: skip
            while done < training.steps and not stop:
                examples = examples_of_steps(done, training.inner_steps, training.batch_size, windows)
                state, metrics = self.step(state, self.data, _local_share(examples))
                averages.add(metrics)
                done += training.inner_steps
                last = done == training.steps
                if done % training.log_every == 0 or last:
                    values = averages.read(done)
                    self.log.write(done, values)
                    progress.update(done, f"loss {values['loss']:.4f}, {values['poses_per_second']:.0f} poses/s")
                if done % training.validate_every == 0 or last:
                    state, error = self._validate(done, state)
                    progress.say(f"step {done}: valid MPJPE {error:.1f} mm ({manager.best_text()})")
                    averages.restart(done)
                if done % training.checkpoint_every == 0 or last or stop:
                    manager.save(done, state)
        return Summary(done, manager.best_step, manager.best_mpjpe, bool(stop), state)

    def _validate(self, done: int, state: TrainState) -> tuple[TrainState, float]:
        error = self.manager.validate(done, state)
        self.log.write(done, {"valid_mpjpe_mm": error})
        if state.plateau is not None:
            state = state._replace(plateau=replicate(update_plateau(state.plateau, error, self.training)))
            self.log.write(done, {"learning_rate_scale": float(np.asarray(state.plateau.scale))})
        return state, error


def _check_batch(batch_size: int) -> None:
    if batch_size % jax.device_count():
        raise UserError(f"config.training.batch_size: expected a multiple of {jax.device_count()} devices, "
                        f"found {batch_size}")  # fmt: skip


def _local_share(examples: Examples) -> Examples:
    """This process's part of global examples `[S, B]`, as `[D, S, b]` for its devices."""

    def share(part: np.ndarray) -> np.ndarray:
        processes = part.reshape(len(part), jax.process_count(), local_device_count(), -1)
        return np.ascontiguousarray(processes[:, jax.process_index()].transpose(1, 0, 2))

    return Examples(*(share(part) for part in examples))


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; outside the main thread signals are left alone."""
    received: list[int] = []
    handlers = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = signal.signal(number, lambda got, frame: received.append(got))
    except ValueError:  # only the main thread may set handlers
        pass
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
