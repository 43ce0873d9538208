"""Trainings of studies are whole ones, of the steps that their processor time buys."""

from __future__ import annotations

import importlib
import signal
from pathlib import Path

import pytest

from diffpose_jax.registry import config_for
from diffpose_jax.training.loop import Summary

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def budget(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("budget")


def test_a_training_that_a_signal_stops_ends_the_study(budget, monkeypatch, tmp_path, capsys):
    ended = Summary(40, 40, 200.0, True, None, signal.SIGTERM)
    monkeypatch.setattr(budget, "train", lambda config, workdir: ended)
    with pytest.raises(SystemExit) as stopped:
        budget.train_whole(config_for("residual_mlp"), tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: stopped at step 40; the same command goes on from there"
    ]


def test_processor_time_buys_as_many_steps_as_the_kept_cost_says(budget, monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(budget, "train_whole", lambda config, workdir: taken.append(config.training.steps))
    (tmp_path / "cost").write_text("0.25")
    assert budget.train_for(75, config_for("residual_mlp"), tmp_path, tmp_path / "cost") == 300
    assert taken == [300]
