"""The work directory: its config, its checkpoints (newest and best) and how they come back."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from diffpose_jax.config import first_difference, load_config
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.report import writable_directory
from diffpose_jax.lifters.base import Lifter, Variables, example_batch
from diffpose_jax.lifters.reverse import with_temperature
from diffpose_jax.parallel import replicate
from diffpose_jax.registry import build_lifter, validate

CALIBRATION = "calibration.json"


def open_workdir(workdir: str | os.PathLike, config: ConfigDict) -> Path:
    """Creates a work directory, or checks that the checkpoints in an existing one belong to this config.

    Raises UserError where it cannot be written, or where its config differs in more than how a run is watched.
    """
    path = writable_directory(workdir)
    if not _is_trained(path):
        return path
    stored = path / "config.json"
    if not stored.exists():
        raise UserError(f"--workdir {path}: expected config.json beside its checkpoints, found none")
    before = load_config(stored)
    name = first_difference(config, before)
    if name is not None:
        ours, theirs = (_lookup(one, name) for one in (config, before))
        raise UserError(
            f"{stored}: this workdir was made with {name}={theirs!r}, the config now says {ours!r}; "
            "use another --workdir"
        )
    return path


def _is_trained(path: Path) -> bool:
    return any(any((path / name).glob("[0-9]*")) for name in ("checkpoints", "best"))


@functools.cache
def _hush_closed_event_loops() -> None:
    """Silences what TensorStore's threads say about reads that were under way when another one failed.

    Each of thousands would print a traceback, even after the failure is dealt with, and bury the line that counts.
    """
    report = sys.unraisablehook

    def quieter(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = quieter


def _lookup(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


class Checkpoints:
    """Checkpoints under one directory, saved in the background, each complete or absent.

    `restore_newest` goes from the newest to the oldest and moves a damaged one aside to `damaged/`, saying so.
    """

    def __init__(self, directory: str | os.PathLike, keep: int):
        self._path = Path(directory).absolute()
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._path, options=self._options)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, tree: Any, note: dict | None = None) -> None:
        """Saves a tree of arrays and a small JSON note; a step already there is left alone."""
        if step in self._manager.all_steps():
            return
        if jax.process_count() > 1:
            tree = jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, tree)
        arguments = ocp.args.Composite(tree=ocp.args.StandardSave(tree), note=ocp.args.JsonSave(note or {}))
        if not self._manager.save(step, args=arguments, force=True):
            raise RuntimeError(f"{self._path}: checkpoint {step} was not saved")

    def replace(self, step: int, tree: Any, note: dict | None = None) -> None:
        """Saves a tree in place of anything at the same or a later step: a continued run may come by there again."""
        for later in [one for one in self._manager.all_steps() if one >= step]:
            self._manager.delete(later)
        self.save(step, tree, note)

    def restore_newest(self, template: Any) -> tuple[int, Any, dict] | None:
        """(step, tree, note) of the newest checkpoint that can be read, or None where there is none at all.

        template is a tree of arrays or ShapeDtypeStructs. Raises UserError where every checkpoint is damaged.
        """
        _hush_closed_event_loops()
        steps, damaged = self.steps(), {}
        arguments = ocp.args.Composite(tree=ocp.args.StandardRestore(template), note=ocp.args.JsonRestore())
        for step in steps:
            try:
                restored = self._manager.restore(step, args=arguments)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                damaged[step] = (str(error).splitlines() or [type(error).__name__])[0][:200]
                continue
            self._set_aside(damaged)
            return step, restored["tree"], restored["note"]
        if steps:
            reason = damaged[steps[0]]
            raise UserError(f"{self._path}: none of the checkpoints {steps} can be read; the newest says: {reason}")
        return None

    def _set_aside(self, damaged: dict[int, str]) -> None:
        # A damaged step left in place would make Orbax refuse later saves of the same or an earlier step.
        if not damaged:
            return
        self._manager.close()
        for step, reason in damaged.items() if jax.process_index() == 0 else ():
            target = self._path.parent / "damaged" / f"{self._path.name}-{step}"
            logging.warning("%s/%d cannot be read (%s); moved to %s", self._path, step, reason, target)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            shutil.move(self._path / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager = ocp.CheckpointManager(self._path, options=self._options)

    def wait(self) -> None:
        """Returns when all saves so far are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and releases the directory."""
        self._manager.wait_until_finished()
        self._manager.close()


class Trained(NamedTuple):
    """What a work directory was trained to: its config, its lifter, the averaged variables and their step."""

    config: ConfigDict
    lifter: Lifter
    variables: Variables
    step: int

    @property
    def temperature(self) -> float | None:
        """What `calibrate` found for these variables, None if they were not calibrated."""
        found = self.variables.get("calibration", {}).get("temperature")
        return None if found is None else float(found)


def restore_workdir(workdir: str | os.PathLike) -> Trained:
    """The best variables of a work directory by its valid split, as training saves them whenever they improve.

    Raises UserError where there is no config or no checkpoint.
    """
    path = Path(workdir)
    config = load_config(path / "config.json")
    validate(config)
    lifter = build_lifter(config)
    template = template_of(lambda: lifter.init(jax.random.key(0), example_batch(lifter)))
    if not any((path / "best").glob("[0-9]*")):
        raise UserError(f"{path}: expected a checkpoint in {path / 'best'}, found none; train first")
    best = Checkpoints(path / "best", keep=1)
    try:
        step, variables, _ = best.restore_newest(template)
    finally:
        best.close()
    temperature = _temperature(path / CALIBRATION, step)
    if temperature is not None:
        variables = with_temperature(variables, temperature)
    return Trained(config, lifter, replicate(variables), step)


def _temperature(path: Path, step: int) -> float | None:
    """The temperature in a file of `calibrate`, None where there is none for the variables of `step`."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        made_for, temperature = int(found["step"]), float(found["temperature"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a file written by calibrate, found {error}; remove it") from error
    if made_for != step:
        logging.warning("%s is of step %d, the best is %d now: not used; calibrate again", path, made_for, step)
        return None
    return temperature


def with_context(config: ConfigDict, workdir: str | os.PathLike) -> tuple[ConfigDict, Variables]:
    """The config with its `context` section filled in from the work directory that `lifter.context` names, and the
    variables of the lifter trained there, to be frozen.

    Where none is named, or `workdir` holds a run that already has them in its checkpoints, the variables are `{}`.
    Raises UserError where that lifter works on another layout.
    """
    source = config.lifter.get("context", "")
    if not source:
        return config, {}
    if _is_trained(Path(workdir)) and (Path(workdir) / "config.json").is_file():
        config = ConfigDict(config.to_dict())
        config.context = load_config(Path(workdir) / "config.json").get("context", ConfigDict())
        return config, {}
    trained = restore_workdir(source)
    ours, theirs = config.data.layout, trained.config.data.layout
    if ours != theirs:
        raise UserError(f"config.lifter.context: expected a lifter of layout {ours}, found {theirs} in {source}")
    config = ConfigDict(config.to_dict())
    config.context = ConfigDict(trained.config.lifter.to_dict())
    return config, trained.variables


def template_of(create: Callable[[], Any]) -> Any:
    """The shapes and dtypes of what `create` would return, on one device, for `restore_newest`."""
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), jax.eval_shape(create)
    )
