"""The Gaussian of an estimator's errors: its draws err as the estimator did."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.error_gaussian import fit_error_gaussian

JOINTS, FRAMES, ROOT = 4, 400, 1


@pytest.fixture(scope="module")
def errors() -> np.ndarray:
    """Correlated errors `[400, 4, 3]` of all joints but the root."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(9, 9)) / 30
    found = np.zeros((FRAMES, JOINTS, 3))
    found[:, np.arange(JOINTS) != ROOT] = (rng.normal(size=(FRAMES, 9)) @ mixing.T).reshape(FRAMES, 3, 3)
    return found


def covariance(errors: np.ndarray) -> np.ndarray:
    flat = np.delete(errors, ROOT, axis=-2).reshape(-1, 9)
    return flat.T @ flat / len(flat)


def test_draws_have_the_covariance_of_the_errors_and_the_mean_of_the_estimate(errors):
    estimate = np.random.default_rng(1).normal(size=(2, JOINTS, 3))
    drawn = fit_error_gaussian(errors, np.zeros_like(errors), ROOT).draw(estimate, 20_000)
    np.testing.assert_allclose(drawn.mean(axis=1), estimate, atol=0.004)
    np.testing.assert_allclose(covariance(drawn - estimate[:, None]), covariance(errors), atol=3e-4)
    np.testing.assert_array_equal(drawn[:, :, ROOT], np.repeat(estimate[:, None, ROOT], 20_000, 1).astype(np.float32))


def test_independent_joints_keep_their_own_covariance_and_lose_the_others(errors):
    drawn = fit_error_gaussian(errors, np.zeros_like(errors), ROOT, "joint").draw(np.zeros((1, JOINTS, 3)), 20_000)
    found, expected = covariance(drawn), covariance(errors)
    for joint in range(3):
        block = slice(3 * joint, 3 * joint + 3)
        np.testing.assert_allclose(found[block, block], expected[block, block], atol=3e-4)
    np.testing.assert_allclose(found[:3, 3:], 0, atol=3e-4)


def test_draws_depend_on_the_seed_alone(errors):
    gaussian = fit_error_gaussian(errors, np.zeros_like(errors), ROOT)
    once, again = (gaussian.draw(errors[:3], 2, seed=4) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - gaussian.draw(errors[:3], 2, seed=5)).max() > 0.001


def test_parts_are_the_draws_of_all_frames_at_once(errors):
    gaussian, estimates = fit_error_gaussian(errors, np.zeros_like(errors), ROOT), np.tile(errors, (2, 1, 1))
    parts = list(gaussian.draw_parts(estimates, 3))
    assert len(parts) > 1
    noise = np.random.default_rng(0).standard_normal((800, 3, 9), np.float32) @ gaussian.factor.T.astype(np.float32)
    drawn = np.concatenate(parts) - estimates[:, None]
    np.testing.assert_allclose(np.delete(drawn, ROOT, axis=2).reshape(800, 3, 9), noise, atol=1e-6)


def test_too_few_frames_are_named(errors):
    with pytest.raises(UserError, match="covariance of errors: expected at least 18 frames, found 17"):
        fit_error_gaussian(errors[:17], np.zeros_like(errors[:17]), ROOT)
