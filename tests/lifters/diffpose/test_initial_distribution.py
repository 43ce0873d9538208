"""H_K: where heatmaps and context put it, its variants, its mirror image, and which component a pose goes towards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from diffpose_jax.lifters.base import Batch
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.diffpose.initial_distribution import make_base_distribution, measure_statistics
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import H36M_17, mirror

from .heatmap_batch import (
    CONTEXT,
    FRAMES,
    STATISTICS,
    B,
    J,
    M,
    both_sides,
    draw,
    from_keypoints,
    heatmap_batch,
    initial,
    mixtures,
    normals,
)

KEY = jax.random.key(3)
normal = normals(2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return heatmap_batch()


def test_in_the_image_plane_it_is_the_heatmap_at_the_estimate(batch):
    found, estimate = initial(batch, batch.mixture), np.asarray(from_keypoints(batch))
    # This estimate is the keypoints, enlarged: a metre is 0.4 image units.
    offsets = (batch.mixture.means - batch.keypoints[..., None, :]) / 0.4
    np.testing.assert_allclose(found.means[..., :2], estimate[..., None, :2] + offsets, atol=1e-5)
    np.testing.assert_allclose(found.means[..., 2], np.broadcast_to(estimate[..., 2:], found.weights.shape), atol=1e-6)
    own = np.asarray(STATISTICS["spread"]) ** 2
    plane = np.asarray(batch.mixture.covariances) / 0.16 + np.stack([np.diag(one) for one in own[:, :2]])[:, None]
    np.testing.assert_allclose(found.covariances[..., :2, :2], plane, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.covariances[0, 0, :, 0, 2, 2], own[:, 2], rtol=1e-5)
    np.testing.assert_array_equal(found.covariances[..., 2, :2], 0)


def test_the_depth_may_be_that_of_the_training_set(batch):
    found = initial(batch, batch.mixture, "histogram")
    np.testing.assert_allclose(found.means[0, 0, :, 1, 2], STATISTICS["depth_mean"], rtol=1e-6)
    np.testing.assert_allclose(found.covariances[0, 0, :, 1, 2, 2], STATISTICS["depth_spread"] ** 2, rtol=1e-5)
    np.testing.assert_array_equal(found.means[..., :2], initial(batch, batch.mixture).means[..., :2])


def test_without_heatmaps_it_is_the_uncertainty_of_the_context(batch):
    mean, covariance = initial(batch, None).mean_and_covariance()
    np.testing.assert_allclose(mean, from_keypoints(batch), atol=1e-6)
    variance = np.diagonal(covariance[2, 1], axis1=-2, axis2=-1)
    np.testing.assert_allclose(variance, STATISTICS["spread"] ** 2, rtol=1e-5)


@pytest.mark.parametrize("diagonal", [False, True])
def test_mixtures_of_whole_poses_share_their_component(batch, diagonal):
    whole = mixtures(normal, B, FRAMES, size=2 * J)
    if diagonal:
        whole = whole._replace(covariances=jnp.diagonal(whole.covariances, axis1=-2, axis2=-1))
    found = initial(batch, whole)
    joint = 5
    separate = Mixture(
        jnp.broadcast_to(whole.weights[:, :, None], (B, FRAMES, J, M)),
        jnp.broadcast_to(whole.means[:, :, None, :, 2 * joint : 2 * joint + 2], (B, FRAMES, J, M, 2)),
        jnp.broadcast_to(
            whole.covariances[:, :, None, :, 2 * joint : 2 * joint + 2]
            if diagonal
            else whole.covariances[:, :, None, :, 2 * joint : 2 * joint + 2, 2 * joint : 2 * joint + 2],
            (B, FRAMES, J, M, 2) if diagonal else (B, FRAMES, J, M, 2, 2),
        ),
    )
    expected = initial(batch, separate)
    np.testing.assert_allclose(found.means[:, :, joint], expected.means[:, :, joint], rtol=1e-5)
    np.testing.assert_allclose(found.covariances[:, :, joint], expected.covariances[:, :, joint], rtol=1e-5)
    component = draw(jax.random.split(KEY, B), found)
    picked = np.argmin(np.abs(np.asarray(component.mean)[..., None, 0] - np.asarray(found.means)[..., 0]), axis=-1)
    np.testing.assert_array_equal(picked, np.broadcast_to(picked[..., :1], picked.shape))
    np.testing.assert_allclose(component.weight[..., 3], np.take_along_axis(
        np.asarray(whole.weights), picked[..., :1], axis=-1)[..., 0], rtol=1e-6)  # fmt: skip


def test_the_gaussian_variant_has_the_moments_of_the_mixture(batch):
    mixture = initial(batch, batch.mixture)
    mean, covariance = mixture.mean_and_covariance()
    single = make_base_distribution("gaussian", mixture)
    np.testing.assert_allclose(single.means[..., 0, :], mean, rtol=1e-5)
    np.testing.assert_allclose(single.covariances[..., 0, :, :], covariance, rtol=1e-5)
    plain = make_base_distribution("normal", mixture)
    np.testing.assert_array_equal(plain.means, 0)
    np.testing.assert_array_equal(plain.covariances[1, 1, 4, 0], np.eye(3))


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_mirrored_input_has_the_mirrored_distribution(batch, diagonal):
    if diagonal:
        variances = jnp.diagonal(batch.mixture.covariances, axis1=-2, axis2=-1)
        batch = batch._replace(mixture=batch.mixture._replace(covariances=variances))
    flipped = flip_batch(batch, H36M_17)
    found, straight = initial(flipped, flipped.mixture), initial(batch, batch.mixture)
    mean, covariance = found.mean_and_covariance()
    expected_mean, expected = straight.mean_and_covariance()
    np.testing.assert_allclose(mean, mirror(expected_mean, H36M_17), atol=1e-5)
    sign = np.outer([-1, 1, 1], [-1, 1, 1])
    np.testing.assert_allclose(covariance, np.asarray(expected)[:, :, list(H36M_17.flip_order)] * sign, atol=1e-6)
    back = flip_batch(flipped, H36M_17).mixture
    jax.tree.map(np.testing.assert_array_equal, back, batch.mixture)


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_mixture_of_whole_poses_is_mirrored_joint_by_joint(diagonal):
    whole = mixtures(normal, 1, 1, size=2 * J)
    if diagonal:
        whole = whole._replace(covariances=jnp.diagonal(whole.covariances, axis1=-2, axis2=-1))
    empty = Batch(jnp.zeros((1, 1, J, 2)), jnp.zeros((1, 1, J, 3)), jnp.ones((1, 1, J)), jnp.zeros(1, jnp.int32), whole)
    flipped = flip_batch(empty, H36M_17).mixture
    points = normal(1, 1, 9, J, 2)
    mirrored = mirror(points, H36M_17).reshape(1, 1, 9, 2 * J)
    density, expected = flipped.log_prob(mirrored), whole.log_prob(points.reshape(1, 1, 9, 2 * J))
    np.testing.assert_allclose(density, expected, rtol=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_the_component_of_a_pose_is_drawn_by_its_responsibility(batch, shared):
    base = jax.tree.map(lambda part: part[:1, :1], initial(batch, batch.mixture))
    if shared:
        # Wide enough for all joints together to leave doubt.
        base = base._replace(weights=base.weights[:, :, :1], covariances=1000 * base.covariances)
    poses = base.means[:, :, :, 1] + 0.05 * normal(1, 1, J, 3)
    densities = np.array(
        [
            [
                multivariate_normal.logpdf(poses[0, 0, j], base.means[0, 0, j, m], base.covariances[0, 0, j, m])
                for m in range(M)
            ]
            for j in range(J)
        ]
    )
    log = np.log(base.weights[0, 0]) + (densities.sum(axis=0, keepdims=True) if shared else densities)
    wanted = np.broadcast_to(np.exp(log - logsumexp(log, axis=1, keepdims=True)), (J, M))
    count = 4000
    many = jax.tree.map(lambda part: jnp.repeat(part, count, axis=0), base)
    means = draw(jax.random.split(KEY, count), many, jnp.repeat(poses, count, axis=0)).mean[:, 0]
    picked = np.abs(means[:, :, None] - base.means[0, 0][None]).sum(axis=-1) == 0
    np.testing.assert_allclose(picked.mean(axis=0), wanted, atol=0.04)
    assert ((wanted > 0.1) & (wanted < 0.9)).any()


def test_noise_and_its_whitening_are_inverse(batch):
    component = draw(jax.random.split(KEY, B), initial(batch, batch.mixture))
    white = normal(B, FRAMES, J, 3)
    np.testing.assert_allclose(component.whiten(component.scale(white)), white, atol=1e-4)


def test_what_is_measured_is_the_context_on_valid_and_the_depths_on_train(batch):
    train = [batch._replace(poses=batch.poses * scale) for scale in (1.0, 2.0)]
    valid = [batch, batch._replace(poses=batch.poses + 0.1)]
    found = measure_statistics(CONTEXT, {"w": jnp.ones(3)}, iter(train), iter(valid))
    np.testing.assert_array_equal(found["context"]["w"], np.ones(3))
    errors = np.stack([np.asarray(from_keypoints(one) - one.poses) for one in valid])
    wanted = np.sqrt(both_sides((errors.astype(np.float64) ** 2).mean(axis=(0, 1, 2))))
    np.testing.assert_allclose(found["spread"], np.maximum(wanted, 0.005), rtol=1e-4)
    depths = np.stack([np.asarray(one.poses)[..., 2] for one in train])
    mean, square = (both_sides((depths.astype(np.float64) ** n).mean(axis=(0, 1, 2))) for n in (1, 2))
    np.testing.assert_allclose(found["depth_mean"], mean, atol=1e-6)
    np.testing.assert_allclose(found["depth_spread"][1:], np.sqrt(square - mean**2)[1:], rtol=1e-4)
