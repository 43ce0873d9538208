"""Simulated heatmaps are right about where joints are and how surely, visible, hidden or confused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.detector.heatmap_simulation import simulate_heatmaps
from diffpose_jax.data.detector.heatmaps import detect, person_box
from diffpose_jax.skeleton import H36M_17

from .walking import JOINT, PIXELS, SIZE, walking

simulate = jax.jit(simulate_heatmaps, static_argnums=3)
detected = jax.jit(detect, static_argnums=2)


def share_within(levels: np.ndarray, region: float) -> float:
    return float((levels < region).mean())


def test_the_true_joint_is_where_the_heatmap_says(maps):
    keypoints, heatmaps, box, found = maps
    cell = np.floor((keypoints - box.corner[:, None]) / box.extent[:, None] * SIZE).astype(int)
    inside = ((cell >= 0) & (cell < SIZE)).all(axis=-1)
    assert inside.mean() > 0.999
    flat, cell = found.reshape(*found.shape[:2], -1), np.clip(cell, 0, SIZE - 1)
    own = np.take_along_axis(flat, (cell[..., 1] * SIZE + cell[..., 0])[..., None], axis=-1)
    # The smallest region with the true joint in it, a cell's worth at random: uniform where heatmaps are right.
    level = (
        np.where(flat > own, flat, 0).sum(axis=-1) + np.random.default_rng(0).uniform(size=inside.shape) * own[..., 0]
    )
    kinds = {"all": inside, "occluded": heatmaps.occluded, "confused": heatmaps.confused}
    for kind, chosen in kinds.items():
        assert chosen.sum() > 1000, kind
        for region in (0.5, 0.9):
            assert abs(share_within(level[chosen], region) - region) < 0.03, (kind, region)


def test_hidden_and_confused_joints_have_a_second_mode(walk_50hz):
    _, heatmaps = walk_50hz
    calm = ~heatmaps.occluded & ~heatmaps.confused
    weight = {name: heatmaps.weights[..., number] for number, name in enumerate(("joint", "elsewhere", "partner"))}
    assert weight["elsewhere"][heatmaps.occluded].mean() > 5 * weight["elsewhere"][calm].mean()
    assert (weight["partner"][heatmaps.confused] >= 0.09).all()
    assert (weight["partner"][~heatmaps.confused] == 0).all()
    np.testing.assert_allclose(heatmaps.weights.sum(axis=-1), 1, rtol=1e-5)
    area = np.sqrt(np.linalg.det(heatmaps.covariances[..., 0, :, :]))
    ankle = JOINT["right_ankle"], JOINT["left_ankle"]
    hidden = heatmaps.occluded[:, ankle]
    assert area[:, ankle][hidden].mean() > 1.5 * area[:, ankle][~hidden].mean()


def test_a_confused_limb_has_a_mode_at_both_places(walk_50hz):
    keypoints, heatmaps = walk_50hz
    frames, joints = np.nonzero(heatmaps.confused)
    partner = np.array(H36M_17.flip_order)[joints]
    modes = heatmaps.means[frames, joints][:, [0, 2]]
    gaps = {
        name: np.linalg.norm(modes - keypoints[frames, j][:, None], axis=-1).min(axis=-1)
        for name, j in (("own", joints), ("partner", partner))
    }
    for gap in gaps.values():
        assert np.median(gap) * PIXELS < 12
    limb = [JOINT[f"{side}_{joint}"] for side in ("left", "right") for joint in ("knee", "ankle")]
    together = heatmaps.confused[:, limb]
    np.testing.assert_array_equal(together.any(axis=-1), together.all(axis=-1))


def test_heatmaps_on_limbs_are_longer_along_the_limb(walk_50hz):
    keypoints, heatmaps = walk_50hz
    knee, hip = JOINT["left_knee"], JOINT["left_hip"]
    bone = keypoints[:, knee] - keypoints[:, hip]
    bone = bone / np.linalg.norm(bone, axis=-1, keepdims=True)
    covariance = heatmaps.covariances[:, knee, 0]
    along = np.einsum("ti,tij,tj->t", bone, covariance, bone)
    assert (along > 1.5 * (np.trace(covariance, axis1=-2, axis2=-1) - along)).all()


def correlation(errors: np.ndarray, lag: int) -> float:
    errors = (errors - errors.mean(axis=0)) / errors.std(axis=0)
    return float((errors[lag:] * errors[:-lag]).mean())


def test_errors_last_as_long_as_the_detectors(walk_50hz):
    keypoints, heatmaps = walk_50hz
    errors = np.asarray(detected(heatmaps, person_box(heatmaps), 64)[0]) - keypoints
    lag = 4  # frames, the persistence of 0.08 s at 50 frames per second
    assert 0.5 * np.exp(-1) < correlation(errors[:, JOINT["neck_nose"]], lag) < 1.3 * np.exp(-1)
    elsewhere = heatmaps.means[..., 1, :] - heatmaps.means[..., 0, :]
    assert correlation(elsewhere[:, JOINT["neck_nose"]], lag) > 0.5  # 0.3 s


def test_simulated_heatmaps_need_nothing_but_their_arguments():
    keypoints, poses = walking(130)
    first, again = (simulate(jax.random.key(5), keypoints, poses, H36M_17) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert jnp.isfinite(one).all()
    larger = simulate(jax.random.key(5), 3 * keypoints, poses, H36M_17)
    np.testing.assert_allclose(np.asarray(larger.means), 3 * np.asarray(first.means), atol=1e-4)
