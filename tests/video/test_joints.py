"""Heatmaps of a turned region become mixtures in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.geometry import normalise_screen
from diffpose_jax.skeleton import BLAZEPOSE_33, H36M_17, convert_layout
from diffpose_jax.video.joints import (
    POINTS,
    UNKNOWN,
    HeatmapMixtures,
    cell_masses,
    draw_joints,
    draw_places,
    heatmap_moments,
)
from diffpose_jax.video.networks import Landmarks
from diffpose_jax.video.regions import Region

REGION = Region(np.array([300.0, 400.0]), 200.0, 0.6)
STD = np.array([2.0, 1.2])  # cells, across and down


def gaussian_logits(place: np.ndarray, std: np.ndarray = STD, height: float = 0.8) -> np.ndarray:
    """The logits of a Gaussian heatmap around a place (share of the side), with a standard deviation in cells."""
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    away = np.stack([across, down], axis=-1) - place * 64
    heights = np.clip(height * np.exp(-((away / std) ** 2).sum(axis=-1) / 2), 1e-5, None)
    return np.log(heights / (1 - heights))


def landmarks(places: np.ndarray, height: float = 0.8) -> Landmarks:
    """Landmarks at places `[33, 2]`, each with its heatmap."""
    heatmaps = np.stack([gaussian_logits(place, height=height) for place in places], axis=-1)
    heatmaps = np.concatenate([heatmaps, np.full((64, 64, 6), -10.0)], axis=-1)
    points = np.concatenate([places, np.full((6, 2), 0.5)])
    return Landmarks(1.0, REGION, points, np.ones(39), np.ones(39), heatmaps, np.zeros((39, 3)))


PLACES = np.random.default_rng(0).uniform(0.3, 0.7, (33, 2))


def test_mean_and_covariance_of_a_heatmap_turn_with_the_region():
    found = heatmap_moments(gaussian_logits(np.array([0.4, 0.6])), REGION)
    assert found is not None
    np.testing.assert_allclose(found[0], REGION.to_picture(np.array([0.4, 0.6])), atol=0.05)
    # What is fainter than a twentieth of the peak is cut off: of a Gaussian 5 % of the mass, a sixth of the variance.
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    expected = turn @ np.diag((STD * 200 / 64) ** 2) @ turn.T
    assert np.linalg.norm(found[1] - expected) < 0.2 * np.linalg.norm(expected)
    np.testing.assert_allclose(np.linalg.eigh(found[1])[1], np.linalg.eigh(expected)[1], atol=0.02)


def test_the_background_of_a_heatmap_does_not_count():
    masses = cell_masses(gaussian_logits(np.array([0.5, 0.5])))
    assert masses is not None
    assert masses.sum() == pytest.approx(1)
    assert masses[0, 0] == 0


def test_two_peaks_of_a_heatmap_are_both_drawn():
    logits = np.maximum(gaussian_logits(np.array([0.25, 0.5])), gaussian_logits(np.array([0.75, 0.5]), height=0.4))
    drawn = draw_places(np.random.default_rng(0), logits, np.zeros(2), 1000)
    assert (drawn[:, 0] > 0.5).mean() == pytest.approx(1 / 3, abs=0.03)


def test_a_joint_of_which_nothing_is_known_is_wide_around_its_landmark():
    drawn = draw_places(np.random.default_rng(0), np.full((64, 64), -10.0), np.array([0.2, 1.1]), 4000)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.2, 1.1], atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), UNKNOWN, rtol=0.05)


def test_joints_that_blazepose_lacks_are_made_of_others_as_keypoints_are():
    points = draw_joints(np.random.default_rng(0), landmarks(PLACES), 2000)
    expected = convert_layout(REGION.to_picture(PLACES), BLAZEPOSE_33, H36M_17)
    np.testing.assert_allclose(points.mean(axis=1), expected, atol=0.4)
    # The pelvis is the mean of two independent hips.
    hip, pelvis = (np.cov(points[H36M_17.joints.index(joint)].T) for joint in ("left_hip", "pelvis"))
    np.testing.assert_allclose(np.trace(pelvis), np.trace(hip) / 2, rtol=0.15)


def test_mixtures_are_in_normalised_image_units_for_every_frame():
    mixtures = HeatmapMixtures((640, 800))
    for _ in range(3):
        mixtures.add(landmarks(PLACES))
    found = mixtures.finish()
    assert found.means.shape == (3, 17, 5, 2)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-5)
    mean = (np.asarray(found.weights)[..., None] * np.asarray(found.means)).sum(axis=-2)
    pixels = convert_layout(REGION.to_picture(PLACES), BLAZEPOSE_33, H36M_17)
    tolerance = 3 * STD.max() * 200 / 64 / np.sqrt(POINTS) / 320
    np.testing.assert_allclose(mean, np.tile(normalise_screen(pixels, (640, 800)), (3, 1, 1)), atol=tolerance)
