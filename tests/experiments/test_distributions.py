"""The tables about distributions: means over seeds, differences frame by frame, coverage with its interval."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SUBJECTS = ["a", "a", "b", "b", "c", "c"]


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as it is for a program
    return importlib.import_module("distributions_report")


def row(report: Any, name: str, energy: list[float], covered: float) -> dict[str, Any]:
    scores = dict.fromkeys(report._COLUMNS, 1.0) | {"energy_score": float(np.mean(energy))}
    levels = {"0.5": covered, "0.9": 0.9}
    intervals = {"0.5": [covered - 0.1, covered + 0.1], "0.9": None}
    return {
        "name": name,
        "scores": scores,
        "scores_interval": {"energy_score": [1.0, 9.0], "mpjpe": [0.0, 2.0]},
        "coverage": dict.fromkeys(("visible", "occluded", "confused"), levels),
        "coverage_interval": dict.fromkeys(("visible", "occluded", "confused"), intervals),
        "energy": energy,
        "subjects": SUBJECTS,
    }


@pytest.fixture
def lines(report, tmp_path) -> list[str]:
    for seed, shift in enumerate((0.0, 2.0)):
        (tmp_path / f"method-{seed}").mkdir()
        rows = [
            row(report, "method", [3.0 + shift] * 6, 0.4 + 0.1 * seed),
            row(report, "method: Gaussian of that mean, joints together", [5.0] * 6, 0.5),
        ]
        (tmp_path / f"method-{seed}" / "distributions.json").write_text(json.dumps(rows))
    return report.format_tables(tmp_path, "method: Gaussian of that mean, joints together").splitlines()


def test_scores_are_means_and_deviations_over_seeds_with_the_interval_of_the_energy_score(lines):
    assert lines[2].startswith("| method | 1.0 ± 0.0 | 4.0 ± 1.4 [1, 9] |")
    assert lines[2].endswith("| 45 / 90 | 45 / 90 | 45 / 90 |")


def test_differences_are_of_frames_and_of_every_seed(lines):
    place = next(place for place, line in enumerate(lines) if line.startswith("| energy score, mm, minus that of"))
    assert lines[place + 2] == "| method | -2.0 [-2.0, -2.0]; 0.0 | -2.0 [-2.0, -2.0]; 0.0 |"


def test_coverage_of_hypotheses_has_its_interval_where_there_is_one(lines):
    place = next(place for place, line in enumerate(lines) if line.startswith("| 50 / 90 % regions hold"))
    assert lines[place + 2] == "| method | 40 [30, 50] / 90 | 40 [30, 50] / 90 | 40 [30, 50] / 90 |"
    assert len(lines) == place + 3  # Gaussians have none
