"""Schedules against the numbers of the published releases and against float64."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.diffusion import schedules
from diffpose_jax.errors import UserError

from .definitions import defined_betas


def test_diffupose_cosine_values():
    schedule = schedules.cosine(100)
    np.testing.assert_allclose(
        schedule.beta[[0, 1, 50, 98, 99]], [6.31282e-4, 1.11694e-3, 3.15463e-2, 0.749939, 0.999], rtol=5e-6
    )
    np.testing.assert_allclose(
        schedule.alpha_bar[[0, 49, 50, 98, 99]], [0.999369, 0.493844, 0.478265, 2.42857e-4, 2.42857e-7], rtol=2e-6
    )


def test_diffupose_linear_values():
    schedule = schedules.linear_rescaled(100)
    np.testing.assert_allclose(schedule.beta[[0, -1]], [0.001, 0.2], rtol=1e-6)
    np.testing.assert_allclose(schedule.alpha_bar[-1], 2.039e-5, rtol=5e-4)


def test_diffhpe_values_with_betas_capped_at_a_half():
    schedule = schedules.cosine(50, max_beta=0.5)
    np.testing.assert_allclose(
        schedule.beta[[0, 24, 46, 47, 48, 49]], [0.00174751, 0.05935366, 0.43622261, 0.5, 0.5, 0.5], rtol=3e-6
    )
    np.testing.assert_allclose(
        schedule.alpha_bar[[0, 9, 24, 39, 49]], [0.99825249, 0.89870592, 0.49384359, 0.09404561, 0.00108976], rtol=5e-6
    )


def test_diff3dhpe_and_d3dp_anchors():
    alpha_bar = schedules.cosine(1000).alpha_bar
    np.testing.assert_allclose(
        alpha_bar[[0, 100, 250, 300, 500, 700, 900, 998, 999]],
        [0.999958716, 0.971576, 0.845888, 0.785632, 0.492285, 0.201869, 0.0236161, 2.4288e-6, 2.4288e-9],
        rtol=2e-5,
    )


def test_diffpose_table():
    alpha_bar = schedules.linear(51, 1e-4, 1e-3).alpha_bar
    np.testing.assert_allclose(
        alpha_bar[[0, 5, 6, 10, 12, 20, 24, 30, 40, 50]],
        [0.99990, 0.99913, 0.99892, 0.99791, 0.99730, 0.99414, 0.99213, 0.98859, 0.98131, 0.97233],
        atol=6e-6,
    )


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
@pytest.mark.parametrize("name", ["cosine", "linear", "quadratic"])
def test_fields_agree_with_their_definitions_in_float64(name, steps):
    schedule = schedules.make_schedule(name, steps)
    beta = defined_betas(name, steps)
    alpha_bar = np.cumprod(1 - beta)
    previous = np.concatenate([[1.0], alpha_bar[:-1]])
    expected = {"beta": beta, "alpha_bar": alpha_bar, "one_minus_alpha_bar": 1 - alpha_bar, "alpha_bar_prev": previous}
    for field, values in expected.items():
        found = getattr(schedule, field)
        assert found.dtype == np.float32
        assert found.shape == (steps,)
        np.testing.assert_allclose(found, values, rtol=2e-7, atol=1e-12, err_msg=field)


def test_a_schedule_destroys_the_signal_monotonically_and_keeps_variance():
    schedule = schedules.cosine(200)
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    np.testing.assert_allclose(schedule.alpha_bar + schedule.one_minus_alpha_bar, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])


def test_rescaled_linear_schedules_end_alike_whatever_their_length():
    long, short = schedules.linear_rescaled(1000), schedules.linear_rescaled(250)
    np.testing.assert_allclose(np.log(short.alpha_bar[-1]), np.log(long.alpha_bar[-1]), rtol=0.06)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedules.make_schedule("cosin", 10), "cosine, linear, linear_rescaled, quadratic"),
        (lambda: schedules.make_schedule("cosine", 10, start=1e-4), "max_beta"),
        (lambda: schedules.cosine(0), "at least 1 step"),
        (lambda: schedules.linear(10, 0.1, 1.5), "1.5"),
        (lambda: schedules.linear_rescaled(20), "strictly between 0 and 1"),
        (lambda: schedules.from_betas(np.array([0.1, np.nan])), "nan"),
    ],
)
def test_mistakes_are_told_in_one_line(call, words):
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "schedule"),
    [
        ("cosT", schedules.cosine(8)),
        ("cosine100", schedules.cosine(100)),
        ("linear100", schedules.linear_rescaled(100)),
    ],
)
def test_buffers_of_the_diffupose_release(parity, prefix, schedule):
    fields = {
        "betas": schedule.beta,
        "alphas_cumprod": schedule.alpha_bar,
        "alphas_cumprod_prev": schedule.alpha_bar_prev,
    }
    file = parity("diffupose_sampler.npz")
    compared = [field for field in fields if f"out_{prefix}_{field}" in file]
    assert len(compared) >= 2
    for field in compared:
        np.testing.assert_allclose(fields[field], file[f"out_{prefix}_{field}"], rtol=3e-7, atol=1e-12, err_msg=field)


def test_schedules_compare_and_hash_by_value():
    one, same, other = schedules.cosine(20), schedules.cosine(20), schedules.cosine(20, max_beta=0.5)
    assert one == same
    assert not (one != same)  # noqa: SIM202 (a tuple has a != of its own)
    assert one != other
    assert one != tuple(one)
    assert len({one, same, other}) == 2
