"""Training from a config to a work directory: preparation, and the loop over dispatches of several steps."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import read_options, save_config
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter, ValidatingLifter
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.wrappers import with_occlusion
from diffpose_jax.parallel import AXIS, agree_on_signal, local_device_count, pmap_step, replicate
from diffpose_jax.progress import Progress
from diffpose_jax.registry import build_lifter, complete_config, validate
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.training.distillation import load_teacher, with_distillation
from diffpose_jax.training.initial import start_from
from diffpose_jax.training.logging import MetricAverages, MetricsLog
from diffpose_jax.training.preparation import freeze_context, keep_record, load_splits, make_data
from diffpose_jax.training.skips import BatchOrder, Diverged, SkippedSteps
from diffpose_jax.training.state import TrainState, create_state, current_rate, make_optimizer, update_plateau
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step
from diffpose_jax.training.validation import CheckpointManager, Validation
from diffpose_jax.workdir.directory import is_trained, open_workdir, read_config, writable_directory
from diffpose_jax.workdir.lock import locked
from diffpose_jax.workdir.trained import resolve_context


class Summary(NamedTuple):
    """How a run ended.

    Attributes:
        step: Its last step.
        best_step: The step with the lowest MPJPE on the valid split, the last one where there is no such split.
        best_mpjpe: That error, mm; NaN where there is no such split.
        stopped: Whether a signal stopped it before its end.
        state: The state after the last step, replicated over the devices.
        signal: The number of that signal, 0 without one.
    """

    step: int
    best_step: int
    best_mpjpe: float
    stopped: bool
    state: TrainState
    signal: int = 0


def train(config: ConfigDict, workdir: str | os.PathLike) -> Summary:
    """Trains a method, from step 0 or from the newest checkpoint of the work directory.

    SIGTERM and SIGINT save a checkpoint and end the run; it can be continued by the same call, bit for bit.

    Args:
        config: A config of `config_for` or of a file in `configs/`; a lifter section that holds only a name is
            completed with the method's defaults.
        workdir: The directory for checkpoints, metrics and results; made where it does not exist.

    Returns:
        How the run ended.

    Raises:
        UserError: An option, the data, the context or the work directory cannot be used, or the loss became NaN.
    """
    config = complete_config(config) if set(config.lifter) == {"name"} else config
    validate(config)
    given = read_options(TrainingOptions, config.training, "training")
    _check_batch_size(given.batch_size)
    with contextlib.ExitStack() as held:
        if jax.process_index() == 0:
            held.enter_context(locked(writable_directory(workdir), "train"))
        return _train(config, given, workdir)


def _train(config: ConfigDict, given: TrainingOptions, workdir: str | os.PathLike) -> Summary:
    data_options = read_options(DataOptions, config.data, "data")
    config, context = resolve_context(config, workdir)
    # Only with the section of its context, which was just filled in, can a method be built.
    path, lifter = open_workdir(workdir, config), build_lifter(config, AXIS)
    learning = with_distillation(lifter, config)
    before = read_config(path) if is_trained(path) else config
    splits = load_splits(config)
    _check_plateau(given, lifter, config.data.source, "valid" in splits)
    save_config(config, path / "config.json")
    data = make_data(splits["train"], lifter, data_options, config.context.get("folds", []))
    data = data._replace(teacher=load_teacher(config))
    training = given.count_epochs(len(data.windows.start))

    def create(saved: Mapping | None = before) -> TrainState:
        # Clipping may begin or end where a run continues, and its place in the optimiser's state with it.
        clip_norm = (saved or before)["training"].get("clip_norm", 0.0)
        optimizer = make_optimizer(dataclasses.replace(training, clip_norm=clip_norm))
        key, batch = jax.random.key(config.seed), example_batch(lifter)
        return create_state(lifter, optimizer, key, batch, training.decay == "plateau")

    keep_record(path, splits["train"], data_options)
    validation = Validation.of(config, splits["valid"]) if "valid" in splits else None
    manager = CheckpointManager(path, training.keep, validation, config)
    first, state = manager.restore(partial(create, config), create)
    if (given.init_from or given.distil) and not first:
        state = start_from(state, given.init_from or given.distil)
    if context and not first:  # a continued run has it in its checkpoint
        state = state._replace(frozen=freeze_context(lifter, context, data, validation))
    log = MetricsLog(path, first, enabled=jax.process_index() == 0)
    try:
        occluded = with_occlusion(learning, data_options.occlusion, data_options.occlusion_rate or None)
        step = _compile_step(occluded, config.seed, data_options, training)  # type: ignore[arg-type]  # no __hash__
        order = BatchOrder(splits["train"], data.windows, config.seed)
        run = Run(training, step, replicate(data), training.batch_size * _count_poses(lifter), manager, log, order)
        return run.train_from(first, replicate(state))
    finally:
        with _stop_signals():  # what is being saved is saved to its end
            manager.close()
            log.close()


# Equal runs are one key: one that is continued in the same process, as a notebook's is, compiles nothing.
@lru_cache(maxsize=2)
def _compile_step(lifter: Lifter, seed: int, data: DataOptions, training: TrainingOptions) -> Callable:
    return pmap_step(make_step(lifter, make_optimizer(training), seed, data, training))


def _count_poses(lifter: Lifter) -> int:
    """The poses that a lifter gives per window."""
    return 1 if lifter.middle_frame else lifter.frames


def _check_plateau(training: TrainingOptions, lifter: Lifter, source: str, has_valid: bool) -> None:
    if training.decay != "plateau":
        return
    if not has_valid:
        raise UserError(f"config.training.decay: 'plateau' judges the valid split, and {source} has none")
    if training.plateau_error == "loss" and not isinstance(lifter, ValidatingLifter):
        raise UserError("config.training.plateau_error: expected 'mpjpe' for a method whose loss cannot be measured on "
                        "the valid split, found 'loss'")  # fmt: skip


class Run(NamedTuple):
    """A training run: its options, the compiled step, the data on the devices, its checkpoints and its log.

    Attributes:
        training: The options of the training section.
        step: The step of `make_step`, mapped over the devices.
        data: The training split, replicated over the devices.
        poses_per_step: Poses in a global batch, for the rate in poses/s.
        manager: Validates and saves checkpoints.
        log: The metrics file and TensorBoard.
        order: The training split and the order of its windows.
    """

    training: TrainingOptions
    step: Callable
    data: TrainData
    poses_per_step: int
    manager: CheckpointManager
    log: MetricsLog
    order: BatchOrder

    def train_from(self, first: int, state: TrainState) -> Summary:
        """Takes all steps from `first` on, or until a signal asks to stop; the state's memory is donated."""
        training, manager, windows, done = self.training, self.manager, len(self.data.windows.start), first
        averages, skipped = MetricAverages(self.poses_per_step, first), SkippedSteps(training, self.order)
        leading, stopped_by = jax.process_index() == 0, 0  # processes have to stop at the same step
        with (
            _stop_signals() as stop,
            Progress("train", training.steps, "steps", start=first, enabled=leading) as progress,
        ):
            progress.say(f"{f'continuing from step {first}' if first else 'starting'}: {windows} training windows on "
                         f"{jax.device_count()} x {jax.devices()[0].device_kind}; the first step compiles")  # fmt: skip
            while done < training.steps and not stopped_by:
                examples = self._examples(done)
                state, metrics, skips = self.step(state, self.data, _shard_examples(examples))
                averages.add(metrics)
                done += training.inner_steps
                last = done == training.steps
                due = last or self._is_due(done)
                with self._dropping_suspects():
                    skipped.add(done, skips, np.asarray(examples.epoch), np.asarray(examples.position))
                    if due or stop:
                        skipped.settle()
                if done % training.log_every == 0 or last:
                    values = averages.read(done) | {"learning_rate": current_rate(state, training, done)}
                    if skipped.total:
                        values["skipped_steps"] = skipped.total
                    self.log.write(done, values)
                    progress.update(done, f"loss {values['loss']:.4f}, lr {values['learning_rate']:.3g}, "
                                          f"{values['poses_per_second']:.0f} poses/s{skipped.text()}")  # fmt: skip
                if done % training.validate_every == 0 or last:
                    state, error = self._validate(done, state)
                    if manager.selects:
                        progress.say(f"step {done}: valid MPJPE {error:.1f} mm ({manager.best_text()})")
                    averages.restart(done)  # the rate is that of training alone
                # Processes of a cluster have to meet to agree; one by itself heeds a signal after any step.
                if due or (stop and jax.process_count() == 1):
                    stopped_by = agree_on_signal(stop[0] if stop else 0)
                # After the validation of the same step: the checkpoint notes which step is the best.
                # A state that gave no finite loss may never do so again.
                if last or stopped_by or (done % training.checkpoint_every == 0 and not skipped.in_a_row):
                    manager.save(done, state)
        return Summary(done, manager.best_step, manager.best_mpjpe, bool(stopped_by), state, stopped_by)

    def _examples(self, done: int) -> Examples:
        """The global examples `[S, B]` of the dispatch that follows this step."""
        training = self.training
        return examples_of_steps(done, training.inner_steps, training.batch_size, len(self.data.windows.start))

    def _is_due(self, done: int) -> bool:
        """Whether the log, a validation or a checkpoint follows this step."""
        every = self.training.log_every, self.training.validate_every, self.training.checkpoint_every
        return any(done % steps == 0 for steps in every)

    @contextmanager
    def _dropping_suspects(self) -> Iterator[None]:
        """Where training diverges, sets the checkpoints aside from which it does."""
        try:
            yield
        except Diverged as error:
            self.manager.set_aside_from(error.suspect)
            raise

    def _validate(self, done: int, state: TrainState) -> tuple[TrainState, float]:
        error = self.manager.validate(done, state)
        if not self.manager.selects:
            return state, error
        self.log.write(done, self.manager.valid_measures())
        self.log.draw(done, "valid_poses", self.manager.draw_validated)
        if state.plateau is not None:
            judged = error
            if self.training.plateau_error == "loss":
                judged = self.manager.valid_loss(state)
                self.log.write(done, {"valid_loss": judged})
            plateau = replicate(update_plateau(state.plateau, judged, self.training))
            state = state._replace(plateau=plateau)
            self.log.write(done, {"learning_rate_scale": float(np.asarray(plateau.scale))})
        return state, error


def _check_batch_size(batch_size: int) -> None:
    if batch_size % jax.device_count():
        raise UserError(f"config.training.batch_size: expected a multiple of {jax.device_count()} devices, "
                        f"found {batch_size}")  # fmt: skip


def _shard_examples(examples: Examples) -> Examples:
    """This process's part of global examples `[S, B]`, as `[D, S, b]` for its devices."""

    def shard(part: Any) -> Any:
        processes = part.reshape(len(part), jax.process_count(), local_device_count(), -1)
        return np.ascontiguousarray(processes[:, jax.process_index()].transpose(1, 0, 2))

    return Examples(*(shard(part) for part in examples))


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Catches SIGTERM and SIGINT in a list while the block runs; outside the main thread it catches nothing."""
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
