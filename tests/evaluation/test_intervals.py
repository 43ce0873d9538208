"""The interval of a figure is that of other subjects: it is wide where people differ, however many frames there are."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.evaluation.intervals import (
    MOST_RESERVE,
    bound_new_subject,
    format_interval,
    run_interval,
    subject_interval,
)


def test_many_frames_of_few_people_do_not_make_a_figure_certain():
    rng = np.random.default_rng(0)
    subjects = np.repeat([f"S{number}" for number in range(8)], 500)
    people = np.repeat(rng.normal(0.05, 0.01, 8), 500)
    low, high = subject_interval(people + 0.001 * rng.standard_normal(4000), subjects)
    assert low < people.mean() < high
    # The standard error over 8 people, 0.01 / sqrt(8); that over 4000 frames would be twenty times smaller.
    assert high - low == pytest.approx(4 * people.reshape(8, -1).mean(axis=1).std() / np.sqrt(8), rel=0.15)


def test_it_is_the_bootstrap_that_it_says():
    values, subjects = np.array([1.0, 3.0, 10.0, np.nan]), ["a", "a", "b", "b"]
    # Of two draws: a a (mean 2), b b (10), and a b (14 / 3) in half of the cases.
    assert subject_interval(values, subjects) == (2, 10)
    rng = np.random.default_rng(1)
    values, subjects = rng.random((60, 2)), np.repeat(list("abcdef"), 10)
    means = []
    for _ in range(4000):
        chosen = rng.choice(list("abcdef"), 6)
        means.append(np.mean([values[subjects == one] for one in chosen]))
    np.testing.assert_allclose(subject_interval(values, subjects), np.quantile(means, [0.025, 0.975]), atol=0.005)


def test_one_subject_has_no_interval():
    assert subject_interval(np.ones(5), ["S1"] * 5) is None
    assert subject_interval(np.array([1.0, np.nan]), ["S1", "S2"]) is None
    assert format_interval(None) == ""
    assert format_interval((1.234, 5.0)) == " [1.2, 5.0]"


def test_runs_that_differ_widen_the_interval():
    subjects = np.repeat([f"S{number}" for number in range(6)], 20)
    values = np.repeat(np.linspace(1, 2, 6), 20)
    low, high = subject_interval(values, subjects)
    assert run_interval([values], subjects) == (low, high)
    same, apart = (run_interval([values + shift, values - shift, values], subjects) for shift in (0.0, 1.0))
    assert same == pytest.approx((low, high))
    assert apart[0] < low - 0.4
    assert apart[1] > high + 0.4


def test_nine_in_ten_new_subjects_do_not_exceed_the_bound():
    logs = np.random.default_rng(0).normal(0.3, 0.1, (20_000, 4))
    bounds = bound_new_subject(np.exp(logs[:, :3].T))
    new = np.exp(logs[:, 3])
    # The bound is at least the largest of three, which alone holds for three in four.
    assert 0.90 < np.mean(new <= bounds) < 0.93
    assert np.mean(new <= np.exp(logs[:, :3]).max(axis=1)) == pytest.approx(0.75, abs=0.01)


def test_the_bound_of_one_subject_is_its_value_and_of_two_that_differ_it_is_limited():
    assert bound_new_subject(np.array([[2.0, 1.0], [np.nan, 8.0]])) == pytest.approx([2.0, 8.0 * MOST_RESERVE])
