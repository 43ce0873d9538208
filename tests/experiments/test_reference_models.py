"""What is seen beside a hidden leg is compared with the same joints of people who are seen whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FRAMES, JOINTS = 6, 4


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as it is for a program
    return importlib.import_module("reference_models")


def test_only_joints_that_are_seen_are_compared_each_with_itself(models):
    rng = np.random.default_rng(0)
    poses = rng.standard_normal((FRAMES, JOINTS, 3))
    seen = np.ones((FRAMES, JOINTS), bool)
    seen[:, -1] = False
    measured = SimpleNamespace(
        clips=SimpleNamespace(seen=seen), indices=np.arange(FRAMES), subjects=["a", "a", "b", "b", "c", "c"],
        frames=SimpleNamespace(poses=poses),
    )  # fmt: skip
    # The mean is off by 10 mm where nothing is hidden; by 12, of person c by 15, with a hidden joint, which has 500.
    whole, hidden = np.full((FRAMES, JOINTS), 0.010), np.full((FRAMES, JOINTS), 0.012)
    hidden[4:], hidden[:, -1] = 0.015, 0.5

    def around(error: np.ndarray) -> np.ndarray:
        spread = rng.standard_normal((FRAMES, 5, JOINTS, 3))
        return (poses + error[..., None] * [1, 0, 0])[:, None] + spread - spread.mean(axis=1, keepdims=True)

    found = models._compare_seen(measured, around(hidden), around(whole))
    assert found["whole"] == pytest.approx(10)
    assert found["more"] == pytest.approx(3)
    np.testing.assert_allclose(found["interval"], [2, 5])
    assert models._format_more(found) == "3.0 [2.0, 5.0], 30.0% of 10.0"
    assert models._format_more(None) == ""
