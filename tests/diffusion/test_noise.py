"""Base distributions: their moments, and who shares a draw with whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion import noise
from diffpose_jax.keys import example_keys


def mixture(*lead: int, components: int = 3, channels: int = 2, full: bool = False) -> noise.Mixture:
    rng = np.random.default_rng(4)
    weights = rng.dirichlet(np.ones(components), size=lead).astype(np.float32)
    means = rng.normal(size=(*lead, components, channels)).astype(np.float32)
    variances = rng.uniform(0.1, 0.6, size=(*lead, components, channels)).astype(np.float32)
    if full:
        axes = rng.normal(scale=0.5, size=(*lead, components, channels, channels)).astype(np.float32)
        variances = axes @ np.swapaxes(axes, -1, -2) + 0.02 * np.eye(channels, dtype=np.float32)
    return noise.Mixture(jnp.asarray(weights), jnp.asarray(means), jnp.asarray(variances))


@pytest.mark.parametrize(
    "base",
    [noise.StandardNormal(), noise.ScaledNormal(jnp.array([[0.5, 2.0]] * 4)), mixture(4), mixture(4, full=True)],
    ids=["standard", "scaled", "diagonal mixture", "full mixture"],
)
def test_draws_have_the_stated_moments(base):
    mean, eps = base.draw(jax.random.key(0), (40_000, 1, 4, 2))
    drawn = np.asarray(mean + eps, np.float64)[:, 0]
    expected_mean, expected_variance = (np.broadcast_to(moment, (4, 2)) for moment in base.moments())
    np.testing.assert_allclose(drawn.mean(0), expected_mean, atol=0.04)
    np.testing.assert_allclose(drawn.var(0), expected_variance, rtol=0.04)
    # Noise is centred by itself: the mean is told apart, never hidden in it.
    np.testing.assert_allclose(np.asarray(eps, np.float64)[:, 0].mean(0), 0.0, atol=0.04)


def test_a_full_mixture_of_whole_poses_draws_one_component_for_all_joints():
    base = mixture(channels=8, full=True)
    mean, eps = base.draw(jax.random.key(0), (40_000, 1, 4, 2))
    picked = np.asarray(mean)[:, 0].reshape(-1, 1, 8) == np.asarray(base.means)
    assert np.all(picked.all(-1).sum(-1) == 1)
    np.testing.assert_allclose(picked.all(-1).mean(0), base.weights, atol=0.02)
    drawn = np.asarray(mean + eps, np.float64).reshape(-1, 8)
    expected_mean, expected_covariance = base.mean_and_covariance()
    np.testing.assert_allclose(drawn.mean(0), expected_mean, atol=0.04)
    np.testing.assert_allclose(np.cov(drawn.T), expected_covariance, atol=0.08)


def test_the_noise_of_a_component_has_its_covariance():
    base = mixture(4, full=True)
    mean, eps = base.draw(jax.random.key(5), (60_000, 1, 4, 2))
    for joint, component in ((0, 0), (3, 2)):
        hits = (np.asarray(mean)[:, 0, joint] == np.asarray(base.means)[joint, component]).all(-1)
        found = np.cov(np.asarray(eps, np.float64)[hits, 0, joint].T)
        np.testing.assert_allclose(found, base.covariances[joint, component], atol=0.05)


@pytest.mark.parametrize("lead", [(5,), (5, 30)], ids=["per example", "per frame"])
def test_mixtures_of_poses_may_have_examples_and_frames(lead):
    mean, eps = mixture(*lead, channels=8).draw(jax.random.key(2), (5, 30, 4, 2))
    assert mean.shape == eps.shape == (5, 30, 4, 2)
    assert np.array_equal(mean, np.broadcast_to(mean[:, :1], mean.shape)) == (len(lead) == 1)


def test_a_mixture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="7 dimensions"):
        mixture(channels=7).draw(jax.random.key(0), (2, 1, 4, 2))


def test_a_mixture_picks_its_components_by_weight():
    base = mixture(4)
    mean, _ = base.draw(jax.random.key(1), (20_000, 1, 4, 2))
    for joint in range(4):
        hits = np.asarray(mean)[:, 0, joint, None] == np.asarray(base.means)[joint]
        np.testing.assert_allclose(hits.all(-1).mean(0), base.weights[joint], atol=0.02)


def test_a_mixture_without_frames_keeps_its_component_over_frames():
    mean, eps = mixture(5, 4).draw(jax.random.key(2), (5, 30, 4, 2))
    np.testing.assert_array_equal(mean, np.broadcast_to(mean[:, :1], mean.shape))
    assert np.unique(np.asarray(eps)).size == eps.size


def test_a_mixture_with_frames_picks_per_frame():
    base = mixture(1, 1, 4)
    base = noise.Mixture(*(jnp.broadcast_to(part, (5, 30, *part.shape[2:])) for part in base))
    mean, _ = base.draw(jax.random.key(2), (5, 30, 4, 2))
    assert np.any(np.asarray(mean) != np.asarray(mean[:, :1]))


def test_a_component_of_weight_zero_is_never_picked():
    base = noise.Mixture(jnp.array([[1.0, 0.0]]), jnp.array([[[3.0], [jnp.nan]]]), jnp.zeros((1, 2, 1)))
    mean, eps = base.draw(jax.random.key(3), (100, 2, 1, 1))
    assert np.all(np.asarray(mean + eps) == 3.0)


@pytest.mark.parametrize(
    "cut",
    [
        lambda part: noise.StandardNormal(),
        lambda part: noise.ScaledNormal(jnp.array([0.5, 2.0])),
        lambda part: noise.Mixture(*(values[part] for values in mixture(6, 4))),
    ],
    ids=["standard", "scaled", "mixture"],
)
def test_an_example_does_not_depend_on_its_batch(cut):
    keys = example_keys(jax.random.key(7), jnp.arange(6))
    whole = cut(slice(0, 6)).draw(keys, (6, 3, 4, 2))
    tail = cut(slice(4, 6)).draw(keys[4:], (2, 3, 4, 2))
    for all_examples, last_two in zip(whole, tail, strict=True):
        np.testing.assert_array_equal(all_examples[4:], last_two)


def test_bases_are_pytrees_that_pass_through_jit():
    base = mixture(4)
    drawn = jax.jit(lambda base, key: base.draw(key, (2, 1, 4, 2)))(base, jax.random.key(0))
    for jitted, plain in zip(drawn, base.draw(jax.random.key(0), (2, 1, 4, 2)), strict=True):
        np.testing.assert_allclose(jitted, plain, rtol=1e-6)
