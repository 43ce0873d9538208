"""BlazePose's networks: what their outputs mean, and that they are those that were published."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from diffpose_jax.errors import UserError
from diffpose_jax.video import networks
from diffpose_jax.video.networks import anchor_centres, decode_detections, logistic, overlap, refine_points


def test_anchors_are_the_centres_of_the_cells_of_three_grids():
    anchors = anchor_centres()
    assert anchors.shape == (28 * 28 * 2 + 14 * 14 * 2 + 7 * 7 * 6, 2)
    np.testing.assert_allclose(anchors[:4], [[4, 4], [4, 4], [12, 4], [12, 4]])
    np.testing.assert_allclose(anchors[-1], [208, 208])


def _values(centre, size, points, anchor):
    return np.concatenate([np.subtract(centre, anchor), size, np.subtract(points, anchor).ravel()])


def test_detections_are_relative_to_their_anchors_and_merged_where_they_overlap():
    anchors = np.array([[20.0, 20.0], [28.0, 20.0], [150.0, 100.0]])
    points = np.array([[60.0, 70.0], [60.0, 20.0], [60.0, 40.0], [60.0, 30.0]])
    values = np.array(
        [
            _values([60, 30], [20, 20], points, anchors[0]),
            _values([62, 30], [20, 20], points + 2, anchors[1]),
            _values([160, 100], [30, 30], points + 100, anchors[2]),
        ]
    )
    found = decode_detections(values, np.array([1.0, 1.0, 3.0]), anchors)
    assert [score for score, _ in found] == pytest.approx([logistic(np.array(3.0)), logistic(np.array(1.0))])
    np.testing.assert_allclose(found[0][1], points + 100)
    np.testing.assert_allclose(found[1][1], points + 1)


def test_improbable_detections_are_left_out():
    assert decode_detections(np.zeros((3, 12)), np.full(3, -1.0), np.zeros((3, 2))) == []


def test_overlap_is_intersection_over_union():
    box = np.array([0.0, 0, 2, 2])
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])
    np.testing.assert_allclose(overlap(box, boxes), [1, 1 / 3, 0])


def test_a_landmark_moves_to_the_peak_of_its_heatmap_only_where_that_is_sure():
    heatmaps = np.full((64, 64, 3), -20.0)
    heatmaps[20, 30, 0] = 10.0  # sure, two columns to the right of the landmark
    heatmaps[20, 30, 1] = -1.0  # not sure
    heatmaps[40, 50, 2] = 10.0  # sure, but elsewhere
    points = np.tile(np.array([28.4, 20.4]) / 64, (3, 1))
    refined = refine_points(points, heatmaps)
    np.testing.assert_allclose(refined[0], np.array([30, 20]) / 64, atol=1e-4)
    np.testing.assert_allclose(refined[1:], points[1:])


def test_a_landmark_outside_the_region_stays():
    points = np.array([[1.4, -0.3]])
    np.testing.assert_allclose(refine_points(points, np.full((64, 64, 1), 10.0)), points)


@pytest.mark.parametrize("name", networks.DIGESTS)
def test_the_networks_are_those_that_were_published(name, monkeypatch):
    assert len(networks.read_network(name)) > 1e6
    monkeypatch.setitem(networks.DIGESTS, name, "0" * 64)
    with pytest.raises(UserError, match="expected the SHA-256 digest 000"):
        networks.read_network(name)


def test_without_the_runtime_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UserError, match=r"pip install 'diffpose_jax\[video\]'"):
        networks.BlazePose()


def test_nobody_is_found_in_an_empty_picture():
    pytest.importorskip("ai_edge_litert")
    blazepose = networks.BlazePose()
    assert blazepose.detect(Image.fromarray(np.full((120, 200, 3), 128, np.uint8))) == []
