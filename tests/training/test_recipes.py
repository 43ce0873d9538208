"""What recipes ask of a run: its length in epochs, no valid split, more steps, other weights to start from."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import OptionError, copy_config
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.errors import UserError
from diffpose_jax.registry import config_for
from diffpose_jax.sections import TrainingOptions
from diffpose_jax.training.loop import train
from diffpose_jax.workdir.trained import load_trained

program = import_module("diffpose_jax.train")


def make_config(archive: str) -> ConfigDict:
    config = config_for("residual_mlp")
    config.data.source = archive
    config.lifter.update(width=8, num_layers=1, norm="layer")
    config.training.update(steps=20, batch_size=16, inner_steps=5, learning_rate=1e-3, log_every=10, ema_decay=0.0)
    config.training.update(validate_every=10, checkpoint_every=10, valid_frames=16)
    return config


@pytest.fixture
def mlp_config(archive: str) -> ConfigDict:
    """A residual MLP of width 8 whose every step compiles in a moment; 20 training steps, no average."""
    return make_config(archive)


@pytest.fixture(scope="module")
def short_run(archive: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of its 20 steps: a test that changes it takes a copy."""
    workdir = tmp_path_factory.mktemp("runs") / "short"
    with jax.numpy_dtype_promotion("standard"):
        train(make_config(archive), workdir)
    return workdir


@pytest.fixture
def archive_without_valid(archive: str, tmp_path: Path) -> str:
    save_archive(tmp_path / "all.npz", load_archive(archive, ["train", "test"]))
    return str(tmp_path / "all.npz")


def assert_same(one: object, other: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


# --- epochs


def test_epochs_are_steps_of_the_windows_there_are():
    training = TrainingOptions(
        steps=0, epochs=3, batch_size=10, inner_steps=4, decay_every=0, decay_epochs=2, validate_every=0,
        validate_epochs=2, checkpoint_every=0, log_every=4,
    )  # fmt: skip
    counted = training.count_epochs(windows=390)  # 39 batches, which is about 10 dispatches of 4
    assert (counted.steps, counted.decay_every) == (120, 80)
    assert (counted.validate_every, counted.checkpoint_every) == (80, 80)


def test_steps_that_are_given_stay_whatever_the_epochs():
    training = TrainingOptions(steps=200, epochs=3, inner_steps=20)
    assert training.count_epochs(windows=10**6) == training


def test_a_run_has_steps_or_epochs():
    with pytest.raises(OptionError, match=r"steps: expected at least 1 with training\.epochs=0, found 0"):
        TrainingOptions(steps=0)


@pytest.mark.slow
def test_a_run_of_epochs_takes_all_windows_as_often(mlp_config, tmp_path):
    mlp_config.training.update(steps=0, epochs=2, batch_size=8, validate_every=0, checkpoint_every=0)
    summary = train(mlp_config, tmp_path)  # 90 windows: 11 batches, about two dispatches of 5
    assert summary.step == 20
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "valid_mpjpe_mm" in line] == [10, 20]
    assert load_trained(tmp_path).config.training.epochs == 2


# --- no valid split


def test_without_a_valid_split_the_last_weights_are_kept(mlp_config, archive_without_valid, tmp_path):
    mlp_config.data.source = archive_without_valid
    summary = train(mlp_config, tmp_path / "run")
    kept = load_trained(tmp_path / "run")
    assert (kept.step, summary.best_step) == (20, 20)
    assert_same(kept.variables["params"], summary.state.params)
    assert "nothing was selected" in program._best(summary)
    assert "valid_mpjpe_mm" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_plateau_needs_a_valid_split(mlp_config, archive_without_valid, tmp_path):
    mlp_config.data.source = archive_without_valid
    mlp_config.training.decay = "plateau"
    with pytest.raises(UserError, match=r"'plateau' judges the valid split, and .*all\.npz has none"):
        train(mlp_config, tmp_path)


def test_a_plateau_of_the_loss_needs_a_method_that_measures_it(mlp_config, tmp_path):
    mlp_config.training.update(decay="plateau", plateau_error="loss")
    with pytest.raises(UserError, match="plateau_error: expected 'mpjpe' for a method whose loss"):
        train(mlp_config, tmp_path)


# --- a longer run


def test_a_run_that_is_made_longer_is_the_one_that_was_asked_for_more_steps(mlp_config, short_run, tmp_path):
    longer = copy_config(mlp_config, training={"steps": 40})
    whole = train(longer, tmp_path / "whole")
    continued = train(longer, shutil.copytree(short_run, tmp_path / "parts"))
    assert continued.step == 40
    assert_same(continued.state, whole.state)


# --- the weights of another run


def test_a_run_starts_from_the_best_weights_of_another(mlp_config, short_run, tmp_path):
    first = shutil.copytree(short_run, tmp_path / "first")
    # At a rate of next to nothing the weights stay where the run starts.
    second = copy_config(mlp_config, training={"init_from": str(first), "learning_rate": 1e-12})
    summary = train(second, tmp_path / "second")
    best = load_trained(first).variables["params"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-9), summary.state.params, best)
    # Continued, it has them in its own checkpoint.
    first.rename(tmp_path / "elsewhere")
    assert train(second, tmp_path / "second").step == 20


def test_weights_of_another_network_are_refused_with_the_first_that_differs(mlp_config, short_run, tmp_path):
    wider = copy_config(mlp_config, training={"init_from": str(short_run)}, lifter={"width": 16})
    with pytest.raises(UserError) as refused:
        train(wider, tmp_path / "second")
    assert str(refused.value) == (
        f"config.training.init_from: {short_run}: expected params/block_0_unit_1/linear/bias of shape (16,), found (8,)"
    )
