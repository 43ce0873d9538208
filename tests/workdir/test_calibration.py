"""The record of a calibration: what is read back, from older versions too, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.workdir.calibration import CALIBRATION, Calibration, pack_factor, read_calibration, write_calibration

RECORD = {
    "step": 7,
    "temperature": 1.5,
    "hypotheses": 20,
    "scales": {"joints": [1.0, 2.0], "kinds": {"sharp": 1.0, "wide": 1.1, "ambiguous": 1.2, "hidden": 1.3}},
    "regions": {"floor_m": 0.01, "factors": {"0.5": [0.0, 1.0], "0.9": [0.0, 2.0]}, "guarantee": "most_subjects"},
    "errors": [0.04, 0.01, 0.03, 0.0, -0.02, 0.05],
}


def read(folder: Path, record: object) -> Calibration | None:
    (folder / CALIBRATION).write_text(json.dumps(record))
    return read_calibration(folder, 7, 2)


def test_what_was_written_is_read(tmp_path):
    assert read_calibration(tmp_path, 7, 2) is None
    write_calibration(tmp_path, RECORD)
    found = read_calibration(tmp_path, 7, 2)
    assert (found.temperature, found.hypotheses) == (1.5, 20)
    assert found.scales.joints == (1.0, 2.0)
    assert found.scales.kinds[3] == 1.3
    radii = found.regions.radii(np.array([[0.0, 0.04]]))
    np.testing.assert_allclose(radii, [[[0, 0.05], [0, 0.1]]], rtol=1e-6)
    assert found.regions.guarantee == "most_subjects"
    assert found.scales.kinds[4] == 1.3  # a record of before there was this kind
    np.testing.assert_array_equal(found.errors, [[0.04, 0, 0], [0.01, 0.03, 0], [0, -0.02, 0.05]])
    assert pack_factor(found.errors) == RECORD["errors"]
    assert list(tmp_path.iterdir()) == [tmp_path / CALIBRATION]


def test_a_joint_that_was_not_seen_has_the_factor_of_hidden_ones(tmp_path):
    regions = RECORD["regions"] | {"hidden": {"0.5": 2.0, "0.9": 4.0}}
    found = read(tmp_path, RECORD | {"regions": regions}).regions
    spread, seen = np.full((2, 2), 0.04), np.array([[True, True], [False, False]])
    np.testing.assert_allclose(found.radii(spread, seen), [[[0, 0.05], [0, 0.1]], [[0, 0.1], [0, 0.2]]], rtol=1e-6)
    np.testing.assert_allclose(found.radii(spread), found.radii(spread, np.ones((2, 2), bool)))


def test_a_record_of_an_older_version_has_the_temperature_alone(tmp_path):
    found = read(tmp_path, {"step": 7, "temperature": 2.07, "coverage": {"0.5": 0.5}})
    assert found == Calibration(7, 2.07)
    assert found.describe() == "calibrated temperature 2.07"


def test_a_record_of_other_variables_is_not_used(tmp_path, caplog):
    assert read(tmp_path, RECORD | {"step": 9}) is None
    assert "calibrate again" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": -3.0}, "temperature: -3.0"),
        ({"temperature": 1e30}, "temperature: 1e\\+30"),
        ({"temperature": "warm"}, "warm"),
        ({"scales": RECORD["scales"] | {"joints": [1.0, 0.0]}}, "scales: 0.0"),
        ({"scales": RECORD["scales"] | {"joints": [1.0] * 17}}, "scales of 17 joints instead of 2"),
        ({"scales": RECORD["scales"] | {"kinds": {"sharp": 1.0}}}, "no 'wide'"),
        ({"regions": RECORD["regions"] | {"floor_m": float("inf")}}, "floor_m: inf"),
        ({"regions": RECORD["regions"] | {"factors": {"0.5": [0.0, -1.0], "0.9": [0, 1]}}}, "regions: -1.0"),
        ({"regions": []}, "found"),
        ({"errors": [0.1, 0.2]}, "errors of 2 numbers instead of 6"),
        ({"errors": [0.1, float("nan"), 0, 0, 0, 0]}, "errors: nan"),
    ],
)
def test_values_that_no_calibration_writes_are_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, RECORD | change)
    assert "calibration.json: expected a file written by calibrate" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[]", "not json", ""])
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path, text):
    (tmp_path / CALIBRATION).write_text(text)
    with pytest.raises(UserError, match=r"calibration\.json: expected a file written by calibrate"):
        read_calibration(tmp_path, 7, 2)
