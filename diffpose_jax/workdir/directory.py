"""The work directory of a run: making it, its config, and whether something was trained in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from diffpose_jax.config import first_difference, load_config
from diffpose_jax.errors import UserError
from diffpose_jax.registry import complete_config, validate

# The keys of a run's length.
LENGTH = ("training.steps", "training.epochs")
# What is changed where training diverged: a run may go on with other values, and says so.
CURES = ("training.learning_rate", "training.clip_norm")


def writable_directory(path: str | os.PathLike) -> Path:
    """Makes a directory for results where there is none. Raises UserError where it cannot be made or written."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: expected a directory that can be written, found {error.strerror}") from error
    return path


def open_workdir(workdir: str | os.PathLike, config: ConfigDict) -> Path:
    """Makes a work directory, or checks that the checkpoints in an existing one belong to a config.

    Args:
        workdir: The directory.
        config: The config, complete and valid.

    A run may be made longer, except where its learning rate is a function of its length, and it may go on with another
    learning rate or clipping.

    Raises:
        UserError: It cannot be written, its config is missing or unknown here, or differs in more than
            `config.FREE_TO_CHANGE` and its length.
    """
    path = writable_directory(workdir)
    if not is_trained(path):
        return path
    stored = path / "config.json"
    if not stored.exists():
        raise UserError(f"--workdir {path}: expected config.json beside its checkpoints, found none")
    before = read_config(path)
    falls_to_zero = config.training.decay == "cosine"
    name = first_difference(config, before, CURES if falls_to_zero else (*LENGTH, *CURES))
    if name is not None:
        ours, theirs = (_lookup(one, name) for one in (config, before))
        if name in LENGTH:
            raise UserError(
                f"{stored}: this workdir was made with {name}={theirs!r}, at whose end decay='cosine' brings the "
                f"learning rate to zero, so the run cannot go on to {ours!r}; start another --workdir from its weights "
                f"with --init_from={path}"
            )
        raise UserError(
            f"{stored}: this workdir was made with {name}={theirs!r}, the config now says {ours!r}; "
            "use another --workdir"
        )
    for cure in CURES:
        ours, theirs = (_lookup(one, cure) for one in (config, before))
        if ours != theirs:
            logging.warning("%s goes on with %s=%r, before it was %r", path, cure, ours, theirs)
    return path


def is_trained(path: Path) -> bool:
    """Whether a work directory holds a checkpoint."""
    return any(any((path / name).glob("[0-9]*")) for name in ("checkpoints", "best"))


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """The config of a work directory, also of one that version 0.1 made.

    Options that did not exist when it was written have their defaults. Raises UserError where it is missing, damaged or
    has a key or value that is not known here.
    """
    path = Path(workdir) / "config.json"
    stored = load_config(path)
    try:
        config = complete_config(stored)
        validate(config)
    except UserError as error:
        raise UserError(f"{path}: {error}; train again, or edit that key") from error
    return config


def _lookup(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config
