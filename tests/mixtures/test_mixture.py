"""Mixtures of Gaussians: densities beside scipy's, moments, and who shares a draw with whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from diffpose_jax.keys import example_keys
from diffpose_jax.mixtures.mixture import Mixture, draw_component, log_weights, take_component

KEY = jax.random.key(0)
# Compiled: operation by operation, drawing takes longer than all else here.
draw, log_prob = jax.jit(Mixture.draw), jax.jit(Mixture.log_prob)


def mixture(*lead: int, components: int = 3, size: int = 2, full: bool = True) -> Mixture:
    """Random mixtures with the given leading axes, as float32 JAX arrays."""
    rng = np.random.default_rng(4)
    weights = rng.dirichlet(np.ones(components), size=lead)
    means = rng.normal(size=(*lead, components, size))
    covariances = rng.uniform(0.1, 0.6, size=(*lead, components, size))
    if full:
        axes = rng.normal(scale=0.5, size=(*lead, components, size, size))
        covariances = axes @ np.swapaxes(axes, -1, -2) + 0.02 * np.eye(size)
    return Mixture(*(jnp.asarray(part, jnp.float32) for part in (weights, means, covariances)))


def repeat(base: Mixture, count: int) -> Mixture:
    """The same mixtures for each of `count` examples."""
    return Mixture(*(jnp.broadcast_to(part, (count, *part.shape)) for part in base))


@pytest.mark.parametrize("full", [True, False], ids=["full", "diagonal"])
@pytest.mark.parametrize("size", [2, 6])
def test_densities_are_those_of_scipy(full, size):
    base = mixture(2, size=size, full=full)
    points = np.random.default_rng(0).normal(size=(2, 9, size)).astype(np.float32)
    found = log_prob(base, jnp.asarray(points))
    for i in range(2):
        covariances = base.covariances[i] if full else [np.diag(variances) for variances in base.covariances[i]]
        components = [multivariate_normal(*moments) for moments in zip(base.means[i], covariances, strict=True)]
        expected = sum(w * component.pdf(points[i]) for w, component in zip(base.weights[i], components, strict=True))
        np.testing.assert_allclose(found[i], np.log(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("full", [True, False], ids=["full", "diagonal"])
def test_draws_have_the_moments_of_the_mixture(full):
    base = mixture(4, full=full)
    mean, noise = draw(repeat(base, 40_000), KEY)
    drawn = np.asarray(mean + noise, np.float64)
    expected_mean, expected = base.mean_and_covariance()
    np.testing.assert_allclose(drawn.mean(0), expected_mean, atol=0.04)
    for joint in range(4):
        covariance = expected[joint] if full else np.diag(expected[joint])
        found = np.cov(drawn[:, joint].T)
        found = found if full else np.diag(np.diag(found))
        np.testing.assert_allclose(found, covariance, atol=0.04 * np.trace(covariance))
    # The noise is centred by itself: the mean is returned apart from it.
    np.testing.assert_allclose(np.asarray(noise, np.float64).mean(0), 0.0, atol=0.04)


def test_the_noise_of_a_component_has_its_covariance_and_components_have_their_weights():
    base = mixture(4)
    mean, noise = draw(repeat(base, 40_000), KEY)
    for joint, component in ((0, 0), (3, 2)):
        hits = (np.asarray(mean)[:, joint] == np.asarray(base.means)[joint, component]).all(-1)
        np.testing.assert_allclose(hits.mean(), base.weights[joint, component], atol=0.02)
        found = np.cov(np.asarray(noise, np.float64)[hits, joint].T)
        np.testing.assert_allclose(found, base.covariances[joint, component], atol=0.05)


def test_a_mixture_of_whole_poses_draws_one_component_for_all_joints():
    base = mixture(size=8)
    mean, noise = draw(repeat(base, 40_000), KEY)
    chosen = (np.asarray(mean)[:, None] == np.asarray(base.means)).all(-1)
    assert np.all(chosen.sum(-1) == 1)
    np.testing.assert_allclose(chosen.mean(0), base.weights, atol=0.02)
    expected_mean, expected_covariance = base.mean_and_covariance()
    drawn = np.asarray(mean + noise, np.float64)
    np.testing.assert_allclose(drawn.mean(0), expected_mean, atol=0.04)
    np.testing.assert_allclose(np.cov(drawn.T), expected_covariance, atol=0.08)


def test_one_index_for_all_joints_takes_the_same_component_of_each():
    base = mixture(5, 30, 4)
    index = draw_component(KEY, log_weights(base.weights[:, :, :1]))
    assert index.shape == (5, 30, 1)
    found = take_component(base.covariances, index)
    for b, f, j in ((0, 0, 0), (4, 29, 3), (2, 7, 1)):
        np.testing.assert_array_equal(found[b, f, j], base.covariances[b, f, j, index[b, f, 0]])


def test_a_component_of_weight_zero_is_never_drawn():
    base = Mixture(jnp.array([[1.0, 0.0]]), jnp.array([[[3.0], [jnp.nan]]]), jnp.zeros((1, 2, 1)))
    mean, noise = draw(repeat(base, 200), KEY)
    assert np.all(np.asarray(mean + noise) == 3.0)


def test_a_draw_of_an_example_does_not_depend_on_its_batch():
    base = mixture(6, 3, 4)
    keys = example_keys(KEY, jnp.arange(6))
    whole = draw(base, keys)
    assert whole[0].shape == (6, 3, 4, 2)
    last_two = draw(Mixture(*(part[4:] for part in base)), keys[4:])
    for all_examples, part in zip(whole, last_two, strict=True):
        np.testing.assert_array_equal(all_examples[4:], part)
    with pytest.raises(ValueError, match=r"\[6\]"):
        base.draw(keys[:5])
