"""Heatmaps as mixtures: their maps are integrals over cells; keypoints and points need no maps."""

from __future__ import annotations

import jax
import numpy as np
from scipy.stats import multivariate_normal

from diffpose_jax.data.detector.heatmaps import Heatmaps, detect, draw_points, person_box, render
from diffpose_jax.data.detector.maps import Box
from diffpose_jax.skeleton import H36M_17

from .detector_maps import estimate_keypoints
from .walking import SIZE, UNIT, follows, one_joint

rendered = jax.jit(render, static_argnames="size")
detected = jax.jit(detect, static_argnums=2)
estimated = jax.jit(estimate_keypoints)


def test_a_map_is_the_integral_of_the_mixture_over_its_cells():
    weights, means = [0.7, 0.3], [[0.4, 0.55], [0.7, 0.3]]
    covariances = [[[0.004, 0.002], [0.002, 0.003]], [[0.01, -0.003], [-0.003, 0.006]]]
    found = np.asarray(render(one_joint(weights, means, covariances), UNIT, 24))[0, 0]
    fine = (np.arange(24 * 8) + 0.5) / (24 * 8)
    points = np.stack(np.meshgrid(fine, fine), axis=-1)  # [row, column, (x, y)]
    density = sum(
        w * multivariate_normal(m, c).pdf(points) for w, m, c in zip(weights, means, covariances, strict=True)
    )
    expected = density.reshape(24, 8, 24, 8).sum(axis=(1, 3))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)


def test_a_mode_far_narrower_than_a_cell_lies_in_its_cell():
    found = np.asarray(render(one_joint([1.0], [[0.3, 0.8]], [1e-8 * np.eye(2)]), UNIT, 10))[0, 0]
    assert found[7:9, 2:4].sum() > 0.999  # 0.8 and 0.3 are edges of cells: rows 7, 8 and columns 2, 3


def test_maps_add_up_to_one(maps):
    np.testing.assert_allclose(maps[-1].sum(axis=(-2, -1)), 1, rtol=1e-4)


def test_estimates_are_the_highest_places_of_maps(maps):
    _, heatmaps, box, found = maps
    places, scores = (np.asarray(part) for part in estimated(found, box))
    cells = (places - box.corner[:, None]) / box.extent[:, None] * SIZE
    highest = found.reshape(*found.shape[:2], -1).argmax(axis=-1)
    off = np.abs(cells - np.stack([highest % SIZE, highest // SIZE], axis=-1) - 0.5).max(axis=-1)
    assert np.quantile(off, 0.99) < 1.2
    assert ((scores > 0) & (scores < 1.001)).all()
    sure = heatmaps.weights[..., 0] > 0.97
    gap = np.linalg.norm(places - heatmaps.means[..., 0, :], axis=-1)[sure]
    cell = box.extent.mean() / SIZE
    assert np.median(gap) < 0.25 * cell
    assert np.quantile(gap, 0.95) < 0.5 * cell
    calm = ~heatmaps.occluded & ~heatmaps.confused
    assert scores[calm].mean() > scores[heatmaps.occluded].mean() + 0.05
    assert scores[calm].mean() > scores[heatmaps.confused].mean() + 0.1


def test_detecting_without_maps_finds_what_the_maps_give(maps):
    _, heatmaps, box, found = maps
    with_maps, without = estimated(found, box), detected(heatmaps, box, SIZE)
    gap = np.abs(np.asarray(with_maps[0]) - np.asarray(without[0])).max(axis=-1) / box.extent[:, :1] * SIZE
    assert np.quantile(gap, 0.99) < 0.02
    np.testing.assert_allclose(np.median(np.asarray(with_maps[1] - without[1])), 0, atol=1e-3)


def test_resolution_changes_little(maps):
    keypoints, heatmaps, box, _ = maps
    size = {
        cells: np.linalg.norm(np.asarray(detected(heatmaps, box, cells)[0]) - keypoints, axis=-1).mean()
        for cells in (64, 128)
    }
    np.testing.assert_allclose(size[64], size[128], rtol=0.07)


def test_a_mirrored_heatmap_gives_the_mirrored_map(maps):
    _, heatmaps, box, found = maps
    few, order = jax.tree.map(lambda array: array[:20], heatmaps), np.array(H36M_17.flip_order)
    sign = np.array([-1, 1], np.float32)
    other = Heatmaps(
        few.weights[:, order],
        few.means[:, order] * sign,
        few.covariances[:, order] * (sign[:, None] * sign),
        few.occluded,
        few.confused,
    )
    mirrored = person_box(other)
    np.testing.assert_allclose(np.asarray(mirrored.corner + mirrored.extent)[:, 0], -box.corner[:20, 0], atol=1e-6)
    turned = np.asarray(rendered(other, mirrored, size=SIZE))
    np.testing.assert_allclose(turned, found[:20][:, order, :, ::-1], atol=1e-4)
    here, there = estimated(found[:20], Box(*(part[:20] for part in box)))[0], estimated(turned, mirrored)[0]
    np.testing.assert_allclose(np.asarray(there)[..., 0], -np.asarray(here)[:, order, 0], atol=2e-4)


def test_points_drawn_without_maps_follow_the_mixture():
    covariance = np.array([[0.02, 0.01], [0.01, 0.01]])
    heatmaps = one_joint([0.75, 0.25], [[0.5, 0.5], [0.4, 0.6]], 0.2 * np.stack([covariance] * 2))
    points = np.asarray(draw_points(jax.random.key(2)[None], heatmaps, 20000))[0, 0]
    mean = 0.75 * np.array([0.5, 0.5]) + 0.25 * np.array([0.4, 0.6])
    np.testing.assert_allclose(points.mean(axis=0), mean, atol=2e-3)
    between = 0.75 * 0.25 * np.outer([0.1, -0.1], [0.1, -0.1])
    np.testing.assert_allclose(np.cov(points.T), 0.2 * covariance + between, atol=1.5e-4)
    counts = np.bincount((np.floor(points * 8).clip(0, 7) @ np.array([1, 8])).astype(int), minlength=64)
    assert follows(counts, np.asarray(render(heatmaps, UNIT, 8))[0, 0].ravel())
