"""What `train --cross_fit` adds to a work directory: one below it for each fold, and which subjects those are."""

from __future__ import annotations

import os
from pathlib import Path

from diffpose_jax.errors import UserError
from diffpose_jax.records import read_record, write_record

FOLDS = "folds.json"

Folds = list[list[str]]


def fold_directory(workdir: str | os.PathLike, fold: int) -> Path:
    """The work directory of the run without the subjects of a fold."""
    return Path(workdir) / "folds" / str(fold)


def save_folds(workdir: str | os.PathLike, folds: Folds) -> None:
    """Writes down the subjects of every fold, once all of them are trained."""
    write_record(Path(workdir) / FOLDS, "folds", {"folds": folds}, indent=None)


def read_folds(workdir: str | os.PathLike) -> Folds:
    """The subjects of every fold, empty where a work directory has none. Raises UserError on a damaged file."""
    path = Path(workdir) / FOLDS
    if not path.exists():
        return []
    try:
        folds = read_record(path, "folds")["folds"]
    except (UserError, KeyError) as error:
        what = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: expected a file written by train --cross_fit, found {what}; remove it") from error
    check_folds(folds, str(path))
    return folds


def check_folds(folds: object, where: str) -> None:
    """Raises UserError unless these are two lists of subjects or more, each subject once."""
    ok = isinstance(folds, list) and len(folds) > 1 and all(isinstance(group, list) and group for group in folds)
    names = [name for group in folds for name in group] if ok and isinstance(folds, list) else []
    if not ok or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UserError(f"{where}: expected the subjects of two folds or more, each once, found {folds!r}")
