"""Conformal regions hold what they promise, for new subjects where there are enough to promise it."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.conformal import (
    FLOOR,
    MOST_SUBJECTS,
    SUBJECTS,
    bound_quantile,
    fit_factors,
    fit_visible_and_hidden,
    frame_quantile,
    nonconformity,
    samples_needed,
    subject_quantile,
)


def people(rng: np.random.Generator, count: int, frames: int = 40) -> tuple[np.ndarray, list[str]]:
    """Scores `[M, 1]` of people of whom each has a difficulty of their own."""
    difficulty = rng.lognormal(0, 0.6, count)
    scores = (difficulty[:, None] * rng.exponential(1, (count, frames))).reshape(-1, 1)
    return scores, np.repeat([f"S{number}" for number in range(count)], frames).tolist()


@pytest.mark.parametrize(("level", "count"), [(0.9, 9), (0.9, 14), (0.5, 2)])
def test_a_new_subject_is_covered_with_the_promised_probability(level, count):
    rng = np.random.default_rng(0)
    held = []
    for _ in range(600):
        scores, subjects = people(rng, count + 1)
        known = len(scores) - 40
        held.append(np.mean(scores[known:] <= subject_quantile(scores[:known], subjects[:known], level)))
    assert np.mean(held) >= level - 0.01


def test_pooled_frames_of_few_subjects_promise_less_to_a_new_one():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(600):
        scores, _ = people(rng, 3)
        held.append(np.mean(scores[80:] <= frame_quantile(scores[:80], 0.9)))
    assert np.mean(held) < 0.89


def test_the_subject_quantile_is_the_weighted_one_by_hand():
    # Two subjects: 'a' with one frame has weight 1/3, 'b' with two has 1/6 each, the rest lies at infinity.
    scores = np.array([[1.0], [2.0], [3.0]])
    assert subject_quantile(scores, ["a", "b", "b"], 0.3) == 1
    assert subject_quantile(scores, ["a", "b", "b"], 0.5) == 2
    assert subject_quantile(scores, ["a", "b", "b"], 0.6) == 3
    assert subject_quantile(scores, ["a", "b", "b"], 0.7) is None
    # With a frame of each subject it is the ordinary conformal quantile.
    each = np.random.default_rng(0).random((19, 2))
    names = [str(number) for number in range(19)]
    np.testing.assert_array_equal(subject_quantile(each, names, 0.9), frame_quantile(each, 0.9))
    np.testing.assert_array_equal(frame_quantile(each, 0.9), np.sort(each, axis=0)[17])  # ceil(20 * 0.9) = 18th


def test_what_bounds_few_subjects_quantiles_holds_for_nine_in_ten_new_subjects():
    rng = np.random.default_rng(2)
    held, held_by_largest = [], []
    for _ in range(600):
        scores, subjects = people(rng, 4, frames=400)
        known, new = np.split(scores, [1200])
        largest = max(frame_quantile(part, 0.9) for part in np.split(known, 3))
        held.append(np.mean(new <= bound_quantile(known, subjects[:1200], 0.9)) >= 0.9)
        held_by_largest.append(np.mean(new <= largest) >= 0.9)
    # The reserve is a factor of two at most, which is a little too small where three people differ much.
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    assert np.mean(held_by_largest) == pytest.approx(0.75, abs=0.04)


def test_too_few_subjects_get_a_bound_of_their_quantiles_by_its_name():
    assert samples_needed(0.9) == 9
    assert samples_needed(0.5) == 1
    scores, subjects = people(np.random.default_rng(0), 8)
    few = fit_factors(scores, subjects, (0.9, 0.5))
    assert few.guarantee == MOST_SUBJECTS
    each = [[frame_quantile(part, level) for part in np.split(scores, 8)] for level in (0.9, 0.5)]
    assert (few.values >= np.max(each, axis=1)).all()
    assert few.values[0] > few.values[1]
    scores, subjects = people(np.random.default_rng(0), 9)
    enough = fit_factors(scores, subjects, (0.5, 0.9))
    assert enough.guarantee == SUBJECTS
    assert (enough.values[0] < enough.values[1]).all()
    with pytest.raises(UserError, match="at least 9 frames of each subject for 90%, found 4"):
        fit_factors(scores[:4], ["a"] * 4, (0.5, 0.9))


def test_the_root_and_one_subject_have_no_reserve():
    scores = np.random.default_rng(0).exponential(1, (300, 2))
    scores[:, 0] = 0  # the root: it does not move
    assert bound_quantile(scores, ["a", "b", "c"] * 100, 0.9)[0] == 0
    np.testing.assert_allclose(bound_quantile(scores, ["a"] * 300, 0.9), frame_quantile(scores, 0.9))


def test_joints_that_were_not_seen_have_a_factor_of_their_own():
    rng = np.random.default_rng(0)
    scores, seen = rng.exponential(1, (900, 4)), rng.random((900, 4)) < 0.7
    scores[:, 0] = 0  # the root
    scores[~seen] *= 3
    subjects = np.repeat(["A", "B", "C"], 300).tolist()
    factors, hidden = fit_visible_and_hidden(scores, seen, subjects, (0.5, 0.9))
    new, shown = rng.exponential(1, (20_000, 4)), rng.random((20_000, 4)) < 0.7
    new[~shown] *= 3
    for level, own, other in zip((0.5, 0.9), factors.values, hidden, strict=True):
        assert own[0] == 0
        # Each joint has its own reserve, by a few hundred scores.
        assert level <= (new <= own)[:, 1:][shown[:, 1:]].mean() < level + 0.15
        assert level <= (new <= other)[:, 1:][~shown[:, 1:]].mean() < level + 0.1
    everything, nothing = fit_visible_and_hidden(scores, np.ones_like(seen), subjects, (0.5, 0.9))
    assert nothing is None
    np.testing.assert_array_equal(everything.values, fit_factors(scores, subjects, (0.5, 0.9)).values)


def test_scores_are_distances_in_units_of_the_spread():
    target, mean = np.zeros((1, 2, 3)), np.array([[[0.03, 0.04, 0.0], [0.0, 0.0, 0.01]]])
    found = nonconformity(mean, np.array([[0.09, 0.0]]), target)
    np.testing.assert_allclose(found, [[0.05 / (0.09 + FLOOR), 0.01 / FLOOR]])
