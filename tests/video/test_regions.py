"""Regions: squares that turn with the body, the way into them and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from diffpose_jax.video.regions import Region, cut_out, region_along

TURNED = Region(np.array([120.0, 80.0]), 60.0, 0.7)


def test_the_way_into_a_region_and_back_is_the_identity():
    pixels = np.random.default_rng(0).uniform(0, 200, (5, 2))
    np.testing.assert_allclose(TURNED.to_picture(TURNED.to_square(pixels)), pixels)
    np.testing.assert_allclose(TURNED.to_square(TURNED.centre), [0.5, 0.5])


def test_a_square_that_is_not_turned_only_moves_and_scales():
    region = Region(np.array([50.0, 40.0]), 20.0, 0.0)
    np.testing.assert_allclose(region.to_picture(np.array([[0, 0], [1, 0.5]])), [[40, 30], [60, 40]])
    np.testing.assert_allclose(region.box, [40, 30, 60, 50])


def test_covariances_turn_as_the_points_do():
    points = np.random.default_rng(0).normal(size=(400, 2)) @ np.array([[0.1, 0.02], [0, 0.03]])
    mapped = np.cov(TURNED.to_picture(points).T)
    np.testing.assert_allclose(TURNED.covariance_to_picture(np.cov(points.T)), mapped)


def test_a_region_of_a_larger_picture_shows_the_same():
    places = np.array([[0.2, 0.9]])
    np.testing.assert_allclose(TURNED.scaled(3).to_picture(places), 3 * TURNED.to_picture(places))


@pytest.mark.parametrize(("end", "degrees"), [((50, 10), 0), ((90, 50), 90), ((50, 90), 180), ((10, 50), -90)])
def test_a_region_turns_so_that_the_body_stands_in_it(end, degrees):
    region = region_along(np.array([50.0, 50.0]), np.array(end, float))
    assert math.remainder(region.angle - math.radians(degrees), math.tau) == pytest.approx(0, abs=1e-9)
    assert region.side == pytest.approx(100)
    # The point on the circle is straight above the middle, a radius away: 40 of the 100 pixels of a side.
    np.testing.assert_allclose(region.to_square(np.array(end, float)), [0.5, 0.1], atol=1e-9)


@pytest.mark.parametrize("side", [60.0, 500.0])
def test_what_is_cut_out_shows_each_pixel_at_its_place(side):
    """A picture whose red is x and whose green is y, so that colours are places; reduced if the region is large."""
    across, down = np.meshgrid(np.arange(640), np.arange(640))
    image = Image.fromarray(np.stack([across / 2.6, down / 2.6, across * 0], axis=-1).astype(np.uint8))
    region = Region(np.array([310.0, 330.0]), side, 0.5)
    cut = cut_out(image, region, 64)[4:-4, 4:-4].astype(float)
    places = (np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1) + 0.5) / 64
    expected = (region.to_picture(places)[4:-4, 4:-4] - 0.5) / 2.6
    inside = np.all((expected > 4) & (expected < 236), axis=-1)
    assert np.abs(cut[..., :2] - expected)[inside].max() < 2


def test_outside_the_picture_it_is_black():
    image = Image.fromarray(np.full((40, 40, 3), 255, np.uint8))
    assert cut_out(image, Region(np.array([500.0, 500.0]), 80.0, 0.3), 32).max() == 0
    assert cut_out(image, Region(np.array([-500.0, 20.0]), 20.0, 0.3), 32).max() == 0
    half = cut_out(image, Region(np.array([40.0, 20.0]), 20.0, 0.0), 32)
    assert half[16, 4].min() == 255
    assert half[16, 28].max() == 0
