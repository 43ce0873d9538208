"""The method of docs/add_a_method.md, outside the package: it trains, resumes, evaluates, calibrates and predicts."""

from __future__ import annotations

import importlib
import json
import os
import signal

import jax
import numpy as np
import pytest
from absl import flags

from diffpose_jax import cli
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.training import logging

from .pages import ROOT, blocks_of

pytestmark = pytest.mark.slow
STEPS = 80


def run(name: str, *arguments: str) -> int:
    """The exit code of a program."""
    values, program = flags.FlagValues(), importlib.import_module(f"diffpose_jax.{name}")
    program.define_flags(values)
    with pytest.raises(SystemExit) as ended, jax.numpy_dtype_promotion("standard"):
        cli.run(lambda argv: program.main(argv, values), [name, *arguments], values)
    return ended.value.code


@pytest.fixture
def method(working_directory):
    """The page's files and a small archive in the working directory."""
    for block in blocks_of(ROOT / "docs" / "add_a_method.md"):
        if block.file:
            (working_directory / block.file).write_text(block.code)
    clips = {split: part.select(range(4)) for split, part in load_synthetic(seed=0).items()}
    save_archive(working_directory / "data.npz", clips)
    return working_directory


def training(workdir: str) -> tuple[str, ...]:
    sizes = {"steps": STEPS, "batch_size": 16, "log_every": 20, "validate_every": 40, "checkpoint_every": 40}
    sizes |= {"valid_frames": 32, "warmup_steps": 0}
    flags_given = [f"--config.training.{name}={value}" for name, value in sizes.items()]
    return ("--config=mlp_config.py", f"--workdir={workdir}", "--config.data.source=data.npz", *flags_given)


def test_a_method_outside_the_package_is_used_like_the_others(method, monkeypatch, capsys):
    write = logging.MetricsLog.write

    def write_and_stop(log, step, *arguments, **options):
        if step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(log, step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(logging.MetricsLog, "write", write_and_stop)
        assert run("train", *training("runs/mlp")) == 143
    assert f"stopped at step {STEPS // 2}" in capsys.readouterr().out
    assert run("train", *training("runs/mlp")) == 0
    assert f"trained {STEPS} steps" in capsys.readouterr().out

    config = json.loads((method / "runs/mlp/config.json").read_text())
    assert config["lifter"] == {"name": "mlp_diffusion.MLPDiffusion", "width": 256, "num_layers": 2}

    assert run("evaluate", "--workdir=runs/mlp", "--stride=50", "--hypotheses=2", "--nofigure") == 0
    rows = json.loads((method / "runs/mlp/results.json").read_text())["rows"]
    assert np.isfinite(rows[0]["frame_average"]["mpjpe"])

    assert run("calibrate", "--workdir=runs/mlp", "--frames=32", "--hypotheses=4") in (0, 2)  # it has learned little

    keypoints = str(ROOT / "experiments" / "data" / "wave.json")
    assert run("predict", "--workdir=runs/mlp", f"--input={keypoints}", "--output=out", "--hypotheses=2") == 0
    with np.load(method / "out" / "predictions.npz") as found:
        assert found["hypotheses"].shape[1:] == (2, 17, 3)


def test_its_options_are_checked_like_those_of_the_package(method, capsys):
    assert run("train", *training("runs/mlp"), "--config.lifter.num_layers=0") == 2
    assert "config.lifter.num_layers: expected at least 1, found 0" in capsys.readouterr().err


def test_an_import_path_that_leads_nowhere_is_one_line(method, capsys):
    assert run("train", *training("runs/mlp"), "--config.lifter.name=mlp_diffusion.Nothing") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "import path of a method" in error
