"""Differences are paired: frame by frame, averaged over seeds, with intervals over subjects."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.evaluation.intervals import subject_interval
from diffpose_jax.grid.comparing import Row, compare, describe_row
from diffpose_jax.grid.units import Comparison, Unit

RNG = np.random.default_rng(0)
SUBJECTS = np.repeat([f"S{number}" for number in range(6)], 20)
PEOPLE = np.repeat(RNG.uniform(0.03, 0.09, 6), 20)  # people differ much more than lifters do


def make_rows(**units: Unit) -> list[Row]:
    return [
        Row(name, describe_row(unit.describe(), aggregation), name != "mlp")
        for name, unit in units.items()
        for aggregation in (("first", "mean") if name != "mlp" else ("first",))
    ]


def values_of(shift: float, frames: int = 120) -> dict[str, np.ndarray]:
    errors = (PEOPLE + shift + 0.001 * RNG.standard_normal(120))[:frames]
    found = {
        "frame": np.arange(frames),
        "subject": SUBJECTS[:frames],
        "first/mpjpe": errors + 0.01,
        "mean/mpjpe": errors,
    }
    return found | {"distribution/crps": errors / 2}


def test_what_all_people_have_in_common_does_not_widen_the_interval_of_a_difference():
    values = {"a": values_of(0), "b": values_of(0.002)}
    rows = make_rows(a=Unit("a"), b=Unit("b"))
    found = compare(Comparison({"workdir": "a"}, {"workdir": "b"}), rows, values.get)
    assert [one["shared"]["aggregation"] for one in found] == ["first", "mean"]
    difference = 1000 * (values["a"]["mean/mpjpe"] - values["b"]["mean/mpjpe"])
    assert found[1]["difference"] == pytest.approx(difference.mean())
    assert found[1]["interval"] == pytest.approx(subject_interval(difference, list(SUBJECTS)))
    assert found[1]["interval"][0] < -2 < found[1]["interval"][1] + 0.3 < 0
    low, high = subject_interval(1000 * values["a"]["mean/mpjpe"], list(SUBJECTS))
    assert high - low > 10 * (found[1]["interval"][1] - found[1]["interval"][0])


def test_seeds_are_averaged_frame_by_frame():
    values = {"a0": values_of(0), "a1": values_of(0.004), "b": values_of(0.002)}
    rows = make_rows(a0=Unit("a", seed=0), a1=Unit("a", seed=1), b=Unit("b", seed=0))
    comparison = Comparison({"workdir": "a", "aggregation": "mean"}, {"workdir": "b", "aggregation": "first"})
    (found,) = compare(comparison, rows, values.get)
    assert found["units"] == {"first": ["a0", "a1"], "second": ["b"]}
    mean = (values["a0"]["mean/mpjpe"] + values["a1"]["mean/mpjpe"]) / 2
    assert found["difference"] == pytest.approx(1000 * (mean - values["b"]["first/mpjpe"]).mean())


def test_a_supervised_lifter_is_compared_with_every_number_of_hypotheses():
    values = {"a1": values_of(0), "a5": values_of(0), "mlp": values_of(0)}
    units = {"a1": Unit("a", hypotheses=1), "a5": Unit("a", hypotheses=5), "mlp": Unit("m")}
    rows = make_rows(**units, far=Unit("a", data="another.npz", hypotheses=5))
    comparison = Comparison({"workdir": "a", "aggregation": "mean"}, {"workdir": "m"})
    found = compare(comparison, rows, values.get)
    assert [one["shared"]["hypotheses"] for one in found] == [1, 5]
    assert all(one["units"]["second"] == ["mlp"] for one in found)


def test_a_score_of_distributions_is_compared_once_per_unit():
    values = {"a": values_of(0), "b": values_of(0.002), "mlp": {}}
    rows = make_rows(a=Unit("a"), b=Unit("b"))
    (found,) = compare(Comparison({"workdir": "a"}, {"workdir": "b"}, "crps"), rows, values.get)
    assert found["difference"] == pytest.approx(-1, abs=0.2)
    rows = make_rows(a=Unit("a"), mlp=Unit("m"))
    (found,) = compare(Comparison({"workdir": "a"}, {"workdir": "m"}, "crps"), rows, values.get)
    assert found["left_out"] == "mlp has no crps"


def test_what_cannot_be_compared_is_left_out_and_says_why():
    values = {"a": values_of(0), "b": values_of(0, frames=100)}
    rows = make_rows(a=Unit("a"), b=Unit("b"))
    found = compare(Comparison({"workdir": "a"}, {"workdir": "b"}), rows, values.get)
    assert {one["left_out"] for one in found} == {"the sides measure different frames"}
    (found,) = compare(Comparison({"workdir": "a", "aggregation": "mean"}, {"workdir": "b"}), rows, values.get)
    assert found["left_out"] == "one side has several values of aggregation: first, mean; name one" or (
        found["left_out"] == "one side has several values of aggregation: mean, first; name one"
    )
