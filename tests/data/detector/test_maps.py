"""Maps of cells, as a detector gives them: keypoints are read off them, and points drawn from them follow them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffpose_jax.data.detector.heatmaps import render
from diffpose_jax.data.detector.maps import Box
from diffpose_jax.errors import UserError

from .detector_maps import draw_from_maps, estimate_keypoints, normalise_maps
from .walking import UNIT, follows, one_joint


def test_logits_are_the_logarithms_of_maps_up_to_a_constant():
    found = np.asarray(
        render(one_joint([0.6, 0.4], [[0.3, 0.5], [0.6, 0.4]], 0.01 * np.stack([np.eye(2)] * 2)), UNIT, 8)
    )
    np.testing.assert_allclose(np.asarray(normalise_maps(7 * found)), found, atol=1e-6)
    np.testing.assert_allclose(np.asarray(normalise_maps(np.log(found) + 3, logits=True)), found, atol=1e-6)
    of_maps, of_logits = estimate_keypoints(7 * found, UNIT), estimate_keypoints(np.log(found) + 3, UNIT, logits=True)
    for one, other in zip(of_maps, of_logits, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_points_of_a_map_follow_it():
    found = render(one_joint([0.6, 0.4], [[0.3, 0.5], [0.6, 0.4]], 0.01 * np.stack([np.eye(2)] * 2)), UNIT, 8)
    points = np.asarray(draw_from_maps(jax.random.key(1), found, UNIT, 20000))[0, 0]
    cell = np.floor(points * 8).astype(int)
    counts = np.bincount(cell[:, 1] * 8 + cell[:, 0], minlength=64)
    expected = np.asarray(found)[0, 0].ravel()
    assert follows(counts, expected)
    within = points * 8 - cell
    np.testing.assert_allclose(within.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(within.var(axis=0), 1 / 12, atol=0.003)


def test_a_detectors_own_map_gives_its_keypoint_and_points_around_it():
    """A detector's own map, numpy, neither square nor normalised, slightly negative where nothing is."""
    rows, columns = np.mgrid[:48, :36]
    found = np.exp(-((rows - 20) ** 2 + (columns - 11) ** 2) / 8) * 0.9 - 1e-3
    box = Box(np.array([-0.2, -0.4]), np.array([0.36, 0.48]))  # cells of 0.01
    np.testing.assert_allclose(np.asarray(estimate_keypoints(found[None], box)[0])[0], [-0.085, -0.195], atol=1e-4)
    drawn = np.asarray(draw_from_maps(jax.random.key(0), found[None], box, 4000))[0]
    np.testing.assert_allclose(drawn.mean(axis=0), [-0.085, -0.195], atol=2e-3)
    with pytest.raises(UserError, match=r"expected \[..., rows, columns\], found \[36\]"):
        estimate_keypoints(found[0], box)
