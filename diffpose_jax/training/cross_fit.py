"""Training a lifter that will serve as a context: once on everybody, and once without each fold of the subjects."""

from __future__ import annotations

import os
from collections.abc import Collection

import jax
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.cross_fitted import split_folds
from diffpose_jax.progress import timed_printer
from diffpose_jax.registry import complete_config, get_method, load_source
from diffpose_jax.training.loop import Summary, train
from diffpose_jax.workdir.folds import Folds, fold_directory, read_folds, save_folds


def cross_fit(config: ConfigDict, workdir: str | os.PathLike, folds: int) -> Summary:
    """Trains a lifter, then `folds` versions of it in `WORKDIR/folds`, each without a fold of the training subjects.

    A method whose `lifter.context` names this work directory is then trained on estimates of every training frame by
    the version that has not seen its subject. The same call continues after a signal.

    Args:
        config: A config, as `train` takes it.
        workdir: The work directory.
        folds: The number of folds, from 2 to the number of training subjects.

    Returns:
        How the run on everybody ended; stopped where a signal stopped one of them.

    Raises:
        UserError: As `train` does, or for a method that is no context, too many folds, or other folds than before.
    """
    config = complete_config(config) if set(config.lifter) == {"name"} else config
    if not hasattr(get_method(config.lifter.name), "features"):
        raise UserError(f"--cross_fit: expected a lifter that can serve as a context, found {config.lifter.name}")
    if config.training.init_from:
        raise UserError("--cross_fit: expected no --init_from: those weights have seen the subjects of every fold")
    groups = _choose_folds(config, workdir, folds)
    summary, say = train(config, workdir), timed_printer()
    for fold, subjects in enumerate(groups):
        if summary.stopped:
            return summary
        say(f"fold {fold + 1} of {folds}: without {', '.join(subjects)}")
        left_out = ",".join([*_names(config.data.leave_out), *subjects])
        part = train(copy_config(config, data={"leave_out": left_out}), fold_directory(workdir, fold))
        summary = summary._replace(stopped=part.stopped)
    if not summary.stopped and jax.process_index() == 0:
        save_folds(workdir, groups)
    return summary


def _choose_folds(config: ConfigDict, workdir: str | os.PathLike, folds: int) -> Folds:
    before = read_folds(workdir)
    if before and len(before) != folds:
        raise UserError(f"--cross_fit: {workdir} was made with {len(before)} folds, found {folds}")
    clips = load_source(config.data, ["train"])["train"]
    kept = [index for index, name in enumerate(clips.subject) if name not in _names(config.data.leave_out)]
    clips = clips.select(kept)
    count = len(set(clips.subject))
    if not 2 <= folds <= count:
        raise UserError(f"--cross_fit: expected 2 to {count}, the number of training subjects, found {folds}")
    return split_folds(clips, folds)


def _names(text: str) -> Collection[str]:
    return [name for name in text.split(",") if name]
