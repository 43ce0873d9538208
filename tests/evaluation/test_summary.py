"""What an evaluation prints fits a terminal of 80 columns and says where the rest is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from diffpose_jax.evaluation.report import make_row
from diffpose_jax.evaluation.summary import choose_rows, print_results

MEASURED = {"mpjpe": np.array([0.010, 0.020]), "p_mpjpe": np.array([0.005, 0.007]), "pck": np.array([1.0, 0.5])}


def row(name: str, label: str = "", kind: str = "aggregation", oracle: bool = False) -> dict:
    return make_row(name, label or name, MEASURED, ["walk"] * 2, ["S9", "S11"], kind=kind, oracle=oracle)


AGGREGATIONS = [row("first"), row("mean", "mean of 10"), row("medoid"), row("reprojection")]
ORACLES = [row("oracle_best", "best hypothesis of 10", oracle=True), row("oracle_best_joint", oracle=True)]
BASELINES = [row("mean_pose", kind="baseline"), row("nearest_neighbour", "nearest neighbour in 2D", kind="baseline")]
ROWS = AGGREGATIONS + ORACLES + BASELINES


def printed(rows: list[dict], width: int | None = None) -> list[str]:
    """The lines on a terminal of a width, or in a log."""
    results = {
        "title": "Evaluation of runs/x",
        "protocol": {"name": "standard", "description": "root-relative, no ground truth at test time, " * 3},
        "data": {
            "source": "synthetic", "split": "test", "stride": 1, "frames": 2, "clips": 2, "subjects": ["S9", "S11"],
            "keypoints": "projected",
        },
        "setting": {
            "lifter": "diffupose", "step": 10, "hypotheses_text": "10 hypotheses", "flip_text": "no flips",
            "sampling_text": "",
        },
        "notes": [],
        "rows": rows,
    }  # fmt: skip
    stream = io.StringIO()
    print_results(results, Console(file=stream, width=width, force_terminal=width is not None, color_system=None))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(("width", "most"), [(None, 80), (200, 80), (60, 60)])
def test_no_line_is_wider_than_the_terminal_or_80_columns(width, most):
    lines = printed(ROWS, width)
    plain = [line.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[3m", "") for line in lines]
    assert max(len(line.rstrip()) for line in plain) <= most
    assert "root-relative" in " ".join(lines)


def test_five_rows_stand_in_one_table_with_the_average_that_papers_report():
    lines = printed(ROWS)
    text = "\n".join(lines)
    assert "Action average" in text
    assert "3 more rows" in text
    assert "results.html" in text
    (mean,) = (line for line in lines if "mean of 10" in line)
    assert [word for word in mean.split() if word[0].isdigit() and "." in word] == ["15.0", "6.0", "75.0"]
    (best,) = (line for line in lines if "best hypothesis" in line)
    assert "best hypothesis of 10 *" in best
    assert "* oracle: uses ground truth." in text


def test_the_pose_of_the_lifter_other_lifters_and_baselines_come_first():
    names = [one["name"] for one in choose_rows(ROWS)]
    assert names == ["first", "mean", "oracle_best", "mean_pose", "nearest_neighbour"]
    others = [row(f"runs/{name}", kind="baseline") for name in "abcd"]
    assert [one["name"] for one in choose_rows(ROWS + others)] == ["mean", "runs/a", "runs/b", "runs/c", "runs/d"]
    only = [row("medoid"), *BASELINES, *others]
    assert choose_rows(only)[0]["name"] == "medoid"


def test_a_benchmark_of_sequences_shows_their_average():
    rows = [make_row("mean", "mean", MEASURED, ["walk"] * 2, ["TS1", "TS2"], sequences=["TS1", "TS2"])]
    assert "Sequence average" in "\n".join(printed(rows))
