"""Samplers: exactness with an oracle, closed-form marginals, noise per example, states of the releases."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion import plans, process, samplers, schedules
from diffpose_jax.keys import example_keys

from .denoisers import predict_with

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
        signal, noise_variance = jnp.sqrt(alpha_bar), jnp.asarray(schedule.one_minus_alpha_bar)[k]
        m, v = (jnp.broadcast_to(moment, x.shape) for moment in (mean, variance))
        return m + signal * v / (alpha_bar * v + noise_variance) * (x - signal * m)

    return predict_with("x0", network, schedule)


def all_plans():
    return {
        "ddpm": plans.ddpm_plan(SCHEDULE),
        "ddpm_respaced": plans.ddpm_plan(SCHEDULE, 7),
        "ddim": plans.ddim_plan(SCHEDULE, 50),
        "ddim_uneven": plans.ddim_plan(SCHEDULE, UNEVEN),
        "ddim_uneven_noisy": plans.ddim_plan(SCHEDULE, UNEVEN, eta=0.6),
        "ddim_partway": plans.ddim_plan(SCHEDULE, 2, spacing="even", num_timesteps=24),
    }


@pytest.mark.parametrize("name", all_plans())
def test_an_oracle_denoiser_returns_x0_exactly(name):
    x0 = 0.3 * normal(1, (3, 2, 17, 3))
    x_init = normal(2, x0.shape)
    np.testing.assert_array_equal(samplers.sample(jax.random.key(3), oracle(x0), x_init, all_plans()[name]), x0)


@pytest.mark.parametrize("name", ["ddim", "ddim_uneven"])
def test_a_deterministic_sampler_stays_on_the_line_between_x0_and_its_noise(name):
    x0 = normal(1, (3, 1, 5, 3))
    eps = normal(2, x0.shape)
    plan = all_plans()[name]
    x_init = process.diffuse(SCHEDULE, x0, jnp.asarray(plan.step[0]), eps)
    _, trajectory = samplers.sample_trajectory(None, oracle(x0), x_init, plan)
    for state, k in zip(trajectory.x[:-1], plan.step[1:], strict=True):
        np.testing.assert_allclose(state, process.diffuse(SCHEDULE, x0, jnp.asarray(k), eps), atol=2e-4)


def test_both_forms_of_the_ddpm_mean_agree_when_nothing_is_clipped():
    """DiffHPE forms it from eps, DiffuPose from x0."""
    schedule = schedules.cosine(50, max_beta=0.5)
    denoiser = predict_with("eps", lambda x, k: jnp.tanh(x), schedule)
    x_init = normal(0, (2, 1, 17, 3))
    finals = [
        samplers.sample(jax.random.key(1), denoiser, x_init, plans.ddpm_plan(schedule, mean=form))
        for form in ("x0", "eps")
    ]
    np.testing.assert_allclose(finals[0], finals[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_gaussian_data_come_back_with_their_mean_and_variance(sampler):
    """With the exact posterior mean the sampler's law is known: the data's, up to the discretisation of 400 steps."""
    schedule = schedules.cosine(400)
    mean, variance = jnp.array([0.5, -1.0, 0.0]), jnp.array([0.25, 1.0, 2.25])
    plan = plans.ddpm_plan(schedule) if sampler == "ddpm" else plans.ddim_plan(schedule, 400)
    run = jax.jit(lambda key, x: samplers.sample(key, gaussian_posterior(mean, variance, schedule), x, plan))
    x_init = samplers.initial_noise(jax.random.key(0), (12_000, 1, 1, 3))
    final = np.asarray(run(jax.random.key(0), x_init), np.float64)[:, 0, 0]
    np.testing.assert_allclose(final.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(final.var(0), variance, rtol=0.04)


def test_a_process_around_a_mean_is_the_usual_one_in_centred_coordinates():
    mean = normal(5, (2, 1, 4, 3))
    x0 = normal(6, mean.shape)
    eps = normal(7, mean.shape)
    plan = plans.ddim_plan(SCHEDULE, UNEVEN)
    x_init = process.diffuse(SCHEDULE, x0, jnp.asarray(49), eps, mean)
    # The network takes poses, not centred coordinates, and predicts x0.
    denoiser = samplers.centred(lambda x, k: (x0, eps), mean)
    final, trajectory = samplers.sample_trajectory(None, denoiser, x_init - mean, plan)
    np.testing.assert_allclose(final + mean, x0, atol=1e-6)
    np.testing.assert_allclose(
        trajectory.x[1] + mean, process.diffuse(SCHEDULE, x0, jnp.asarray(20), eps, mean), atol=1e-5
    )


def test_noise_of_an_example_does_not_depend_on_its_batch():
    plan = plans.ddpm_plan(SCHEDULE)
    denoiser = predict_with("x0", lambda x, k: jnp.tanh(x), SCHEDULE)

    @jax.jit
    def poses(index):
        keys = example_keys(jax.random.key(8), index)
        return samplers.sample(keys, denoiser, samplers.initial_noise(keys, (len(index), 2, 5, 3)), plan)

    whole = poses(jnp.arange(5))
    np.testing.assert_allclose(poses(jnp.array([4, 2])), whole[jnp.array([4, 2])], atol=1e-6)
    np.testing.assert_allclose(poses(jnp.array([3, 2, 1, 0, 9]))[:4], whole[3::-1], atol=1e-6)
    assert np.unique(np.asarray(whole)).size > 0.9 * whole.size


def test_recorded_noise_is_replayed():
    plan = plans.ddim_plan(SCHEDULE, UNEVEN, eta=1.0)
    denoiser = predict_with("x0", lambda x, k: 0.5 * x, SCHEDULE)
    x = x_init = normal(0, (2, 1, 3, 3))
    noise = normal(1, (len(UNEVEN), *x.shape))
    for (a, b, c, s), k, z in zip(plan.table, plan.step, noise, strict=True):
        x0_hat, eps_hat = denoiser(x, jnp.asarray(k))
        x = float(a) * x + float(b) * x0_hat + float(c) * eps_hat + float(s) * z
    np.testing.assert_allclose(samplers.sample(None, denoiser, x_init, plan, noise=noise), x, atol=1e-5)


def test_a_deterministic_plan_draws_nothing_and_needs_no_key():
    x_init = jnp.ones((2, 1, 3, 3))
    plan = plans.ddim_plan(SCHEDULE, UNEVEN)

    def primitives(plan):
        return str(jax.make_jaxpr(lambda key: samplers.sample(key, oracle(x_init), x_init, plan))(jax.random.key(0)))

    assert "random_bits" in primitives(plans.ddim_plan(SCHEDULE, UNEVEN, eta=0.1))
    assert "random_bits" not in primitives(plan)
    assert samplers.sample(None, oracle(x_init), x_init, plan).shape == x_init.shape
    with pytest.raises(ValueError, match="key"):
        samplers.sample(None, oracle(x_init), x_init, plans.ddpm_plan(SCHEDULE))


def test_the_denoiser_is_traced_once_however_many_steps():
    traces = []

    def denoiser(x, k):
        traces.append(k)
        return x, x

    run = jax.jit(lambda key, x: samplers.sample(key, denoiser, x, plans.ddpm_plan(SCHEDULE)))
    run(jax.random.key(0), jnp.ones((2, 1, 3, 3)))
    run(jax.random.key(1), jnp.zeros((2, 1, 3, 3)))
    assert len(traces) == 1
    assert traces[0].shape == ()


def test_initial_noise_and_step_noise_of_one_key_are_apart():
    key = jax.random.key(0)
    shape = (4, 1, 17, 3)
    _, trajectory = samplers.sample_trajectory(
        key, lambda x, k: (jnp.zeros_like(x), jnp.zeros_like(x)), jnp.zeros(shape),
        plans.Plan(np.arange(4, -1, -1, dtype=np.int32), np.tile(np.float32([0, 0, 0, 1]), (5, 1))),
    )  # fmt: skip
    draws = np.asarray(jnp.concatenate([samplers.initial_noise(key, shape)[None], trajectory.x])).reshape(6, -1)
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
    found_x0, found = samplers.eps_without_root_release(oracle(x0), SCHEDULE.alpha_bar)(x, k)
    np.testing.assert_array_equal(found_x0, x0)
    expected = eps + (np.sqrt(alpha_bar) - alpha_bar) / np.sqrt(1 - alpha_bar) * x0
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "ddim_uneven", "ddim_uneven_noisy"])
def test_an_oracle_returns_x0_through_the_estimate_without_the_root_too(name):
    x0, x_init = 0.3 * normal(1, (3, 2, 17, 3)), normal(2, (3, 2, 17, 3))
    denoiser = samplers.eps_without_root_release(oracle(x0), SCHEDULE.alpha_bar)
    np.testing.assert_array_equal(samplers.sample(jax.random.key(3), denoiser, x_init, all_plans()[name]), x0)


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

        return samplers.flip_average(predict_with("x0", network, SCHEDULE), mirror)

    x, k = normal(1, condition.shape), jnp.asarray(30)
    straight = bound_to(condition)(x, k)
    mirrored = bound_to(mirror(condition))(mirror(x), k)
    for one, other in zip(straight, mirrored, strict=True):
        np.testing.assert_allclose(mirror(other), one, atol=1e-6)
    assert calls[0] == (6, 2, 5, 3)


def test_states_of_the_diffpose_release(parity):
    """Its DDIM: even, quadratic and stochastic, from the x0 that its network predicted."""
    arrays = parity("diffpose_sampler.npz")
    config = json.loads(str(arrays["meta"]))["config"]
    schedule = schedules.linear(config["num_diffusion_timesteps"], config["beta_start"], config["beta_end"])
    for case in config["cases"]:
        plan = plans.ddim_plan(schedule, case["seq"][::-1], case["eta"])
        states, x0_hats = arrays[f"out_{case['name']}_xs"], arrays[f"out_{case['name']}_x0"]
        # The eps of its network follows from its input and x0.
        std = np.sqrt(schedule.one_minus_alpha_bar[plan.step]).reshape(-1, 1, 1, 1)
        signal = np.sqrt(schedule.alpha_bar[plan.step]).reshape(-1, 1, 1, 1)
        eps_hats = (states[:-1] - signal * x0_hats) / std
        noise = arrays.get(f"in_{case['name']}_z")
        replay = recorded(plan, x0_hats, eps_hats)
        _, trajectory = samplers.sample_trajectory(
            None, replay, jnp.asarray(states[0]), plan, None if noise is None else jnp.asarray(noise)
        )
        np.testing.assert_allclose(trajectory.x, states[1:], atol=1e-5, err_msg=case["name"])


def test_a_step_of_the_diffhpe_release(parity):
    file = parity("diffhpe_sampler.npz")
    config = json.loads(str(file["meta"]))["config"]
    eps = {k: file[f"out_eps_at_t{k}"] for k in (49, 0)}
    x = {k: file[f"out_x_before_t{k}"] for k in (49, 48, 0)}
    beta, sigma, noise, samples = (file[name] for name in ("out_beta", "out_sigma", "in_noise", "out_samples"))
    schedule = schedules.cosine(config["num_steps"], max_beta=config["beta_end"])
    np.testing.assert_allclose(schedule.beta, beta, rtol=1e-6)
    plan = plans.ddpm_plan(schedule, mean="eps")
    np.testing.assert_allclose(plan.table[-2::-1, 3], sigma, rtol=1e-6)
    a, _, c, s = plan.table[0]
    np.testing.assert_allclose(a * x[49] + c * eps[49] + s * noise[0, 1], x[48], atol=1e-5)
    a, _, c, s = plan.table[-1]
    np.testing.assert_allclose(a * x[0] + c * eps[0], samples[:, 0], atol=1e-4)
    assert s == 0.0


def recorded(plan, x0_hats, eps_hats):
    order = jnp.zeros(int(plan.step[0]) + 1, jnp.int32).at[plan.step].set(np.arange(len(plan.step), dtype=np.int32))
    return lambda x, k: (jnp.asarray(x0_hats)[order[k]], jnp.asarray(eps_hats)[order[k]])
