"""The tables about distributions: means over seeds, differences frame by frame, coverage with its interval."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
KINDS = ("visible", "occluded", "confused")
SUBJECTS = ["a", "a", "b", "b", "c", "c"]
GAUSSIAN = "method: Gaussian of that mean, joints together"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as it is for a program
    return importlib.import_module("distributions_report")


def row(report: Any, name: str, energy: list[float], seed: int) -> dict[str, Any]:
    """A row of which every figure of every kind and seed is another."""
    shares = {kind: {"0.5": 0.4 + 0.1 * seed + 0.01 * index, "0.9": 0.9} for index, kind in enumerate(KINDS)}
    ends = {kind: {"0.5": [share["0.5"] - 0.1, share["0.5"] + 0.1], "0.9": None} for kind, share in shares.items()}
    return {
        "name": name,
        "scores": dict.fromkeys(report._COLUMNS, 1.0) | {"energy_score": float(np.mean(energy))},
        "scores_interval": {"energy_score": [1.0 + seed, 9.0 + seed], "mpjpe": [0.0, 2.0]},
        "coverage": shares,
        "coverage_interval": ends,
        "energy": energy,
        "subjects": SUBJECTS,
    }


def write(report: Any, folder: Path, **changes: Any) -> list[str]:
    for seed, shift in enumerate((0.0, 2.0)):
        (folder / f"method-{seed}").mkdir()
        # Of person c the method is no better than the Gaussian; within a person frames differ as well.
        energy = [one + shift for one in (2.0, 4.0, 2.0, 4.0, 4.0, 6.0)]
        rows = [row(report, "method", energy, seed) | changes, row(report, GAUSSIAN, [5.0] * 6, seed)]
        (folder / f"method-{seed}" / "distributions.json").write_text(json.dumps(rows))
    return report.format_tables(folder, GAUSSIAN).splitlines()


@pytest.fixture
def lines(report, tmp_path) -> list[str]:
    return write(report, tmp_path)


def find(lines: list[str], head: str) -> int:
    return next(place for place, line in enumerate(lines) if line.startswith(head))


def test_scores_are_means_and_stds_over_seeds_with_the_first_ones_interval_of_the_energy_score(lines):
    assert lines[2].startswith("| method | 1.0 ± 0.0 | 4.7 ± 1.4 [1, 9] | 1.0 ± 0.0 |")
    assert lines[2].endswith("| 45 / 90 | 46 / 90 | 47 / 90 |")


def test_differences_are_of_frames_and_of_every_seed_with_an_interval_over_people(lines):
    place = find(lines, "| energy score, mm, minus that of")
    # Means of three people drawn of (-2, -2, 0): the least is -2, the largest 0.
    assert lines[place + 2] == "| method | -1.3 [-2.0, 0.0]; 0.7 | -1.3 [-2.0, 0.0]; 0.7 |"


def test_coverage_of_hypotheses_has_its_interval_where_there_is_one(lines):
    place = find(lines, "| 50 / 90 % regions hold")
    assert lines[place + 2] == "| method | 40 [30, 50] / 90 | 41 [31, 51] / 90 | 42 [32, 52] / 90 |"
    assert len(lines) == place + 3  # Gaussians have none


def test_kinds_that_do_not_occur_are_left_blank(report, tmp_path):
    lines = write(report, tmp_path, coverage={"visible": {"0.5": 0.4, "0.9": 0.9}})
    assert lines[2].endswith("| 40 / 90 |  |  |")
    assert lines[-1] == "| method | 40 [30, 50] / 90 |  |  |"


def test_a_seed_of_which_not_all_is_measured_has_no_difference(report, tmp_path):
    write(report, tmp_path)
    (tmp_path / "method-1" / "distributions.json").write_text(json.dumps([row(report, "method", [1.0] * 6, 1)]))
    lines = report.format_tables(tmp_path, GAUSSIAN).splitlines()
    assert lines[find(lines, "| energy score, mm") + 2] == "| method | -1.3 [-2.0, 0.0] | -1.3 [-2.0, 0.0] |"
