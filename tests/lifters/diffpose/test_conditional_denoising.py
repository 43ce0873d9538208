"""The likeliest pose is Bayes', and the three objectives compare what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffpose_jax.lifters.diffpose.conditional_denoising import Condition, compared, likeliest

from diffpose_jax.diffusion.process import diffuse
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.lifters.base import Batch

from .heatmap_batch import FRAMES, STATISTICS, B, J, draw, from_keypoints, heatmap_batch, initial, normals

SCHEDULE = cosine(50)
KEY = jax.random.key(3)
normal = normals(3)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return heatmap_batch()


def drawn(batch: Batch) -> Condition:
    base = initial(batch, batch.mixture)
    component = draw(jax.random.split(KEY, B), base)
    return Condition(batch.keypoints, from_keypoints(batch), None, base, component)


def test_the_likeliest_pose_is_that_of_the_joint_gaussian(batch):
    """Conditioning (h_0, h_k) on h_k, written with the covariance of both."""
    condition, alpha_bar = drawn(batch), 0.3
    x = from_keypoints(batch) + 0.1 * normal(B, FRAMES, J, 3)
    found = likeliest(condition, STATISTICS["spread"], x, jnp.float32(alpha_bar))
    mean, estimate = (np.asarray(part, np.float64) for part in (condition.component.mean, condition.estimate))
    spread = np.asarray(STATISTICS["spread"], np.float64)
    signal, factor = alpha_bar**0.5, np.asarray(condition.component.factor, np.float64)
    own = np.einsum("...ij,...ij->...i", factor, factor)
    both, state = signal * spread**2, alpha_bar * spread**2 + (1 - alpha_bar) * own
    pose = estimate + both / state * (np.asarray(x) - mean - signal * (estimate - mean))
    np.testing.assert_allclose(found.pose, pose, atol=1e-5)
    np.testing.assert_allclose(found.deviation, np.sqrt(spread**2 - both**2 / state), rtol=1e-3)


def test_objectives_compare_the_pose_the_noise_and_the_next_pose(batch):
    component, k = drawn(batch).component, jnp.array([0, 7, 31, 49])
    white = normal(B, FRAMES, J, 3)
    noise = component.coloured(white)
    x = diffuse(SCHEDULE, batch.poses, k, noise, component.mean)
    found = {kind: compared(kind, batch.poses, x, component, SCHEDULE, k) for kind in ("x0", "eps", "next")}
    np.testing.assert_array_equal(found["x0"], batch.poses)
    np.testing.assert_allclose(found["eps"], white, atol=5e-3)
    following = diffuse(SCHEDULE, batch.poses, jnp.maximum(k - 1, 0), noise, component.mean)
    np.testing.assert_allclose(found["next"][1:], following[1:], atol=1e-5)
    np.testing.assert_allclose(found["next"][0], batch.poses[0], atol=1e-5)
