"""Cholesky factors beside numpy's, and noise scaled by them and whitened again."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.mixtures.covariance import cholesky, diagonal_matrix, scale_by_factor, whiten


def random_covariances(size: int) -> np.ndarray:
    axes = np.random.default_rng(size).normal(size=(3, size, size + 2)).astype(np.float32)
    return axes @ np.swapaxes(axes, 1, 2)


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_cholesky_factors_give_back_the_matrix(size):
    matrices = random_covariances(size)
    np.testing.assert_allclose(cholesky(jnp.asarray(matrices)), np.linalg.cholesky(matrices), atol=1e-4)
    singular = cholesky(jnp.ones((size, size)), 1e-6)
    assert np.isfinite(singular).all()


def test_cholesky_factors_of_numpy_arrays_keep_their_double_precision():
    matrices = random_covariances(3).astype(np.float64)
    factors = cholesky(matrices)
    assert isinstance(factors, np.ndarray)
    np.testing.assert_allclose(factors, np.linalg.cholesky(matrices), rtol=1e-12, atol=1e-12)


def test_scaled_noise_has_the_covariance_and_whitening_is_the_way_back():
    covariance = random_covariances(3)[:1]
    factor = cholesky(jnp.asarray(covariance))
    normal = jnp.asarray(np.random.default_rng(0).normal(size=(40_000, 3)), jnp.float32)
    noise = scale_by_factor(factor, normal)
    scale = np.trace(covariance[0])
    np.testing.assert_allclose(np.cov(np.asarray(noise, np.float64).T), covariance[0], atol=0.02 * scale)
    np.testing.assert_allclose(whiten(factor, noise), normal, atol=1e-4)


def test_standard_deviations_scale_each_coordinate():
    normal = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
    deviations = jnp.array([[0.5, 2.0, 1.0]])
    as_matrix = scale_by_factor(diagonal_matrix(deviations), normal)
    np.testing.assert_allclose(scale_by_factor(deviations, normal), as_matrix, rtol=1e-6)
