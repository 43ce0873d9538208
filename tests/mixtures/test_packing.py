"""Mixtures keep their moments through the stored form, on the device and mirrored."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import centred_windows, device_clips, gather
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import pack_mixture, unpack_mixture
from diffpose_jax.skeleton import H36M_17

FRAMES, COMPONENTS = 6, 3


def random_mixture(diagonal: bool = False) -> tuple[Mixture, np.ndarray]:
    """Mixtures `[N, J]` of sizes that heatmaps have, and keypoints near them."""
    rng = np.random.default_rng(0)
    lead = (FRAMES, 17, COMPONENTS)
    keypoints = rng.uniform(-1, 1, (FRAMES, 17, 2)).astype(np.float32)
    axes = rng.normal(scale=0.01, size=(*lead, 2, 2))
    covariances = axes @ np.swapaxes(axes, -1, -2) + 1e-6 * np.eye(2)
    if diagonal:
        covariances = np.diagonal(covariances, axis1=-2, axis2=-1)
    means = keypoints[:, :, None] + rng.normal(scale=0.03, size=(*lead, 2))
    return Mixture(rng.dirichlet(np.ones(COMPONENTS), lead[:2]), means, covariances), keypoints


@pytest.fixture(scope="module")
def clips() -> tuple[ClipSet, Mixture]:
    mixture, keypoints = random_mixture()
    clip = Clip(keypoints, np.zeros((FRAMES, 17, 3), np.float32), None, "S1", "walk")
    return ClipSet.build([clip._replace(mixture=pack_mixture(mixture, keypoints))], H36M_17), mixture


@pytest.mark.parametrize("diagonal", [True, False])
def test_stored_mixtures_keep_means_and_covariances_to_a_twentieth_of_a_pixel(diagonal):
    mixture, keypoints = random_mixture(diagonal)
    found = unpack_mixture(jnp.asarray(pack_mixture(mixture, keypoints)), jnp.asarray(keypoints))
    order = np.argsort(-mixture.weights, axis=-1)
    weights, means, covariances = (
        np.take_along_axis(part, order.reshape(*order.shape, *[1] * (part.ndim - 3)), axis=2) for part in mixture
    )
    np.testing.assert_allclose(found.weights, weights, atol=1e-3)
    np.testing.assert_allclose(found.means, means, atol=1e-4)
    expected = covariances[..., None] * np.eye(2) if diagonal else covariances
    scale = np.sqrt(np.trace(expected, axis1=-2, axis2=-1))[..., None, None] ** 2
    assert np.abs((found.covariances - expected) / scale).max() < 2e-3
    assert np.linalg.eigvalsh(np.asarray(found.covariances, np.float64)).min() > 0


def test_a_component_of_no_weight_is_stored_as_another_one():
    keypoints = np.zeros((1, 1, 2), np.float32)
    means = np.array([[[[np.nan, np.inf], [0.25, -0.5]]]])
    packed = pack_mixture(Mixture(np.array([[[0.0, 1.0]]]), means, np.full((1, 1, 2, 2), 0.04)), keypoints)
    np.testing.assert_allclose(packed[0, 0, :, 0], [1, 0])
    np.testing.assert_allclose(packed[0, 0, :, 1:3], [[0.25, -0.5]] * 2)


def test_windows_gather_the_mixtures_of_their_frames(clips):
    stored, mixture = clips
    ids = jnp.arange(FRAMES, dtype=jnp.int32)
    batch = jax.jit(gather, static_argnums=3)(device_clips(stored), centred_windows(stored, 3), ids, 3)
    assert batch.mixture.means.shape == (FRAMES, 3, 17, COMPONENTS, 2)
    expected, _ = mixture.mean_and_covariance()
    found, _ = batch.mixture.mean_and_covariance()
    np.testing.assert_allclose(found[:, 1], expected, atol=5e-4)
    np.testing.assert_allclose(found[0, 0], expected[0], atol=5e-4)


def test_without_mixtures_a_batch_has_none(clips):
    bare = ClipSet.build([clips[0].clip(0)._replace(mixture=None)], H36M_17)
    assert gather(device_clips(bare), centred_windows(bare, 1), jnp.arange(2, dtype=jnp.int32), 1).mixture is None


def test_a_mirrored_batch_has_mirrored_mixtures(clips):
    stored, _ = clips
    batch = gather(device_clips(stored), centred_windows(stored, 1), jnp.arange(FRAMES, dtype=jnp.int32), 1)
    flipped = flip_batch(batch, H36M_17)
    density = batch.mixture.log_prob(batch.keypoints[..., None, :])
    np.testing.assert_allclose(
        flipped.mixture.log_prob(flipped.keypoints[..., None, :]),
        np.asarray(density)[:, :, np.array(H36M_17.flip_order)],
        atol=1e-2,
        rtol=1e-3,
    )
    again = flip_batch(flipped, H36M_17)
    for one, other in zip(again.mixture, batch.mixture, strict=True):
        np.testing.assert_array_equal(one, other)
    left, right = H36M_17.left[0], H36M_17.right[0]
    np.testing.assert_allclose(flipped.mixture.means[:, :, left, :, 0], -batch.mixture.means[:, :, right, :, 0])
    np.testing.assert_allclose(
        flipped.mixture.covariances[:, :, left, :, 0, 1], -batch.mixture.covariances[:, :, right, :, 0, 1]
    )
