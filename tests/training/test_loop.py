"""A run continues bit for bit where it stopped, however it stopped, and never loses what it saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import save_config
from diffpose_jax.errors import UserError
from diffpose_jax.training import loop
from diffpose_jax.training.loop import train
from diffpose_jax.workdir.trained import load_trained


def _assert_same(one, other):
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_a_run_leaves_a_work_directory_that_evaluation_needs_nothing_else_for(tiny_config, trained):
    summary, workdir = trained
    assert summary.step == 40
    assert not summary.stopped
    loaded = load_trained(workdir)
    assert loaded.step == summary.best_step
    assert loaded.config.to_dict() == tiny_config.to_dict()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30, 40]
    assert all(line["time"] > 1e9 and line["learning_rate"] > 0 for line in lines if "loss" in line)
    assert min(line["valid_mpjpe_mm"] for line in lines if "valid_mpjpe_mm" in line) == summary.best_mpjpe
    validated = [line for line in lines if "valid_mpjpe_mm" in line]
    assert all(line["valid_mpjpe_mm"] > line["valid_n_mpjpe_mm"] > line["valid_p_mpjpe_mm"] > 0 for line in validated)
    (events,) = (workdir / "tensorboard").iterdir()
    written = events.read_bytes()
    assert b"valid_p_mpjpe_mm" in written
    assert b"valid_poses" in written
    assert b"PNG" in written


def test_stopping_and_continuing_changes_nothing(tiny_config, trained, tmp_path, monkeypatch):
    continued = _train_in_parts(tiny_config, tmp_path, monkeypatch)
    _assert_same(continued.state, trained.summary.state)


@pytest.mark.repeats
def test_stopping_and_continuing_changes_nothing_while_the_error_is_on_a_plateau(tiny_config, tmp_path, monkeypatch):
    # With no patience and an improvement nobody reaches, the second validation lowers the rate for the next steps.
    tiny_config.training.update(decay="plateau", plateau_patience=0, plateau_threshold=0.9, validate_every=10)
    whole = train(tiny_config, tmp_path / "whole")
    continued = _train_in_parts(tiny_config, tmp_path / "parts", monkeypatch)
    _assert_same(continued.state, whole.state)
    assert float(np.asarray(whole.state.plateau.scale)) == 0.5**3


def _train_in_parts(config: ConfigDict, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> loop.Summary:
    """Trains to the end in two runs, the first one ended by a signal in its third dispatch."""
    add = loop.MetricAverages.add
    calls = []

    def add_then_terminate(self, metrics):
        add(self, metrics)
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop.MetricAverages, "add", add_then_terminate)
        stopped = train(config, workdir)
    assert stopped.stopped
    assert stopped.step == 15
    continued = train(config, workdir)
    losses = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if "loss" in line] == [10, 20, 30, 40]
    return continued


def test_a_truncated_newest_checkpoint_gives_way_to_the_one_before(tiny_config, trained, tmp_path, caplog):
    workdir = trained.copy_to(tmp_path / "run")
    for file in (workdir / "checkpoints" / "40").rglob("*"):
        if file.is_file() and "d" in file.parts:
            os.truncate(file, file.stat().st_size // 2)
    with caplog.at_level("WARNING"):
        again = train(tiny_config, workdir)
    assert "checkpoints/40 cannot be used" in caplog.text
    assert (workdir / "damaged" / "checkpoints-40").is_dir()
    _assert_same(again.state, trained.summary.state)


def test_a_run_whose_checkpoints_are_all_damaged_stops_and_keeps_them(tiny_config, trained, tmp_path):
    workdir = trained.copy_to(tmp_path / "run")
    for file in (workdir / "checkpoints").rglob("manifest.ocdbt"):
        file.unlink()
    with pytest.raises(UserError, match="none of the checkpoints"):
        train(tiny_config, workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["20", "40"]


def test_a_work_directory_belongs_to_one_config(tiny_config, trained):
    tiny_config.lifter.width = 64
    with pytest.raises(UserError, match=r"lifter.width=32, the config now says 64"):
        train(tiny_config, trained.workdir)


def test_a_work_directory_in_which_nothing_was_trained_takes_any_config(tiny_config, tmp_path):
    source = tiny_config.data.source
    tiny_config.data.source = str(tmp_path / "mistyped.npz")
    with pytest.raises(UserError, match="mistyped"):
        train(tiny_config, tmp_path / "run")
    tiny_config.data.source = source
    assert train(tiny_config, tmp_path / "run").step == 40


def test_a_work_directory_that_cannot_be_written_is_refused(tiny_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a directory that can be written"):
        train(tiny_config, tmp_path / "file" / "run")


def test_a_loss_that_is_no_number_ends_the_run_with_a_hint(tiny_config, tmp_path):
    tiny_config.training.learning_rate = 1e30
    with pytest.raises(UserError, match="the last checkpoint is kept"):
        train(tiny_config, tmp_path)


_RUN = """
import sys
from ml_collections import ConfigDict
from diffpose_jax.config import load_config
from diffpose_jax.training.loop import train
train(load_config(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_ends_with_identical_parameters(tiny_config, tmp_path):
    tiny_config.training.update(steps=200, checkpoint_every=200, validate_every=100)
    whole = train(tiny_config, tmp_path / "whole")
    # Most of the time it is writing a checkpoint.
    tiny_config.training.checkpoint_every = 20
    config, killed = tmp_path / "config.json", tmp_path / "killed"
    save_config(tiny_config, config)
    command = [sys.executable, "-c", _RUN, str(config), str(killed)]
    pause = np.random.default_rng().uniform(0, 1.5)
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _wait_for(lambda: list((killed / "checkpoints").glob("[0-9]*")), run)
    time.sleep(pause)
    run.send_signal(signal.SIGKILL)
    run.wait()
    continued = train(tiny_config, killed)
    assert continued.step == 200
    _assert_same(continued.state, whole.state)


_CONFIG = """
from diffpose_jax.config import load_config
def get_config():
    return load_config({path!r})
"""


@pytest.mark.slow
def test_three_interrupts_end_a_run_as_one_does(tiny_config, tmp_path):
    tiny_config.training.update(steps=100_000, checkpoint_every=20, validate_every=100)
    config, folder = tmp_path / "config.py", tmp_path / "run"
    save_config(tiny_config, tmp_path / "config.json")
    config.write_text(_CONFIG.format(path=str(tmp_path / "config.json")))
    command = [sys.executable, "-m", "diffpose_jax.train", "--config", str(config), "--workdir", str(folder)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list((folder / "checkpoints").glob("[0-9]*")), run)
    for pause in (0.0, 0.5, 0.0):
        run.send_signal(signal.SIGINT)
        time.sleep(pause)
    _, error = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Traceback" not in error
    assert "Fatal" not in error
    # What was being saved is whole.
    newest = max(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
    tiny_config.training.steps = newest
    assert train(tiny_config, folder).step == newest


def _wait_for(condition, run: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "no checkpoint appeared"
        time.sleep(0.02)
    assert Path(run.args[-1]).is_dir()
