"""The mixture density network: its density is one, its draws follow it, it learns what keypoints leave open."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.mixture_density import (
    MixtureDensity,
    MixtureDensityNetwork,
    MixtureDensityOptions,
    PoseMixture,
)
from diffpose_jax.skeleton import H36M_17

from .toys import KEY, pose_batch

OPTIONS = MixtureDensityOptions(width=32, num_layers=1, components=2)


@pytest.fixture(scope="module")
def lifter() -> MixtureDensity:
    return MixtureDensity(MixtureDensityNetwork(H36M_17, OPTIONS), H36M_17, OPTIONS)


@pytest.fixture(scope="module")
def batch():
    return pose_batch(4, 1)


def test_the_density_is_that_of_scipy():
    rng = np.random.default_rng(0)
    weights, means = rng.dirichlet(np.ones(3), (1, 2)), rng.normal(size=(1, 2, 3, 4, 3))
    std, poses = rng.uniform(0.5, 1, (1, 2, 3, 4, 3)), rng.normal(size=(1, 2, 4, 3))
    parts = (jnp.asarray(part, jnp.float32) for part in (np.log(weights), means, std))
    found = PoseMixture(*parts).log_prob(jnp.asarray(poses, jnp.float32))
    densities = stats.norm.pdf(poses[:, :, None], means, std).prod(axis=(-2, -1))
    np.testing.assert_allclose(found, np.log((weights * densities).sum(axis=-1)), rtol=1e-4)


def test_draws_have_the_moments_of_the_mixture(lifter, batch):
    variables = lifter.init(KEY, batch)
    drawn = np.asarray(jax.jit(lifter.sample)(variables, KEY, batch, Sampling(4000)))
    mixture = lifter.network.apply(variables, batch.keypoints, train=False)
    weights = np.exp(mixture.log_weights)[..., None, None]
    mean = (weights * mixture.means).sum(axis=2)
    variance = (weights * (np.square(mixture.std) + np.square(mixture.means))).sum(axis=2) - np.square(mean)
    joints = np.arange(17) != H36M_17.root
    np.testing.assert_allclose(drawn.mean(axis=0)[..., joints, :], mean[..., joints, :], atol=0.08)
    np.testing.assert_allclose(drawn.var(axis=0)[..., joints, :], variance[..., joints, :], rtol=0.3)
    assert not drawn[..., H36M_17.root, :].any()


def test_a_temperature_of_zero_leaves_the_means_of_components(lifter, batch):
    variables = lifter.init(KEY, batch)
    drawn = np.asarray(lifter.sample(variables, KEY, batch, Sampling(6, temperature=0.0)))
    means = np.asarray(lifter.network.apply(variables, batch.keypoints, train=False).means)
    gaps = np.linalg.norm(drawn[:, :, :, None] - means[None], axis=-1)[..., 1:].max(axis=-1)
    assert gaps.min(axis=-1).max() < 1e-5


def test_training_raises_the_likelihood(lifter, batch):
    variables, optimizer = lifter.init(KEY, batch), optax.adam(1e-2)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state):
        value, gradient = jax.value_and_grad(lambda v: lifter.loss(v, KEY, batch)[0])(variables)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, updates), state, value

    losses = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(60):
            variables, state, value = step(variables, state)
            losses.append(float(value))
    assert losses[-1] < losses[0] - 1
