"""A work directory: whether it may be written, whose config it is, and whether something was trained in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffpose_jax.config import first_difference, load_config
from diffpose_jax.errors import UserError
from diffpose_jax.registry import complete_config, validate


def writable_directory(path: str | os.PathLike) -> Path:
    """Makes sure that a directory for results exists and can be written. Raises UserError where it cannot."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: expected a directory that can be written, found {error.strerror}") from error
    return path


def open_workdir(workdir: str | os.PathLike, config: ConfigDict) -> Path:
    """Creates a work directory, or checks that the checkpoints in an existing one belong to this config.

    Raises UserError where it cannot be written, or where its config differs in more than how a run is watched.
    """
    path = writable_directory(workdir)
    if not is_trained(path):
        return path
    stored = path / "config.json"
    if not stored.exists():
        raise UserError(f"--workdir {path}: expected config.json beside its checkpoints, found none")
    before = read_config(path)
    name = first_difference(config, before)
    if name is not None:
        ours, theirs = (_lookup(one, name) for one in (config, before))
        raise UserError(
            f"{stored}: this workdir was made with {name}={theirs!r}, the config now says {ours!r}; "
            "use another --workdir"
        )
    return path


def is_trained(path: Path) -> bool:
    return any(any((path / name).glob("[0-9]*")) for name in ("checkpoints", "best"))


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """The config of a work directory; options that are younger than it have their defaults.

    Raises UserError where it is missing, damaged, or says what is not known here.
    """
    path = Path(workdir) / "config.json"
    config = complete_config(load_config(path))
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"{path}: {error}; train again, or edit that key") from error
    return config


def _lookup(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config
