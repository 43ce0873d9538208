"""Loading what was trained in a work directory, for use or as the frozen context of another method."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.data.plausibility import KeypointRecord, load_record
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.wrappers import with_scales
from diffpose_jax.parallel import replicate
from diffpose_jax.registry import build_lifter
from diffpose_jax.workdir.calibration import Calibration, read_calibration
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of
from diffpose_jax.workdir.directory import is_trained, read_config
from diffpose_jax.workdir.folds import fold_directory, read_folds
from diffpose_jax.workdir.releases import is_release, locate, read_release


class Trained(NamedTuple):
    """A trained lifter.

    Attributes:
        config: The config that it was trained with.
        lifter: The method; its hypotheses are scaled where a calibration says so.
        variables: The averaged variables, replicated over the devices.
        step: The step that they are of.
        calibration: What `calibrate` found for them, None if they were not calibrated.
        keypoints: What the keypoints are like that it was trained on, None where no record of it was kept.
    """

    config: ConfigDict
    lifter: Lifter
    variables: Variables
    step: int
    calibration: Calibration | None = None
    keypoints: KeypointRecord | None = None

    @property
    def temperature(self) -> float | None:
        """The temperature of the noise that calibration found, None if it was not calibrated."""
        return None if self.calibration is None else self.calibration.temperature


def load_trained(workdir: str | os.PathLike, *, calibrated: bool = True) -> Trained:
    """Loads the variables of a work directory that have the lowest error on its valid split, or those of a release.

    With its calibration, where there is one, unless `calibrated` is False; `pretrained:NAME` is a release that comes
    with the package (`workdir.releases`). Raises UserError where there is no config or no checkpoint, or none can be
    read, or the calibration cannot.
    """
    path = locate(workdir)
    config = read_config(path)
    lifter = build_lifter(config)
    template = _variables_template(lifter)  # type: ignore[arg-type]  # no __hash__
    step, variables = read_release(path, template) if is_release(path) else _read_best(path, template, config)
    calibration = read_calibration(path, step, lifter.skeleton.num_joints) if calibrated else None
    if calibration is not None and calibration.diffusion:
        # Chosen reverse steps change the plan, which is a field of the lifter: it is built anew before scales wrap it.
        config = copy_config(config, diffusion=calibration.diffusion)
        lifter = build_lifter(config)
    lifter = lifter if calibration is None else with_scales(lifter, calibration.scales)
    return Trained(config, lifter, replicate(variables), step, calibration, load_record(path))


def _read_best(path: Path, template: Any, config: ConfigDict) -> tuple[int, Variables]:
    """The step and the variables of the best checkpoint of a work directory."""
    best = path / "best"
    if not any(best.glob("[0-9]*")):
        raise UserError(f"{path}: expected a checkpoint in {best}, found none; train first")
    checkpoints = Checkpoints(best, keep=1, config=config, alone=True)
    try:
        restored = checkpoints.restore_newest(template, set_aside=False)
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(f"{path}: expected a complete checkpoint in {best}, found none; train first")
    step, variables, _ = restored
    return step, variables


# Tracing a network takes about a second: equal lifters, of evaluation and prediction say, are traced once.
@lru_cache(maxsize=8)
def _variables_template(lifter: Lifter) -> Any:
    return template_of(lambda: lifter.init(jax.random.key(0), example_batch(lifter)))


def resolve_context(config: ConfigDict, workdir: str | os.PathLike) -> tuple[ConfigDict, Variables]:
    """Fills in the `context` section of a config from the work directory that `lifter.context` names.

    Args:
        config: The config of a run.
        workdir: The run's work directory. If something was trained in it, its config has the section already and its
            checkpoints have the variables; the context's own directory is not read then.

    Returns:
        The config with the section, and the variables of the context to be frozen: `{}` where no context is named, or
        where the run has them. Of a cross-fitted context the section has `folds`, the subjects of each, and the
        variables are those of `lifters.cross_fitted.CrossFitted`.

    Raises:
        UserError: The context cannot be loaded, or works on another layout.
    """
    source = config.lifter.get("context", "")
    if not source:
        return config, {}
    if is_trained(Path(workdir)) and (Path(workdir) / "config.json").is_file():
        return _set_context(config, read_config(workdir).context), {}
    trained = load_trained(source, calibrated=False)
    for key in ("layout", "view"):
        ours, theirs = config.data[key], trained.config.data[key]
        if ours != theirs:
            raise UserError(f"config.lifter.context: expected a lifter of {key} {ours}, found {theirs} in {source}")
    if folds := read_folds(locate(source)):
        versions = [load_trained(fold_directory(source, fold)).variables for fold in range(len(folds))]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *versions)
        section = ConfigDict({**trained.config.lifter.to_dict(), "folds": folds})
        return _set_context(config, section), {"full": trained.variables, "folds": stacked}
    return _set_context(config, trained.config.lifter), trained.variables


def _set_context(config: ConfigDict, section: ConfigDict) -> ConfigDict:
    config = copy_config(config)
    config.context = ConfigDict(section.to_dict())
    return config
