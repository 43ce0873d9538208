"""What is known of a keypoint decides its factor, and factors move hypotheses away from their mean."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from diffpose_jax.lifters.sampling import Sampling
from diffpose_jax.lifters.scales import KINDS, WIDTHS, Scales, keypoint_kinds, scale_hypotheses, tail_weights
from diffpose_jax.lifters.wrappers import Scaled, with_flips, with_occlusion, with_scales
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import H36M_17

from .toys import KEY, pose_batch

BATCH = pose_batch(3, 1)


class _Drawn:
    """A lifter that returns stored hypotheses, and stored ones of another size for a mirrored batch."""

    skeleton, frames, middle_frame, averages_flips = H36M_17, 1, False, False

    def __init__(self, hypotheses):
        self.hypotheses = hypotheses

    def sample(self, variables, key, batch, sampling):
        return self.hypotheses[: sampling.hypotheses]


def mixture(std: np.ndarray) -> Mixture:
    """One Gaussian of standard deviation `std [J]` per coordinate at every keypoint of the batch."""
    shape = BATCH.keypoints.shape[:-1]
    covariances = (
        jnp.broadcast_to(jnp.asarray(std, jnp.float32) ** 2, shape)[..., None, None, None]
        * jnp.eye(2)[None, None, None, None]
    )
    return Mixture(jnp.ones((*shape, 1)), BATCH.keypoints[..., None, :], covariances)


def test_kinds_are_told_apart_by_the_width_of_the_heatmap_and_by_the_mask():
    points = np.asarray(BATCH.keypoints)
    size = np.sqrt(((points - points.mean(axis=-2, keepdims=True)) ** 2).sum(-1).mean(-1)).min()
    widths = np.full(17, 0.2 * WIDTHS[0] * size)
    widths[5] = 3 * WIDTHS[1] * size
    batch = BATCH._replace(mixture=mixture(widths), mask=BATCH.mask.at[:, :, 7].set(0))
    kinds = np.asarray(keypoint_kinds(batch, H36M_17))
    assert [KINDS[kind] for kind in kinds[0, 0, [1, 5, 7]]] == ["sharp", "ambiguous", "hidden"]
    assert not np.asarray(keypoint_kinds(BATCH, H36M_17)).any()
    assert not np.asarray(keypoint_kinds(BATCH._replace(mask=0 * BATCH.mask), H36M_17))[..., H36M_17.root].any()


def test_without_heatmaps_kinds_are_told_apart_by_the_score():
    scores = BATCH.mask.at[:, :, 3].set(0.9).at[:, :, 5].set(0.3).at[:, :, 7].set(0).at[:, :, H36M_17.root].set(0.3)
    kinds = np.asarray(keypoint_kinds(BATCH._replace(mask=scores), H36M_17))[0, 0]
    assert [KINDS[kind] for kind in kinds[[1, 3, 5, 7]]] == ["sharp", "wide", "ambiguous", "hidden"]
    assert kinds[H36M_17.root] == 0


def test_a_joint_hidden_with_one_that_a_bone_connects_it_to_is_of_a_kind_of_its_own():
    hip, knee, ankle, wrist = (
        H36M_17.joints.index(name) for name in ("left_hip", "left_knee", "left_ankle", "right_wrist")
    )
    mask = BATCH.mask
    for joint in (hip, knee, ankle, wrist):
        mask = mask.at[:, :, joint].set(0)
    kinds = np.asarray(keypoint_kinds(BATCH._replace(mask=mask), H36M_17))[0, 0]
    assert {KINDS[kinds[joint]] for joint in (hip, knee, ankle)} == {"hidden_limb"}
    assert KINDS[kinds[wrist]] == "hidden"


def test_a_hidden_joint_has_a_factor_of_its_own_on_top():
    scales = Scales((1.0, 2.0), hidden=(1.0, 3.0))
    kinds = jnp.asarray([[0, 0], [0, KINDS.index("hidden")], [0, KINDS.index("hidden_limb")]])
    np.testing.assert_allclose(scales.factors(kinds), [[1, 2], [1, 6], [1, 6]])


def test_deviations_are_multiplied_and_the_mean_stays():
    hypotheses = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3, 1, 17, 3)), jnp.float32)
    scales = Scales(tuple(np.linspace(0.5, 2.1, 17).tolist()), (1.0, 2.0, 3.0, 4.0, 5.0))
    hidden = BATCH._replace(mask=BATCH.mask.at[:, :, 7].set(0))
    lifter = with_scales(_Drawn(hypotheses), scales)
    found = np.asarray(lifter.sample({}, KEY, hidden, Sampling(5)))
    factors = np.array(scales.joints)
    factors[7] *= 4
    mean = np.asarray(hypotheses).mean(axis=0)
    np.testing.assert_allclose(found - mean, factors[:, None] * (np.asarray(hypotheses) - mean), atol=1e-5)
    np.testing.assert_allclose(scale_hypotheses(hypotheses, jnp.ones((3, 1, 17))), hypotheses, atol=1e-6)


def test_a_scaled_lifter_flips_within_and_is_hidden_from_outside():
    lifter = _Drawn(jnp.zeros((2, 3, 1, 17, 3)))
    assert with_scales(lifter, None) is lifter
    scaled = with_scales(lifter, Scales((1.0,) * 17))
    assert with_flips(scaled) is scaled
    assert isinstance(with_occlusion(with_flips(scaled), "random_joints").lifter, Scaled)


def test_a_tail_changes_neither_the_mean_nor_the_variance_and_depends_on_the_example_alone():
    weights = np.asarray(tail_weights(KEY, jnp.arange(5), 20, 0.4))
    np.testing.assert_allclose((weights**2).mean(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.sort(weights, axis=0), np.sort(weights[:, :1], axis=0).repeat(5, axis=1))
    assert np.ptp(np.argmax(weights, axis=0)) > 0
    np.testing.assert_array_equal(weights[:, 3:], tail_weights(KEY, jnp.arange(3, 5), 20, 0.4))
    hypotheses = jnp.asarray(np.random.default_rng(0).standard_normal((20, 5, 2, 17, 3)), jnp.float32)
    scaled = scale_hypotheses(hypotheses, jnp.ones((5, 2, 17)), weights)
    np.testing.assert_allclose(scaled.mean(axis=0), hypotheses.mean(axis=0), atol=1e-5)
    assert abs(float((scaled.var(axis=0) / hypotheses.var(axis=0)).mean()) - 1) < 0.05
