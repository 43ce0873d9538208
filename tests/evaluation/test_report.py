"""Averages, labels and the files of a report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.report import ORACLE, compute_averages, format_markdown, make_row, write_results

ACTIONS = ["Walking 1", "Walking", "Walking", "Sitting"]
SUBJECTS = ["S9", "S9", "S11", "S11"]
MEASURED = {"mpjpe": np.array([0.010, 0.020, 0.030, 0.100]), "pck": np.array([1.0, 1.0, 0.5, 0.0])}


def results(rows: list[dict]) -> dict:
    return {
        "title": "Evaluation of runs/x",
        "protocol": {"name": "standard", "description": "no ground truth"},
        "data": {
            "source": "synthetic", "split": "test", "stride": 1, "frames": 4, "clips": 2,
            "subjects": ["S9", "S11"], "keypoints": "projected",
        },
        "setting": {
            "lifter": "diffupose", "step": 10, "hypotheses_text": "10 hypotheses", "flip_text": "no flips",
            "sampling_text": "",
        },
        "notes": [],
        "rows": rows,
        "command": "python -m diffpose_jax.evaluate --workdir runs/x",
    }  # fmt: skip


def test_frames_of_many_mixed_groups_are_averaged_in_their_own():
    rng = np.random.default_rng(0)
    subjects = rng.choice([f"S{number}" for number in range(40)], 3000)
    values = np.where(rng.random(3000) < 0.1, np.nan, rng.random(3000))
    found = compute_averages({"mpjpe": values}, ["walk"] * 3000, subjects)["by_subject"]
    assert list(found) == sorted(set(subjects))
    for name, averages in found.items():
        assert averages["mpjpe"] == pytest.approx(1000 * np.nanmean(values[subjects == name]), rel=1e-12)


def test_the_action_average_weighs_actions_alike_and_the_frame_average_frames():
    found = compute_averages(MEASURED, ACTIONS, SUBJECTS)
    # Walking (10 + 20 + 30) / 3 = 20, Sitting 100: actions 60; frames (10 + 20 + 30 + 100) / 4 = 40.
    assert found["action_average"]["mpjpe"] == pytest.approx(60)
    assert found["frame_average"]["mpjpe"] == pytest.approx(40)
    assert found["by_action"]["Walking"]["mpjpe"] == pytest.approx(20)
    assert found["by_subject"]["S11"]["mpjpe"] == pytest.approx(65)
    assert found["frame_average"]["pck"] == pytest.approx(62.5)


def test_similar_action_names_are_not_thrown_together():
    found = compute_averages({"mpjpe": np.array([0.01, 0.03])}, ["Sitting", "SittingDown"], ["S9", "S9"])
    assert set(found["by_action"]) == {"Sitting", "SittingDown"}


def test_frames_without_a_value_do_not_count_and_none_at_all_is_none():
    found = compute_averages({"velocity_error": np.array([np.nan, 0.002, np.nan])}, ["a", "a", "b"], ["s", "s", "s"])
    assert found["by_action"] == {"a": {"velocity_error": pytest.approx(2)}, "b": {"velocity_error": None}}
    assert found["action_average"]["velocity_error"] == pytest.approx(2)


def test_an_oracle_row_says_so_everywhere():
    rows = [
        make_row("mean", "mean of 10", MEASURED, ACTIONS, SUBJECTS),
        make_row("oracle_best", "best of 10", MEASURED, ACTIONS, SUBJECTS, oracle=True),
    ]
    for text in ("Action average", "Frame average"):
        assert text in format_markdown(results(rows))
    assert format_markdown(results(rows)).count(ORACLE) == 3  # both averages and the intervals
    assert format_markdown(results(rows)).count("oracle columns use ground truth") == 1


def test_the_files_hold_what_was_measured(tmp_path):
    found = results([make_row("mean", "mean of 10", MEASURED, ACTIONS, SUBJECTS)])
    json_path, markdown_path = write_results(found, tmp_path / "new")
    written = json.loads(json_path.read_text())
    assert {name: written[name] for name in found} == found
    assert "| mean of 10 | 60.0 |" in markdown_path.read_text()
    assert "python -m diffpose_jax.evaluate --workdir runs/x" in markdown_path.read_text()


def test_an_unwritable_directory_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a directory"):
        write_results(results([make_row("mean", "mean", MEASURED, ACTIONS, SUBJECTS)]), tmp_path / "file")


SEQUENCES = ["TS1", "TS1", "TS1", "TS2"]


def test_sequences_are_averaged_alike_beside_the_frame_average():
    found = compute_averages(MEASURED, ["Sports"] * 4, SEQUENCES, SEQUENCES)
    # TS1 (10 + 20 + 30) / 3 = 20, TS2 100; the number of a sequence is no take and stays.
    assert found["sequence_average"]["mpjpe"] == pytest.approx(60)
    assert found["frame_average"]["mpjpe"] == pytest.approx(40)
    assert found["by_sequence"]["TS2"]["pck"] == pytest.approx(0)
    assert "sequence_average" not in compute_averages(MEASURED, ACTIONS, SUBJECTS)


def test_a_report_over_sequences_names_both_averages_and_shows_the_groups_of_joints():
    measured = MEASURED | {"pck_knee": MEASURED["pck"], "auc_knee": MEASURED["pck"] / 2}
    activities = ["Sports", "Sports", "Exercise", "Exercise"]
    rows = [make_row("mean", "mean of 10", measured, activities, SEQUENCES, sequences=SEQUENCES)]
    text = format_markdown(results(rows))
    assert "**Sequence average (unweighted mean over the sequences)**" in text
    assert "**Frame average (mean over all frames)**" in text
    assert "Action average" not in text
    assert "**PCK@150mm by joint group (%, sequence average)**" in text
    assert "**AUC by joint group (%, sequence average)**" in text
    for title in ("MPJPE per sequence (mm)", "PCK@150mm per sequence (%)", "MPJPE per action (mm)"):
        assert f"**{title}**" in text
    assert "| sequence average | 60.0 |" in text
    rows = [make_row("mean", "mean", measured, ["test"] * 4, SEQUENCES, sequences=SEQUENCES)]
    assert "per action" not in format_markdown(results(rows))


def test_errors_per_joint_are_a_table_of_their_own():
    places = {"by_joint": {"pelvis": 0.0, "left_knee": 41.26}, "by_coordinate": {"x": 1.0, "y": 2.0, "z": 30.04}}
    text = format_markdown(results([make_row("mean", "mean of 10", MEASURED, ACTIONS, SUBJECTS) | places]))
    assert "**Mean error per joint (mm)**" in text
    assert "| left_knee | 41.3 |" in text
    assert "| z | 30.0 |" in text
