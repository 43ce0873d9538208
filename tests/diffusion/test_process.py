"""The forward process, the conversions between x0, eps and v, and the loss weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion import process, schedules
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys
from diffpose_jax.mixtures.mixture import Mixture

SCHEDULE = schedules.cosine(100)


@pytest.fixture
def arrays():
    return tuple(jnp.asarray(np.random.default_rng(seed).normal(size=(4, 2, 5, 3)), jnp.float32) for seed in range(3))


def test_diffusing_follows_the_equation_in_float64(arrays):
    x0, eps, mean = (np.asarray(array, np.float64) for array in arrays)
    k = np.array([0, 13, 60, 99])
    alpha_bar = np.cumprod(1 - SCHEDULE.beta.astype(np.float64))[k].reshape(4, 1, 1, 1)
    expected = mean + np.sqrt(alpha_bar) * (x0 - mean) + np.sqrt(1 - alpha_bar) * eps
    found = process.diffuse(SCHEDULE, arrays[0], jnp.asarray(k), arrays[1], arrays[2])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_one_step_for_all_examples_is_the_same_step_for_each(arrays):
    x0, eps, _ = arrays
    for_all = process.diffuse(SCHEDULE, x0, jnp.asarray(40), eps)
    for_each = process.diffuse(SCHEDULE, x0, jnp.full(4, 40), eps)
    np.testing.assert_array_equal(for_all, for_each)


def test_the_noisiest_step_is_a_draw_from_the_base():
    base = Mixture(jnp.array([0.3, 0.7]), jnp.array([[-2.0], [1.0]]), jnp.array([[0.1], [0.4]]))
    repeated = Mixture(*(jnp.broadcast_to(part, (20_000, 1, 1, *part.shape)) for part in base))
    mean, eps = repeated.draw(jax.random.key(0))
    x = np.asarray(process.diffuse(SCHEDULE, jnp.full(mean.shape, 5.0), jnp.asarray(99), eps, mean))
    expected_mean, expected_variance = base.mean_and_covariance()
    np.testing.assert_allclose(x.mean(), expected_mean[0], atol=0.03)
    np.testing.assert_allclose(x.var(), expected_variance[0], rtol=0.03)


@pytest.mark.parametrize("k", [3, 50, 90])
@pytest.mark.parametrize("kind", process.PREDICTION_KINDS)
def test_a_perfect_prediction_of_any_kind_gives_back_x0_and_eps(arrays, kind, k):
    x0, eps, _ = arrays
    steps = jnp.array([k, k, k + 1, k + 2])
    x_k = process.diffuse(SCHEDULE, x0, steps, eps)
    alpha_bar = jnp.asarray(SCHEDULE.alpha_bar)[steps]
    output = process.target(kind, x0, eps, alpha_bar)
    x0_hat, eps_hat = process.predictions(kind, output, x_k, alpha_bar)
    np.testing.assert_allclose(x0_hat, x0, atol=3e-5)
    np.testing.assert_allclose(eps_hat, eps, atol=3e-5)


def test_unknown_kinds_are_refused_with_the_known_ones(arrays):
    with pytest.raises(UserError, match="eps, x0, v"):
        process.target("noise", arrays[0], arrays[1])
    with pytest.raises(UserError, match="eps, x0, v"):
        process.predictions("score", arrays[0], arrays[1], jnp.asarray(0.5))
    with pytest.raises(ValueError, match="alpha_bar_k"):
        process.target("v", arrays[0], arrays[1])


@pytest.mark.parametrize("per_example", [False, True])
def test_training_steps_are_uniform(per_example):
    key = jax.random.key(1)
    key = example_keys(key, jnp.arange(20_000)) if per_example else key
    steps = np.asarray(process.draw_timesteps(key, 20_000, 10))
    assert steps.dtype == np.int32
    np.testing.assert_allclose(np.bincount(steps, minlength=10) / 20_000, 0.1, atol=0.01)


def test_signal_to_noise_weights_of_diff3dhpe():
    schedule = schedules.cosine(1000)
    t = np.array([0, 265, 300, 400, 500, 700, 900, 999])
    paper, release = process.snr_weight(schedule), process.snr_weight(schedule, release=True)
    np.testing.assert_allclose(paper[t], [3, 3, 2.9144, 2.3508, 1.9847, 1.5029, 1.1555, 1.0], atol=1e-4)
    np.testing.assert_allclose(release[t], [3, 3, 2.6968, 2.0857, 1.6909, 1.2260, 1.0239, 1.0], atol=1e-4)
    np.testing.assert_allclose([paper.mean(), release.mean()], [2.095, 1.928], atol=1e-3)
    assert np.flatnonzero(paper == 3.0)[-1] == 288
    assert np.flatnonzero(release == 3.0)[-1] == 265
