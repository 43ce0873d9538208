"""Training from a config to a work directory: the loop, and nothing that the loop calls."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import save_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import (
    Batch,
    DeviceClips,
    Windows,
    device_clips,
    gather,
    training_windows,
)
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.jobs import predict_windows, spread_windows
from diffpose_jax.lifters.base import Lifter, Variables, example_batch, occluded
from diffpose_jax.parallel import AXIS, assert_replicated, local_device_count, pmap_step, replicate
from diffpose_jax.progress import Progress
from diffpose_jax.registry import build_lifter, load_dataset, validate
from diffpose_jax.training.logging import MetricsLog
from diffpose_jax.training.state import TrainState, create_state, make_optimizer, plateau_after
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step
from diffpose_jax.workdir.checkpoints import Checkpoints, open_workdir, template_of, with_context


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
    _check_batch(config.training.batch_size)
    config, context = with_context(config, workdir)
    path = open_workdir(workdir, config)
    lifter, optimizer = _training_lifter(config, AXIS), make_optimizer(config.training)

    def create() -> TrainState:
        plateau = config.training.decay == "plateau"
        return create_state(lifter, optimizer, jax.random.key(config.seed), example_batch(lifter), plateau)

    splits = load_dataset(config.data, ["train", "valid"])
    for split, clips in splits.items():
        if not clips.num_frames or clips.poses is None:
            found = "no frames" if not clips.num_frames else "no 3D poses"
            raise UserError(f"{config.data.source}: expected 3D poses to train with in split {split}, found {found}")
    save_config(config, path / "config.json")
    validation, kind = Validation.of(config, splits["valid"]), config.data.windows
    keeper = Keeper(path, config.training.keep, validation)
    first, state = keeper.restore(create)
    data = TrainData(device_clips(splits["train"]), training_windows(splits["train"], lifter.frames, kind))
    if context and not first:
        state = state._replace(frozen=_frozen(lifter, context, data, validation))
    log = MetricsLog(path, first, enabled=jax.process_index() == 0)
    names = ("ema_decay", "ema_kind", "ema_every", "ema_start", "scale_by_loss")
    options = {name: config.training[name] for name in names}
    step = make_step(lifter, optimizer, seed=config.seed, flip=config.data.flip, windows=kind, **options)
    try:
        poses = config.training.batch_size * (1 if lifter.middle_frame else lifter.frames)
        return _loop(config.training, poses, pmap_step(step), replicate(state), replicate(data), first, keeper, log)
    finally:
        keeper.close()
        log.close()


def _training_lifter(config: ConfigDict, axis_name: str | None = None) -> Lifter:
    return occluded(build_lifter(config, axis_name), config.data.occlusion, config.data.occlusion_rate or None)


def _frozen(lifter: Lifter, context: Variables, train: TrainData, valid: Validation) -> Variables:
    """What a lifter keeps frozen: its context's variables, and what it measures with them before training."""
    if lifter.measure is None:
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


def _loop(training: ConfigDict, poses_per_step: int, step: Callable, state: TrainState, data: TrainData, first: int,
          keeper: Keeper, log: MetricsLog) -> Summary:  # fmt: skip
    windows, inner, done = len(data.windows.start), training.inner_steps, first
    leading = jax.process_index() == 0
    with _stop_signals() as stop, Progress("train", training.steps, "steps", start=first, enabled=leading) as progress:
        progress.say(f"{f'continuing from step {first}' if first else 'starting'}: {windows} training windows on "
                     f"{jax.device_count()} x {jax.devices()[0].device_kind}; the first step compiles")  # fmt: skip
        meter = Meter(poses_per_step, first)
        while done < training.steps and not stop:
            examples = _local_share(examples_of_steps(done, inner, training.batch_size, windows))
            state, metrics = step(state, data, examples)
            meter.add(metrics)
            done += inner
            last = done == training.steps
            if done % training.log_every == 0 or last:
                values = meter.read(done)
                log.write(done, values)
                progress.update(done, f"loss {values['loss']:.4f}, {values['poses_per_second']:.0f} poses/s")
            if done % training.validate_every == 0 or last:
                error = keeper.validate(done, state)
                log.write(done, {"valid_mpjpe_mm": error})
                if state.plateau is not None:
                    state = state._replace(plateau=replicate(plateau_after(state.plateau, error, training)))
                    log.write(done, {"learning_rate_scale": float(np.asarray(state.plateau.scale))})
                progress.say(f"step {done}: valid MPJPE {error:.1f} mm ({keeper.best_text()})")
                meter.restart(done)
            if done % training.checkpoint_every == 0 or last or stop:
                keeper.save(done, state)
    return Summary(done, keeper.best_step, keeper.best_mpjpe, bool(stop), state)


class Meter:
    """Means of the metrics and rates since the last reading."""

    def __init__(self, poses_per_step: int, step: int):
        self._poses_per_step = poses_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Forgets what was added; time counts from now."""
        self._pending, self._step, self._time = [], step, time.monotonic()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of one dispatch, which may still be under way."""
        self._pending.append(metrics)
        # Virtual CPU devices can wait for each other for ever when many dispatches are in flight.
        if jax.default_backend() == "cpu":
            jax.block_until_ready(metrics)

    def read(self, step: int) -> dict[str, float]:
        """The means, steps/s and poses/s. Raises UserError where the loss is no longer a number."""
        values = {name: float(np.mean([one[name] for one in self._pending])) for name in self._pending[0]}
        if not np.isfinite(values["loss"]):
            raise UserError(f"step {step}: the loss is {values['loss']}; the last checkpoint is kept; try a smaller "
                            "--config.training.learning_rate or --config.training.clip_norm=1")  # fmt: skip
        rate = (step - self._step) / max(time.monotonic() - self._time, 1e-9)
        self.restart(step)
        return {**values, "steps_per_second": rate, "poses_per_second": rate * self._poses_per_step}


class Validation(NamedTuple):
    """An evenly spread part of the valid split, on the device, and the lifter to run over it."""

    lifter: Lifter
    clips: DeviceClips
    windows: Windows
    config: ConfigDict

    @classmethod
    def of(cls, config: ConfigDict, clips: ClipSet) -> Validation:
        """As many windows as have `valid_frames` frames to lift."""
        lifter = _training_lifter(config)
        windows = spread_windows(lifter, clips, config.training.valid_frames)
        return cls(lifter, device_clips(clips), windows, config)

    def mpjpe(self, variables: Variables) -> float:
        """The error in mm of the mean of `valid_hypotheses`, over the windows, always with the same noise."""
        poses, frames = predict_windows(
            self.lifter,
            variables,
            self.clips,
            self.windows,
            num_hypotheses=self.config.training.valid_hypotheses,
            aggregations=("mean",),
            batch_size=self.config.evaluation.batch_size,
            seed=self.config.seed,
        )
        target = np.asarray(self.clips.poses)[frames]
        return float(1000 * np.mean(np.linalg.norm(poses["mean"] - target, axis=-1)))


class Keeper:
    """Which states are kept: the newest ones to continue from, and the best averaged variables by the valid split."""

    def __init__(self, workdir: Path, keep: int, validation: Validation):
        self._newest = Checkpoints(workdir / "checkpoints", keep)
        self._best = Checkpoints(workdir / "best", 1)
        self._validation = validation
        self.best_mpjpe, self.best_step = float("inf"), -1

    def restore(self, create: Callable[[], TrainState]) -> tuple[int, TrainState]:
        """The newest state that can be read, or a new one at step 0."""
        restored = self._newest.restore_newest(template_of(create))
        if restored is None:
            return 0, jax.jit(create)()
        step, state, note = restored
        self.best_mpjpe, self.best_step = note["best_mpjpe"], note["best_step"]
        return step, state

    def validate(self, step: int, state: TrainState) -> float:
        """Measures the averaged variables, keeps them where they are the best so far, and returns their error in mm."""
        error = self._validation.mpjpe(state.ema_variables())
        if error < self.best_mpjpe:
            self.best_mpjpe, self.best_step = error, step
            self._best.replace(step, state.ema_variables(), {"valid_mpjpe_mm": error})
        return error

    def best_text(self) -> str:
        """The best so far, in words."""
        return f"best {self.best_mpjpe:.1f} mm at step {self.best_step}"

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state to continue from, in the background, after the best variables that it names are on disk."""
        assert_replicated(state)
        self._best.wait()
        self._newest.save(step, state, {"best_mpjpe": self.best_mpjpe, "best_step": self.best_step})

    def close(self) -> None:
        """Waits for what is being saved."""
        self._newest.close()
        self._best.close()


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
