"""Samplers: exactness with an oracle, closed-form marginals, published step lists, replay of the releases' states."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion import process, samplers, schedules
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys

SCHEDULE = schedules.cosine(50)
UNEVEN = (49, 31, 20, 7, 0)


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def oracle(x0, schedule=SCHEDULE):
    def denoiser(x, k):
        return x0, process.to_eps(x, x0, process.at_step(schedule.alpha_bar, k, x))

    return denoiser


def gaussian_posterior(mean, variance, schedule):
    """The exact E[x0 | x_k] for data N(mean, variance), each `[C]`."""

    def network(x, k):
        alpha_bar = jnp.asarray(schedule.alpha_bar)[k]
        signal, spread = jnp.sqrt(alpha_bar), jnp.asarray(schedule.one_minus_alpha_bar)[k]
        m, v = (jnp.broadcast_to(moment, x.shape) for moment in (mean, variance))
        return m + signal * v / (alpha_bar * v + spread) * (x - signal * m)

    return samplers.predict_with("x0", network, schedule)


def plans():
    return {
        "ddpm": samplers.ddpm_plan(SCHEDULE),
        "ddpm_respaced": samplers.ddpm_plan(SCHEDULE, 7),
        "ddim": samplers.ddim_plan(SCHEDULE, 50),
        "ddim_uneven": samplers.ddim_plan(SCHEDULE, UNEVEN),
        "ddim_uneven_noisy": samplers.ddim_plan(SCHEDULE, UNEVEN, eta=0.6),
        "ddim_partway": samplers.ddim_plan(SCHEDULE, 2, spacing="even", span=24),
    }


@pytest.mark.parametrize("name", plans())
def test_an_oracle_denoiser_returns_x0_exactly(name):
    x0 = 0.3 * normal(1, (3, 2, 17, 3))
    x_init = normal(2, x0.shape)
    np.testing.assert_array_equal(samplers.sample(jax.random.key(3), oracle(x0), x_init, plans()[name]), x0)


@pytest.mark.parametrize("name", ["ddim", "ddim_uneven"])
def test_a_deterministic_walk_stays_on_the_line_between_x0_and_its_noise(name):
    x0 = normal(1, (3, 1, 5, 3))
    eps = normal(2, x0.shape)
    plan = plans()[name]
    x_init = process.diffuse(SCHEDULE, x0, jnp.asarray(plan.step[0]), eps)
    _, walk = samplers.sample(None, oracle(x0), x_init, plan, trajectory=True)
    for state, k in zip(walk.x[:-1], plan.step[1:], strict=True):
        np.testing.assert_allclose(state, process.diffuse(SCHEDULE, x0, jnp.asarray(k), eps), atol=2e-4)


def test_ddpm_coefficients_are_the_posterior_of_the_schedule():
    plan = samplers.ddpm_plan(SCHEDULE)
    np.testing.assert_array_equal(plan.step, np.arange(49, -1, -1))
    np.testing.assert_allclose(plan.table[::-1, 0], SCHEDULE.posterior_mean_x, rtol=3e-7)
    np.testing.assert_allclose(plan.table[::-1, 1], SCHEDULE.posterior_mean_x0, rtol=3e-7)
    np.testing.assert_allclose(plan.table[::-1, 3] ** 2, SCHEDULE.posterior_variance, rtol=5e-7)
    np.testing.assert_array_equal(plan.table[:, 2], 0.0)


def test_a_respaced_ddpm_is_the_ddpm_of_the_subset():
    steps = np.array(UNEVEN)
    alpha_bar = np.cumprod(1 - SCHEDULE.beta.astype(np.float64))[steps[::-1]]
    subset = schedules.from_betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))
    np.testing.assert_allclose(
        samplers.ddpm_plan(SCHEDULE, UNEVEN).table, samplers.ddpm_plan(subset).table, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("steps", [50, UNEVEN])
def test_ddim_with_eta_one_is_ddpm(steps):
    ddim, ddpm = samplers.ddim_plan(SCHEDULE, steps, eta=1.0), samplers.ddpm_plan(SCHEDULE, steps)
    np.testing.assert_array_equal(ddim.step, ddpm.step)
    np.testing.assert_allclose(ddim.table[:, 3], ddpm.table[:, 3], rtol=1e-6)
    # The means agree too, once eps_hat is written out in x and x0_hat.
    alpha_bar = SCHEDULE.alpha_bar.astype(np.float64)[ddim.step]
    spread = np.sqrt(SCHEDULE.one_minus_alpha_bar.astype(np.float64))[ddim.step]
    _, b, c, _ = ddim.table.astype(np.float64).T
    np.testing.assert_allclose(c / spread, ddpm.table[:, 0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(b - c * np.sqrt(alpha_bar) / spread, ddpm.table[:, 1], rtol=2e-6, atol=1e-7)


def test_plans_compare_and_hash_by_value():
    one, same, other = plans()["ddim_uneven"], plans()["ddim_uneven"], plans()["ddim_uneven_noisy"]
    assert one == same
    assert not (one != same)  # noqa: SIM202 (a tuple has a != of its own)
    assert one != other
    assert one != tuple(one)
    assert len({one, same, other}) == 2


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_ddim_step_keeps_the_noise_level(eta):
    """Song et al. 2021, lemma 1: c^2 + s^2 = 1 - alpha_bar at the next index."""
    plan = samplers.ddim_plan(SCHEDULE, UNEVEN, eta)
    _, b, c, s = plan.table.astype(np.float64).T
    np.testing.assert_allclose(c**2 + s**2 + b**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(b[:-1] ** 2, SCHEDULE.alpha_bar[plan.step[1:]], rtol=1e-6)
    assert b[-1] == 1.0


def test_both_forms_of_the_ddpm_mean_agree_when_nothing_is_clipped():
    """DiffHPE walks in eps, DiffuPose in x0."""
    schedule = schedules.cosine(50, max_beta=0.5)
    denoiser = samplers.predict_with("eps", lambda x, k: jnp.tanh(x), schedule)
    x_init = normal(0, (2, 1, 17, 3))
    finals = [
        samplers.sample(jax.random.key(1), denoiser, x_init, samplers.ddpm_plan(schedule, mean=form))
        for form in ("x0", "eps")
    ]
    np.testing.assert_allclose(finals[0], finals[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_gaussian_data_come_back_with_their_mean_and_variance(sampler):
    """With the exact posterior mean the sampler's law is known: the data's, up to the discretisation of 400 steps."""
    schedule = schedules.cosine(400)
    mean, variance = jnp.array([0.5, -1.0, 0.0]), jnp.array([0.25, 1.0, 2.25])
    plan = samplers.ddpm_plan(schedule) if sampler == "ddpm" else samplers.ddim_plan(schedule, 400)
    walk = jax.jit(lambda key, x: samplers.sample(key, gaussian_posterior(mean, variance, schedule), x, plan))
    x_init = samplers.initial_noise(jax.random.key(0), (12_000, 1, 1, 3))
    final = np.asarray(walk(jax.random.key(0), x_init), np.float64)[:, 0, 0]
    np.testing.assert_allclose(final.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(final.var(0), variance, rtol=0.04)


def test_a_process_around_a_mean_is_the_usual_one_in_centred_coordinates():
    mean = normal(5, (2, 1, 4, 3))
    x0 = normal(6, mean.shape)
    eps = normal(7, mean.shape)
    plan = samplers.ddim_plan(SCHEDULE, UNEVEN)
    x_init = process.diffuse(SCHEDULE, x0, jnp.asarray(49), eps, mean)
    # The network knows poses, not centred coordinates: it predicts x0 in the frame of x.
    denoiser = samplers.centred(lambda x, k: (x0, eps), mean)
    final, walk = samplers.sample(None, denoiser, x_init - mean, plan, trajectory=True)
    np.testing.assert_allclose(final + mean, x0, atol=1e-6)
    np.testing.assert_allclose(walk.x[1] + mean, process.diffuse(SCHEDULE, x0, jnp.asarray(20), eps, mean), atol=1e-5)


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
def test_published_step_lists(total, steps, spacing, expected):
    assert samplers.spaced_steps(total, steps, spacing) == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: samplers.ddim_plan(SCHEDULE, (0, 7, 20)), "decreasing"),
        (lambda: samplers.ddim_plan(SCHEDULE, (50, 7)), "from 49 to 0"),
        (lambda: samplers.ddim_plan(SCHEDULE, ()), "decreasing"),
        (lambda: samplers.ddim_plan(SCHEDULE, 51), "1 to 50"),
        (lambda: samplers.ddim_plan(SCHEDULE, 5, span=51), "span"),
        (lambda: samplers.ddim_plan(SCHEDULE, 5, eta=1.5), "eta"),
        (lambda: samplers.ddim_plan(SCHEDULE, 5, spacing="leading"), "linspace, even, quadratic"),
        (lambda: samplers.ddpm_plan(SCHEDULE, mean="v"), "x0, eps"),
    ],
)
def test_mistakes_in_a_plan_are_told(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_noise_of_an_example_does_not_depend_on_its_batch():
    plan = samplers.ddpm_plan(SCHEDULE)
    denoiser = samplers.predict_with("x0", lambda x, k: jnp.tanh(x), SCHEDULE)

    @jax.jit
    def poses(index):
        keys = example_keys(jax.random.key(8), index)
        return samplers.sample(keys, denoiser, samplers.initial_noise(keys, (len(index), 2, 5, 3)), plan)

    whole = poses(jnp.arange(5))
    np.testing.assert_allclose(poses(jnp.array([4, 2])), whole[jnp.array([4, 2])], atol=1e-6)
    np.testing.assert_allclose(poses(jnp.array([3, 2, 1, 0, 9]))[:4], whole[3::-1], atol=1e-6)
    assert np.unique(np.asarray(whole)).size > 0.9 * whole.size


def test_recorded_noise_is_replayed():
    plan = samplers.ddim_plan(SCHEDULE, UNEVEN, eta=1.0)
    denoiser = samplers.predict_with("x0", lambda x, k: 0.5 * x, SCHEDULE)
    x = x_init = normal(0, (2, 1, 3, 3))
    noise = normal(1, (len(UNEVEN), *x.shape))
    for (a, b, c, s), k, z in zip(plan.table, plan.step, noise, strict=True):
        x0_hat, eps_hat = denoiser(x, jnp.asarray(k))
        x = float(a) * x + float(b) * x0_hat + float(c) * eps_hat + float(s) * z
    np.testing.assert_allclose(samplers.sample(None, denoiser, x_init, plan, noise=noise), x, atol=1e-5)


def test_a_deterministic_plan_draws_nothing_and_needs_no_key():
    x_init = jnp.ones((2, 1, 3, 3))
    plan = samplers.ddim_plan(SCHEDULE, UNEVEN)

    def primitives(plan):
        return str(jax.make_jaxpr(lambda key: samplers.sample(key, oracle(x_init), x_init, plan))(jax.random.key(0)))

    assert "random_bits" in primitives(samplers.ddim_plan(SCHEDULE, UNEVEN, eta=0.1))
    assert "random_bits" not in primitives(plan)
    assert samplers.sample(None, oracle(x_init), x_init, plan).shape == x_init.shape
    with pytest.raises(ValueError, match="key"):
        samplers.sample(None, oracle(x_init), x_init, samplers.ddpm_plan(SCHEDULE))


def test_the_denoiser_is_traced_once_however_many_steps():
    traces = []

    def denoiser(x, k):
        traces.append(k)
        return x, x

    walk = jax.jit(lambda key, x: samplers.sample(key, denoiser, x, samplers.ddpm_plan(SCHEDULE)))
    walk(jax.random.key(0), jnp.ones((2, 1, 3, 3)))
    walk(jax.random.key(1), jnp.zeros((2, 1, 3, 3)))
    assert len(traces) == 1
    assert traces[0].shape == ()


def test_initial_noise_and_step_noise_of_one_key_are_apart():
    key = jax.random.key(0)
    shape = (4, 1, 17, 3)
    _, walk = samplers.sample(
        key, lambda x, k: (jnp.zeros_like(x), jnp.zeros_like(x)), jnp.zeros(shape),
        samplers.Plan(np.arange(4, -1, -1, dtype=np.int32), np.tile(np.float32([0, 0, 0, 1]), (5, 1))), trajectory=True,
    )  # fmt: skip
    draws = np.asarray(jnp.concatenate([samplers.initial_noise(key, shape)[None], walk.x])).reshape(6, -1)
    correlation = np.corrcoef(draws)
    assert np.max(np.abs(correlation - np.eye(6))) < 0.3


def test_clipping_limits_x0_and_recomputes_eps_when_asked():
    x = jnp.full((1, 1, 1, 3), 2.0)
    far = lambda x, k: (5.0 * x, jnp.zeros_like(x))  # noqa: E731
    k = jnp.asarray(10)
    x0_hat, eps_hat = samplers.clip_x0(far, SCHEDULE.alpha_bar, -1.1, 1.1)(x, k)
    np.testing.assert_array_equal(x0_hat, np.float32(1.1))
    np.testing.assert_allclose(process.diffuse(SCHEDULE, x0_hat, k, eps_hat), x, rtol=1e-5)  # the pair still explains x
    _, kept = samplers.clip_x0(far, SCHEDULE.alpha_bar, -1.1, 1.1, recompute_eps=False)(x, k)
    np.testing.assert_array_equal(kept, 0.0)


def test_the_noise_estimate_without_the_root_is_off_by_the_difference_of_the_roots():
    x0, eps, k = normal(0, (2, 1, 4, 3)), normal(1, (2, 1, 4, 3)), jnp.asarray(20)
    alpha_bar = float(SCHEDULE.alpha_bar[20])
    x = process.diffuse(SCHEDULE, x0, k, eps)
    found_x0, found = samplers.eps_without_root(oracle(x0), SCHEDULE.alpha_bar)(x, k)
    np.testing.assert_array_equal(found_x0, x0)
    expected = eps + (np.sqrt(alpha_bar) - alpha_bar) / np.sqrt(1 - alpha_bar) * x0
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "ddim_uneven", "ddim_uneven_noisy"])
def test_an_oracle_returns_x0_through_the_estimate_without_the_root_too(name):
    x0, x_init = 0.3 * normal(1, (3, 2, 17, 3)), normal(2, (3, 2, 17, 3))
    denoiser = samplers.eps_without_root(oracle(x0), SCHEDULE.alpha_bar)
    np.testing.assert_array_equal(samplers.sample(jax.random.key(3), denoiser, x_init, plans()[name]), x0)


def test_flip_averaging_makes_a_denoiser_equivariant_in_one_call():
    def mirror(x):
        return x * jnp.array([-1.0, 1.0, 1.0]).reshape(1, 1, 1, 3)

    condition = normal(0, (3, 2, 5, 3))
    calls = []

    def bound_to(condition):
        doubled = jnp.concatenate([condition, mirror(condition)])

        def network(x, k):
            calls.append(x.shape)
            return jnp.tanh(x + 2.0 * doubled + 0.7)

        return samplers.flip_average(samplers.predict_with("x0", network, SCHEDULE), mirror)

    x, k = normal(1, condition.shape), jnp.asarray(30)
    straight = bound_to(condition)(x, k)
    mirrored = bound_to(mirror(condition))(mirror(x), k)
    for one, other in zip(straight, mirrored, strict=True):
        np.testing.assert_allclose(mirror(other), one, atol=1e-6)
    assert calls[0] == (6, 2, 5, 3)


def test_states_of_the_diffpose_release(parity):
    """Its DDIM walks: even, quadratic and stochastic, from the x0 that its network predicted."""
    arrays = parity("diffpose_sampler.npz")
    config = json.loads(str(arrays["meta"]))["config"]
    schedule = schedules.linear(config["num_diffusion_timesteps"], config["beta_start"], config["beta_end"])
    for case in config["cases"]:
        plan = samplers.ddim_plan(schedule, case["seq"][::-1], case["eta"])
        states, x0_hats = arrays[f"out_{case['name']}_xs"], arrays[f"out_{case['name']}_x0"]
        # The network's eps, from the state it saw and the x0 it implied.
        spread = np.sqrt(schedule.one_minus_alpha_bar[plan.step]).reshape(-1, 1, 1, 1)
        signal = np.sqrt(schedule.alpha_bar[plan.step]).reshape(-1, 1, 1, 1)
        eps_hats = (states[:-1] - signal * x0_hats) / spread
        noise = arrays.get(f"in_{case['name']}_z")
        replay = recorded(plan, x0_hats, eps_hats)
        _, walk = samplers.sample(
            None, replay, jnp.asarray(states[0]), plan, None if noise is None else jnp.asarray(noise), trajectory=True
        )
        np.testing.assert_allclose(walk.x, states[1:], atol=1e-5, err_msg=case["name"])


def test_a_step_of_the_diffhpe_release(parity):
    file = parity("diffhpe_sampler.npz")
    config = json.loads(str(file["meta"]))["config"]
    eps = {k: file[f"out_eps_at_t{k}"] for k in (49, 0)}
    x = {k: file[f"out_x_before_t{k}"] for k in (49, 48, 0)}
    beta, sigma, noise, samples = (file[name] for name in ("out_beta", "out_sigma", "in_noise", "out_samples"))
    schedule = schedules.cosine(config["num_steps"], max_beta=config["beta_end"])
    np.testing.assert_allclose(schedule.beta, beta, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(schedule.posterior_variance[1:]), sigma, rtol=1e-6)
    plan = samplers.ddpm_plan(schedule, mean="eps")
    a, _, c, s = plan.table[0]
    np.testing.assert_allclose(a * x[49] + c * eps[49] + s * noise[0, 1], x[48], atol=1e-5)
    a, _, c, s = plan.table[-1]
    np.testing.assert_allclose(a * x[0] + c * eps[0], samples[:, 0], atol=1e-4)
    assert s == 0.0


def recorded(plan, x0_hats, eps_hats):
    order = jnp.zeros(int(plan.step[0]) + 1, jnp.int32).at[plan.step].set(np.arange(len(plan.step), dtype=np.int32))
    return lambda x, k: (jnp.asarray(x0_hats)[order[k]], jnp.asarray(eps_hats)[order[k]])
