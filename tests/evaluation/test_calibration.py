"""Coverage is nominal where the truth is one more draw, for every number of hypotheses; scales make it so."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.evaluation.calibration import Draws, coverage, covered, fit_scales, fit_tail, mahalanobis_rank

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


def posterior(count: int, frames: int = 10_000, joints: int = 3) -> np.ndarray:
    """Truth and hypotheses `[1 + count, frames, joints, 3]` of one distribution per frame, with correlated joints.

    Centre, width and shape differ from frame to frame, as those of a posterior do.
    """
    rng = np.random.default_rng(count)
    centre = 0.3 * rng.standard_normal((frames, joints, 3))
    width = np.exp(rng.normal(-3, 0.7, (frames, 1, 1)))
    shared = rng.standard_normal((1 + count, frames, 1, 3)) * np.array([1.0, 0.3, 2.0])
    own = rng.standard_normal((1 + count, frames, joints, 3))
    return centre + width * (shared + own)


@pytest.mark.parametrize("count", [5, 10, 20, 50])
def test_an_exactly_calibrated_posterior_has_nominal_coverage_for_every_number_of_hypotheses(count):
    points = posterior(count)
    found = coverage(ranks(points[1:], points[0]))
    assert found[0.5] == pytest.approx(0.5, abs=0.01)
    assert found[0.9] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("kind", ["gaussian", "two modes", "heavy tails"])
@pytest.mark.parametrize("count", [9, 20])
def test_coverage_is_nominal_where_the_truth_is_one_more_draw(kind, count):
    points = draws(count + 1, kind)
    for level, share in coverage(ranks(points[1:], points[0])).items():
        assert share == pytest.approx(level, abs=0.02)


@pytest.mark.parametrize("count", [1, 5, 7, 50])
def test_the_mean_over_all_places_is_the_level_exactly(count):
    place = np.arange(count + 1)
    every = np.stack([place, place + 1], axis=-1) / (count + 1)
    for level in (0.1, 0.5, 0.9):
        assert covered(every, level).mean() == pytest.approx(level, abs=1e-12)
    # A tie of all points is one interval of all places: it is inside with the probability of the level.
    assert covered(np.array([0.0, 1.0]), 0.9) == pytest.approx(0.9)


def test_too_narrow_is_overconfident_and_too_wide_is_cautious():
    points = draws(20, "gaussian")
    centre = points.mean(axis=(0, 1, 2))
    narrow, wide = ((points[1:] - centre) * factor + centre for factor in (0.4, 2.5))
    assert coverage(ranks(narrow, points[0]))[0.9] < 0.6
    assert coverage(ranks(wide, points[0]))[0.5] > 0.9


def test_hypotheses_that_all_agree_cover_nothing_but_what_they_hit():
    target = np.zeros((4, 1, 3))
    agreeing = np.zeros((10, 4, 1, 3))
    assert coverage(ranks(agreeing + 0.05, target)) == {0.5: 0.0, 0.9: 0.0}
    np.testing.assert_allclose(ranks(agreeing, target)[..., 1], 1)
    assert coverage(ranks(agreeing, target)) == {0.5: pytest.approx(0.5), 0.9: pytest.approx(0.9)}


def test_turning_and_stretching_the_world_changes_no_rank():
    points = draws(12, "gaussian")
    turn = np.linalg.qr(RNG.standard_normal((3, 3)))[0] @ np.diag([1.5, 0.7, 2.0])
    np.testing.assert_allclose(ranks(points[1:], points[0]), ranks(points[1:] @ turn, points[0] @ turn), atol=0.09)


def test_no_ranks_have_no_coverage():
    assert np.isnan(coverage(np.zeros((0, 2)))[0.5])


def test_scales_undo_what_narrowed_or_widened_the_hypotheses():
    points = draws(20, "gaussian").astype(np.float32)
    factors = np.array([0.3, 1.5], np.float32)
    centre = points.mean(axis=(0, 1, 2))
    narrowed = (points[1:] - centre) * factors[:, None] + centre
    sample = Draws(jnp.asarray(narrowed), jnp.asarray(points[0]))
    labels = np.broadcast_to([0, 1], (FRAMES, 2))
    found = fit_scales(sample, labels, 2)
    np.testing.assert_allclose(found * factors, 1, atol=0.08)
    scaled = sample.scaled(jnp.asarray(found.astype(np.float32)[labels]))
    assert coverage(scaled.ranks())[0.9] == pytest.approx(0.9, abs=0.02)


def test_joints_whose_hypotheses_agree_and_labels_without_joints_are_not_scaled():
    points = draws(6, "gaussian").astype(np.float32)
    points[1:, :, 0] = 0
    found = fit_scales(Draws(jnp.asarray(points[1:]), jnp.asarray(points[0])), np.broadcast_to([0, 1], (FRAMES, 2)), 3)
    assert found[0] == found[2] == 1


def test_a_tail_makes_both_levels_nominal_where_the_width_of_the_truth_varies():
    """Hypotheses know the average width alone: at the 90 % level they hold too little, at the 50 % level too much."""
    width = np.exp(0.6 * RNG.standard_normal((FRAMES, 1, 1)))
    target = (0.1 * width * RNG.standard_normal((FRAMES, 2, 3))).astype(np.float32)
    plain = Draws(jnp.asarray(0.1 * RNG.standard_normal((20, FRAMES, 2, 3)), jnp.float32), jnp.asarray(target))
    every = np.ones((FRAMES, 2), bool)
    narrow = plain.scaled(jnp.full((FRAMES, 2), float(fit_scales(plain, np.zeros((FRAMES, 2)), 1)[0])))
    before = coverage(narrow.ranks())
    assert before[0.9] < 0.88
    assert before[0.5] > 0.52
    tail, factor = fit_tail(narrow, every)
    assert 0.2 < tail < 0.8
    after = narrow.with_tail(tail).scaled(jnp.full((FRAMES, 2), factor))
    for level, share in coverage(after.ranks()).items():
        assert share == pytest.approx(level, abs=0.015)
    np.testing.assert_allclose(after.hypotheses.mean(axis=0), plain.hypotheses.mean(axis=0), atol=1e-5)


def test_hypotheses_of_the_truth_have_no_tail():
    points = posterior(20)
    found = Draws(jnp.asarray(points[1:], jnp.float32), jnp.asarray(points[0], jnp.float32))
    assert fit_tail(found, np.ones(points.shape[1:3], bool)) == (0.0, 1.0)
