"""`train --cross_fit`: a version without each fold of the subjects, and methods that are trained on what those say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.errors import UserError
from diffpose_jax.registry import config_for
from diffpose_jax.training.cross_fit import cross_fit
from diffpose_jax.training.loop import train
from diffpose_jax.training.preparation import load_splits
from diffpose_jax.workdir.folds import check_folds, read_folds
from diffpose_jax.workdir.trained import load_trained, resolve_context

TRAINING = {
    "steps": 10, "batch_size": 16, "inner_steps": 5, "learning_rate": 1e-3, "log_every": 10, "ema_decay": 0.0,
    "validate_every": 10, "checkpoint_every": 10, "valid_frames": 16,
}  # fmt: skip


def context_config(archive: str) -> ConfigDict:
    config = config_for("residual_mlp")
    config.data.source = archive
    config.lifter.update(width=8, num_layers=1, norm="layer")
    config.training.update(TRAINING)
    return config


def method_config(archive: str, context: Path) -> ConfigDict:
    """DiffHPE-Wrapper of that context's pose, for windows of one frame."""
    config = config_for("diffhpe")
    config.data.source = archive
    config.lifter.update(frames=1, width=4, num_layers=1, step_width=4, non_local=False, context=str(context))
    config.training.update(TRAINING)
    return config


@pytest.fixture(scope="module")
def cross_fitted(archive: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual MLP and two versions of it, each without some of the three training subjects S0, S1, S2."""
    workdir = tmp_path_factory.mktemp("runs") / "context"
    with jax.numpy_dtype_promotion("standard"):
        summary = cross_fit(context_config(archive), workdir, 2)
    assert not summary.stopped
    return workdir


@pytest.mark.slow
def test_every_version_is_trained_without_its_fold(cross_fitted):
    assert read_folds(cross_fitted) == [["S0", "S2"], ["S1"]]
    runs = [load_trained(path) for path in (cross_fitted, cross_fitted / "folds" / "0", cross_fitted / "folds" / "1")]
    assert [run.config.data.leave_out for run in runs] == ["", "S0,S2", "S1"]
    kernels = [np.asarray(run.variables["params"]["output"]["kernel"]) for run in runs]
    assert all(np.abs(kernels[one] - kernels[other]).max() > 1e-4 for one, other in ((0, 1), (0, 2), (1, 2)))


def test_a_run_has_the_windows_of_whom_it_does_not_leave_out(archive):
    config = copy_config(context_config(archive), data={"leave_out": "S0,S2"})
    assert set(load_splits(config)["train"].subject) == {"S1"}
    assert load_splits(config)["valid"].num_frames == 20


@pytest.mark.slow
def test_a_method_has_all_versions_and_is_continued_without_them(cross_fitted, archive, tmp_path):
    config, variables = resolve_context(method_config(archive, cross_fitted), tmp_path / "run")
    assert config.context.folds == [["S0", "S2"], ["S1"]]
    for fold in range(2):
        version = load_trained(cross_fitted / "folds" / str(fold)).variables
        own = jax.tree.map(lambda leaf, k=fold: leaf[k], variables["folds"])
        jax.tree.map(np.testing.assert_array_equal, own, version)
    run = method_config(archive, shutil.copytree(cross_fitted, tmp_path / "context"))
    summary = train(run, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, summary.state.frozen, variables)
    shutil.rmtree(tmp_path / "context")
    assert load_trained(tmp_path / "run").lifter.context.folds == 2
    assert train(copy_config(run, training={"steps": 20}), tmp_path / "run").step == 20


@pytest.mark.slow
def test_the_same_call_continues_and_another_number_of_folds_is_refused(cross_fitted, archive):
    assert cross_fit(context_config(archive), cross_fitted, 2).step == 10
    with pytest.raises(UserError, match="was made with 2 folds, found 3"):
        cross_fit(context_config(archive), cross_fitted, 3)


def test_what_cannot_be_cross_fitted_is_one_line(archive, tmp_path):
    with pytest.raises(UserError, match="expected 2 to 3, the number of training subjects, found 4"):
        cross_fit(context_config(archive), tmp_path, 4)
    with pytest.raises(UserError, match="expected a lifter that can serve as a context, found diffupose"):
        cross_fit(config_for("diffupose"), tmp_path, 2)
    started = copy_config(context_config(archive), training={"init_from": "somewhere"})
    with pytest.raises(UserError, match="--cross_fit: expected no --init_from"):
        cross_fit(started, tmp_path, 2)
    stranger = copy_config(context_config(archive), data={"leave_out": "S7"})
    with pytest.raises(UserError, match=r"config\.data\.leave_out: expected subjects of S0, S1, S2, found S7"):
        train(stranger, tmp_path)


@pytest.mark.parametrize("folds", [3, [], [["a"]], [["a"], []], [["a"], ["a"]], [["a"], [1]]])
def test_folds_that_make_no_sense_are_refused(tmp_path, folds):
    (tmp_path / "folds.json").write_text(json.dumps({"folds": folds}))
    with pytest.raises(UserError, match=r"folds\.json: expected the subjects of two folds or more, each once"):
        read_folds(tmp_path)
    with pytest.raises(UserError, match="here: expected"):
        check_folds(folds, "here")


@pytest.mark.slow
def test_without_a_valid_split_errors_are_those_on_subjects_that_no_version_has_seen(cross_fitted, archive, tmp_path):
    source = tmp_path / "all.npz"
    save_archive(source, load_archive(archive, ["train", "test"]))
    config = config_for("diffpose")
    config.data.source = str(source)
    config.lifter.update(width=8, num_layers=1, num_heads=1, feature_width=4, context=str(cross_fitted))
    config.training.update(TRAINING)
    spread = np.asarray(train(config, tmp_path / "run").state.frozen["spread"])
    clips, errors = load_archive(archive, ["train"])["train"], []
    for subject, fold in (("S0", 0), ("S1", 1), ("S2", 0)):
        version = load_trained(cross_fitted / "folds" / str(fold))
        own = clips.select(i for i, name in enumerate(clips.subject) if name == subject)
        poses = version.lifter.network.apply(version.variables, jnp.asarray(own.keypoints)[:, None], train=False)[:, 0]
        errors.append(np.asarray(poses - poses[:, :1]) - own.poses)
    square = np.mean(np.concatenate(errors) ** 2, axis=0)
    sides = np.array(version.lifter.skeleton.flip_order)
    np.testing.assert_allclose(spread[1:], np.sqrt((square + square[sides]) / 2)[1:], rtol=0.05)
