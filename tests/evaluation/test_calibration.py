"""Coverage is nominal where the truth is one more draw, and says which way a wrong spread is wrong."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.calibration import coverage, fit_temperature, mahalanobis_rank

RNG = np.random.default_rng(0)
FRAMES = 3000


def ranks(hypotheses: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray(mahalanobis_rank(jnp.asarray(hypotheses, jnp.float32), jnp.asarray(target, jnp.float32)))


def draws(count: int, kind: str) -> np.ndarray:
    shape = (count, FRAMES, 2, 3)
    if kind == "gaussian":
        return RNG.standard_normal(shape) * [0.1, 0.02, 0.3] + [1, 2, 3]
    if kind == "two modes":
        return RNG.standard_normal(shape) * 0.02 + RNG.integers(0, 2, (*shape[:-1], 1)) * [0.3, 0.1, 0.0]
    return RNG.standard_t(3, shape) * 0.05


@pytest.mark.parametrize("kind", ["gaussian", "two modes", "heavy tails"])
@pytest.mark.parametrize("count", [9, 19, 49])
def test_coverage_is_nominal_where_the_truth_is_one_more_draw(kind, count):
    points = draws(count + 1, kind)
    for level, share in coverage(ranks(points[1:], points[0])).items():
        assert share == pytest.approx(level, abs=0.02)


def test_too_narrow_is_overconfident_and_too_wide_is_cautious():
    points = draws(20, "gaussian")
    centre = points.mean(axis=(0, 1, 2))
    narrow, wide = ((points[1:] - centre) * factor + centre for factor in (0.4, 2.5))
    assert coverage(ranks(narrow, points[0]))[0.9] < 0.6
    assert coverage(ranks(wide, points[0]))[0.5] > 0.9


def test_hypotheses_that_all_agree_cover_nothing_but_what_they_hit():
    target = np.zeros((4, 1, 3))
    agreeing = np.zeros((10, 4, 1, 3))
    assert (ranks(agreeing + 0.05, target) > 0.9).all()
    np.testing.assert_allclose(ranks(agreeing, target), 0.5)


def test_turning_and_stretching_the_world_changes_no_rank():
    points = draws(12, "gaussian")
    turn = np.linalg.qr(RNG.standard_normal((3, 3)))[0] @ np.diag([1.5, 0.7, 2.0])
    np.testing.assert_allclose(ranks(points[1:], points[0]), ranks(points[1:] @ turn, points[0] @ turn), atol=0.09)


def test_no_ranks_have_no_coverage():
    assert np.isnan(coverage(np.zeros(0))[0.5])


@pytest.mark.parametrize("narrowed", [0.3, 0.8, 1.0, 2.5])
def test_a_temperature_undoes_what_narrowed_or_widened_the_hypotheses(narrowed):
    points = draws(20, "gaussian")
    centre = np.array([1, 2, 3])

    def coverage_at(temperature: float) -> dict[float, float]:
        return coverage(ranks((points[1:] - centre) * narrowed * temperature + centre, points[0]))

    found = fit_temperature(coverage_at)
    assert found * narrowed == pytest.approx(1, abs=0.06)
    assert np.mean([share - level for level, share in coverage_at(found).items()]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("share", "found"), [(0.0, "too little spread at temperature 8"), (1.0, "too much spread")])
def test_hypotheses_that_no_temperature_spreads_cannot_be_calibrated(share, found):
    with pytest.raises(UserError, match=found):
        fit_temperature(lambda temperature: {0.5: share, 0.9: share})
