"""Plans: coefficients beside the posterior of DDPM, DDIM between its limits, published timesteps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffpose_jax.diffusion import plans, schedules
from diffpose_jax.errors import UserError

from .definitions import defined_betas

SCHEDULE = schedules.cosine(50)
UNEVEN = (49, 31, 20, 7, 0)


def posterior(schedule: schedules.Schedule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coefficients of x_k and of x0 in the posterior mean, and its variance, for timesteps 0 .. K - 1."""
    on_x, on_x0, _, std = plans.ddpm_plan(schedule).table[::-1].astype(np.float64).T
    return on_x, on_x0, std**2


@pytest.mark.parametrize(
    ("name", "steps"),
    [*itertools.product(("cosine", "linear"), (1, 7, 100, 1000)), ("quadratic", 7), ("quadratic", 50)],
)
def test_ddpm_coefficients_are_the_posterior_of_the_schedule(name, steps):
    schedule = schedules.make_schedule(name, steps)
    plan = plans.ddpm_plan(schedule)
    np.testing.assert_array_equal(plan.step, np.arange(steps - 1, -1, -1))
    np.testing.assert_array_equal(plan.table[:, 2], 0.0)
    beta = defined_betas(name, steps)
    alpha_bar = np.cumprod(1 - beta)
    previous = np.append(1.0, alpha_bar[:-1])
    on_x, on_x0, variance = posterior(schedule)
    np.testing.assert_allclose(on_x, (1 - previous) * np.sqrt(1 - beta) / (1 - alpha_bar), rtol=3e-7, atol=1e-12)
    np.testing.assert_allclose(on_x0, beta * np.sqrt(previous) / (1 - alpha_bar), rtol=3e-7, atol=1e-12)
    np.testing.assert_allclose(variance, beta * (1 - previous) / (1 - alpha_bar), rtol=5e-7, atol=1e-12)
    # The posterior never adds more noise than the forward step did.
    assert np.all(variance <= beta * (1 + 1e-6))


def test_posterior_values_of_diffupose_and_diffhpe():
    on_x, on_x0, variance = posterior(schedules.cosine(100))
    np.testing.assert_allclose(on_x0[[0, 99]], [1.0, 0.0155683], rtol=3e-6)
    np.testing.assert_allclose(on_x[[0, 99]], [0.0, 0.0316151], rtol=3e-6)
    np.testing.assert_allclose(variance[[0, 99]], [0.0, 0.998758], rtol=1e-6)
    _, _, variance = posterior(schedules.cosine(50, max_beta=0.5))
    np.testing.assert_allclose(np.sqrt(variance[[1, 25, 49]]), [0.03445571, 0.24371289, 0.70672097], rtol=1e-6)


@pytest.mark.parametrize(
    ("prefix", "schedule"),
    [
        ("cosT", schedules.cosine(8)),
        ("cosine100", schedules.cosine(100)),
        ("linear100", schedules.linear_rescaled(100)),
    ],
)
def test_posterior_of_the_diffupose_release(parity, prefix, schedule):
    on_x, on_x0, variance = posterior(schedule)
    fields = {"posterior_variance": variance, "posterior_mean_coef1": on_x0, "posterior_mean_coef2": on_x}
    file = parity("diffupose_sampler.npz")
    compared = [field for field in fields if f"out_{prefix}_{field}" in file]
    assert len(compared) >= 2
    for field in compared:
        np.testing.assert_allclose(fields[field], file[f"out_{prefix}_{field}"], rtol=3e-7, atol=1e-12, err_msg=field)


def test_a_respaced_ddpm_is_the_ddpm_of_the_subset():
    steps = np.array(UNEVEN)
    alpha_bar = np.cumprod(1 - SCHEDULE.beta.astype(np.float64))[steps[::-1]]
    subset = schedules.from_betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))
    np.testing.assert_allclose(
        plans.ddpm_plan(SCHEDULE, UNEVEN).table, plans.ddpm_plan(subset).table, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("steps", [50, UNEVEN])
def test_ddim_with_eta_one_is_ddpm(steps):
    ddim, ddpm = plans.ddim_plan(SCHEDULE, steps, eta=1.0), plans.ddpm_plan(SCHEDULE, steps)
    np.testing.assert_array_equal(ddim.step, ddpm.step)
    np.testing.assert_allclose(ddim.table[:, 3], ddpm.table[:, 3], rtol=1e-6)
    # The means agree too, once eps_hat is written out in x and x0_hat.
    alpha_bar = SCHEDULE.alpha_bar.astype(np.float64)[ddim.step]
    std = np.sqrt(SCHEDULE.one_minus_alpha_bar.astype(np.float64))[ddim.step]
    _, b, c, _ = ddim.table.astype(np.float64).T
    np.testing.assert_allclose(c / std, ddpm.table[:, 0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(b - c * np.sqrt(alpha_bar) / std, ddpm.table[:, 1], rtol=2e-6, atol=1e-7)


def test_plans_compare_and_hash_by_value():
    one, same, other = (plans.ddim_plan(SCHEDULE, UNEVEN, eta) for eta in (0.0, 0.0, 0.6))
    assert one == same
    assert not (one != same)  # noqa: SIM202 (a tuple has a != of its own)
    assert one != other
    assert one != tuple(one)
    assert len({one, same, other}) == 2


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_ddim_step_keeps_the_noise_level(eta):
    """Song et al. 2021, lemma 1: c^2 + s^2 = 1 - alpha_bar at the next index."""
    plan = plans.ddim_plan(SCHEDULE, UNEVEN, eta)
    _, b, c, s = plan.table.astype(np.float64).T
    np.testing.assert_allclose(c**2 + s**2 + b**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(b[:-1] ** 2, SCHEDULE.alpha_bar[plan.step[1:]], rtol=1e-6)
    assert b[-1] == 1.0


@pytest.mark.parametrize(
    ("total", "steps", "spacing", "expected"),
    [
        (1000, 1, "linspace", (999,)),
        (1000, 3, "linspace", (999, 665, 332)),
        (1000, 5, "linspace", (999, 799, 599, 399, 199)),
        (1000, 2, "linspace", (999, 499)),
        (1000, 6, "linspace", (999, 832, 665, 499, 332, 165)),
        (1000, 7, "linspace", (999, 856, 713, 570, 427, 284, 141)),
        (1000, 9, "linspace", (999, 887, 776, 665, 554, 443, 332, 221, 110)),
        (50, 50, "linspace", tuple(range(49, -1, -1))),
        (24, 2, "even", (12, 0)),
        (12, 2, "even", (6, 0)),
        (6, 1, "even", (0,)),
        (7, 3, "even", (6, 4, 2, 0)),
        (50, 5, "quadratic", (40, 22, 10, 2, 0)),
    ],
)
def test_published_timesteps(total, steps, spacing, expected):
    assert plans.space_timesteps(total, steps, spacing) == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plans.ddim_plan(SCHEDULE, (0, 7, 20)), "decreasing"),
        (lambda: plans.ddim_plan(SCHEDULE, (50, 7)), "from 49 to 0"),
        (lambda: plans.ddim_plan(SCHEDULE, ()), "decreasing"),
        (lambda: plans.ddim_plan(SCHEDULE, 51), "1 to 50"),
        (lambda: plans.ddim_plan(SCHEDULE, 5, num_timesteps=51), "first 1 to 50"),
        (lambda: plans.ddim_plan(SCHEDULE, 5, eta=1.5), "eta"),
        (lambda: plans.ddim_plan(SCHEDULE, 5, spacing="leading"), "linspace, even, quadratic"),
        (lambda: plans.ddpm_plan(SCHEDULE, mean="v"), "x0, eps"),
        (lambda: plans.ddpm_plan(schedules.quadratic(1000)), "found 0 at step 816"),
    ],
)
def test_mistakes_in_a_plan_are_told(call, words):
    with pytest.raises(UserError, match=words):
        call()
