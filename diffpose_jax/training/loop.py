"""Training from a config to a work directory: the loop, and nothing that the loop calls."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import validate
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import DeviceClips, Windows, centred_windows, device_clips
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.jobs import predict_windows
from diffpose_jax.evaluation.metrics import mpjpe
from diffpose_jax.lifters.base import Lifter, example_batch
from diffpose_jax.parallel import AXIS, assert_replicated, local_devices, place, pmap_step
from diffpose_jax.progress import Progress
from diffpose_jax.registry import build_lifter, load_dataset
from diffpose_jax.training.checkpoints import Checkpoints, open_workdir, template_of
from diffpose_jax.training.logging import MetricsLog
from diffpose_jax.training.state import TrainState, create_state, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step


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
    validate(config)
    path = open_workdir(workdir, config)
    splits = load_dataset(config.data, ["train", "valid"])
    training = config.training
    _check_batch(training.batch_size)
    lifter, optimizer = build_lifter(config, AXIS), make_optimizer(training)

    def create() -> TrainState:
        return create_state(lifter, optimizer, jax.random.key(config.seed), example_batch(lifter))

    newest, best = Checkpoints(path / "checkpoints", training.keep), Checkpoints(path / "best", 1)
    restored = newest.restore_newest(template_of(create))
    first, state, note = restored or (0, jax.jit(create)(), {"best_mpjpe": float("inf"), "best_step": -1})
    if first == training.steps:
        return Summary(first, note["best_step"], note["best_mpjpe"], False, state)
    data = place(TrainData(device_clips(splits["train"]), centred_windows(splits["train"], lifter.frames)))
    step = pmap_step(
        make_step(lifter, optimizer, seed=config.seed, ema_decay=training.ema_decay, flip=config.data.flip)
    )
    run = _Run(config, path, newest, best, Validation.of(config, splits["valid"]), note)
    return run.loop(step, place(state), data, first)


def _check_batch(batch_size: int) -> None:
    devices = jax.device_count()
    if batch_size % devices:
        raise UserError(f"config.training.batch_size: expected a multiple of {devices} devices, found {batch_size}")


class Validation(NamedTuple):
    """An evenly spread part of the valid split, on the device, and the lifter to run over it."""

    lifter: Lifter
    clips: DeviceClips
    windows: Windows
    config: ConfigDict

    @classmethod
    def of(cls, config: ConfigDict, clips: ClipSet) -> Validation:
        """At most `valid_windows` windows of the set."""
        lifter = build_lifter(config)
        windows = centred_windows(clips, lifter.frames)
        count = min(config.training.valid_windows, len(windows.start))
        spread = np.linspace(0, len(windows.start) - 1, count).astype(np.int32)
        return cls(lifter, *place((device_clips(clips), Windows(*(part[spread] for part in windows)))), config)

    def mpjpe(self, state: TrainState) -> float:
        """The mean error in mm of the mean hypothesis under the averaged variables, always with the same noise."""
        poses, frames = predict_windows(
            self.lifter,
            state.ema_variables(),
            self.clips,
            self.windows,
            num_hypotheses=self.config.training.valid_hypotheses,
            aggregations=("mean",),
            batch_size=self.config.evaluation.batch_size,
            seed=self.config.seed,
        )
        return float(1000 * np.mean(mpjpe(poses["mean"], np.asarray(self.clips.poses)[frames])))


class _Run:
    """The moving parts of one call of `train`."""

    def __init__(self, config: ConfigDict, path: Path, newest: Checkpoints, best: Checkpoints,
                 validation: Validation, note: dict):  # fmt: skip
        self.config, self.path, self.newest, self.best = config, path, newest, best
        self.validation, self.note = validation, dict(note)

    def loop(self, step, state: TrainState, data: TrainData, first: int) -> Summary:
        training = self.config.training
        count = len(data.windows.start)
        log = MetricsLog(self.path, first)
        leading = jax.process_index() == 0
        done, saved = first, first
        with _stop_signals() as stop, Progress("train", training.steps, "steps", start=first, enabled=leading) as progress:
            if first:
                progress.say(f"continuing {self.path} from step {first}")
            begin, begin_step, pending = time.monotonic(), first, []
            while done < training.steps and not stop:
                examples = _local_share(examples_of_steps(done, training.inner_steps, training.batch_size, count))
                state, metrics = step(state, data, examples)
                pending.append(metrics)
                done += training.inner_steps
                if done % training.log_every == 0 or done == training.steps:
                    values = {name: float(np.mean([one[name] for one in pending])) for name in pending[0]}
                    rate = (done - begin_step) / max(time.monotonic() - begin, 1e-9)
                    values |= {"steps_per_second": rate, "poses_per_second": rate * training.batch_size}
                    _check_finite(values["loss"], done)
                    log.write(done, values)
                    progress.update(done, f"loss {values['loss']:.4f}, {values['poses_per_second']:.0f} poses/s, "
                                          f"valid {self.note['best_mpjpe']:.1f} mm")  # fmt: skip
                    begin, begin_step, pending = time.monotonic(), done, []
                if done % training.validate_every == 0 or done == training.steps:
                    self._validate(state, done, log, progress)
                    begin, begin_step, pending = time.monotonic(), done, []
                if done % training.checkpoint_every == 0 or done == training.steps:
                    self._save(done, state)
                    saved = done
            if saved != done:
                self._save(done, state)
        for each in (self.newest, self.best, log):
            each.close()
        return Summary(done, self.note["best_step"], self.note["best_mpjpe"], bool(stop), state)

    def _validate(self, state: TrainState, done: int, log: MetricsLog, progress: Progress) -> None:
        error = self.validation.mpjpe(state)
        log.write(done, {"valid_mpjpe_mm": error})
        if error < self.note["best_mpjpe"]:
            self.note |= {"best_mpjpe": error, "best_step": done}
            self.best.save(done, state.ema_variables(), {"valid_mpjpe_mm": error})
        progress.say(f"step {done}: valid MPJPE {error:.1f} mm (best {self.note['best_mpjpe']:.1f} mm "
                     f"at step {self.note['best_step']})")  # fmt: skip

    def _save(self, done: int, state: TrainState) -> None:
        assert_replicated(state)
        # The best checkpoint must be on disk before the note that names it.
        self.best.wait()
        self.newest.save(done, state, self.note)


def _local_share(examples: Examples) -> Examples:
    """This process's part of global examples `[S, B]`, as `[D, S, b]` for its devices."""

    def share(part: np.ndarray) -> np.ndarray:
        steps, batch = part.shape
        processes = part.reshape(steps, jax.process_count(), local_devices(), -1)
        return np.ascontiguousarray(processes[:, jax.process_index()].transpose(1, 0, 2))

    return Examples(*(share(part) for part in examples))


def _check_finite(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise UserError(f"step {step}: the loss is {loss}; the last checkpoint is kept; try a smaller "
                        "--config.training.learning_rate or --config.training.clip_norm=1")  # fmt: skip


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
