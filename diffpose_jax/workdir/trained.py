"""Loading what was trained in a work directory, for use or as the frozen context of another method."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.data.plausibility import KeypointRecord, load_record
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.parallel import replicate
from diffpose_jax.registry import build_lifter
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of
from diffpose_jax.workdir.directory import is_trained, read_config

CALIBRATION = "calibration.json"


class Trained(NamedTuple):
    """A trained lifter.

    Attributes:
        config: The config that it was trained with.
        lifter: The method.
        variables: The averaged variables, replicated over the devices.
        step: The step that they are of.
        temperature: The temperature that `calibrate` found for them, None if they were not calibrated.
        keypoints: What the keypoints are like that it was trained on, None where no record of it was kept.
    """

    config: ConfigDict
    lifter: Lifter
    variables: Variables
    step: int
    temperature: float | None = None
    keypoints: KeypointRecord | None = None


def load_trained(workdir: str | os.PathLike) -> Trained:
    """Loads the variables of a work directory that have the lowest error on its valid split.

    Raises UserError where there is no config or no checkpoint, or none can be read.
    """
    path = Path(workdir)
    config = read_config(path)
    lifter = build_lifter(config)
    best = path / "best"
    if not any(best.glob("[0-9]*")):
        raise UserError(f"{path}: expected a checkpoint in {best}, found none; train first")
    checkpoints = Checkpoints(best, keep=1)
    try:
        restored = checkpoints.restore_newest(_variables_template(lifter))  # type: ignore[arg-type]  # no __hash__
    finally:
        checkpoints.close()
    assert restored is not None  # there is one, and a damaged one has raised
    step, variables, _ = restored
    temperature = _read_temperature(path / CALIBRATION, step)
    return Trained(config, lifter, replicate(variables), step, temperature, load_record(path))


# Tracing a network takes about a second: equal lifters, of evaluation and prediction say, are traced once.
@lru_cache(maxsize=8)
def _variables_template(lifter: Lifter) -> Any:
    return template_of(lambda: lifter.init(jax.random.key(0), example_batch(lifter)))


def _read_temperature(path: Path, step: int) -> float | None:
    """The temperature in a file of `calibrate`, None where it is missing or was found for another step."""
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


def resolve_context(config: ConfigDict, workdir: str | os.PathLike) -> tuple[ConfigDict, Variables]:
    """Fills in the `context` section of a config from the work directory that `lifter.context` names.

    Args:
        config: The config of a run.
        workdir: The run's work directory. If something was trained in it, its config has the section already and its
            checkpoints have the variables; the context's own directory is not read then.

    Returns:
        The config with the section, and the variables of the context to be frozen: `{}` where no context is named, or
        where the run has them.

    Raises:
        UserError: The context cannot be loaded, or works on another layout.
    """
    source = config.lifter.get("context", "")
    if not source:
        return config, {}
    if is_trained(Path(workdir)) and (Path(workdir) / "config.json").is_file():
        return _set_context(config, read_config(workdir).context), {}
    trained = load_trained(source)
    for key in ("layout", "view"):
        ours, theirs = config.data[key], trained.config.data[key]
        if ours != theirs:
            raise UserError(f"config.lifter.context: expected a lifter of {key} {ours}, found {theirs} in {source}")
    return _set_context(config, trained.config.lifter), trained.variables


def _set_context(config: ConfigDict, section: ConfigDict) -> ConfigDict:
    config = copy_config(config)
    config.context = ConfigDict(section.to_dict())
    return config
