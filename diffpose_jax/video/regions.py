"""Squares of a picture, turned with the body in them: where they lie, what they show, and the way back."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image


class Region(NamedTuple):
    """A square of the picture in which a person stands upright.

    Places in it are written as shares of its side, `[0, 1]` x right and y down from its own upper left corner; in the
    picture they are pixels from the corner of the first one, so that its centre is at (0.5, 0.5).

    Attributes:
        centre: `[2]` pixels.
        side: Length of a side in pixels.
        angle: Radians by which the square is turned clockwise, as one sees it.
    """

    centre: np.ndarray
    side: float
    angle: float

    @property
    def axes(self) -> np.ndarray:
        """The square's x and y axis as columns of a matrix `[2, 2]`, in pixels: one side long."""
        cos, sin = math.cos(self.angle) * self.side, math.sin(self.angle) * self.side
        return np.array([[cos, -sin], [sin, cos]])

    @property
    def box(self) -> np.ndarray:
        """The square, not turned: left, top, right, bottom `[4]` pixels."""
        return np.concatenate([self.centre - self.side / 2, self.centre + self.side / 2])

    def to_picture(self, places: np.ndarray) -> np.ndarray:
        """Map places `[..., 2]` in the square to pixels."""
        return self.centre + (places - 0.5) @ self.axes.T

    def to_square(self, pixels: np.ndarray) -> np.ndarray:
        """Map pixels `[..., 2]` to places in the square; the inverse of `to_picture`."""
        # The axes are orthogonal and one side long: the inverse of their matrix is its transpose over the side squared.
        return (pixels - self.centre) @ self.axes / self.side**2 + 0.5

    def covariance_to_picture(self, covariances: np.ndarray) -> np.ndarray:
        """Map covariances `[..., 2, 2]` of places in the square to those of pixels."""
        return self.axes @ covariances @ self.axes.T

    def scaled(self, factor: float) -> Region:
        """The same region in a picture that is larger by a factor."""
        return Region(self.centre * factor, self.side * factor, self.angle)


def region_along(start: np.ndarray, end: np.ndarray, margin: float = 1.25) -> Region:
    """The region around a circle whose centre is `start` and on which `end` lies, above it as the body stands.

    BlazePose's networks state a person's place so: by the middle of the hips and a point on the circle around the
    whole body (Bazarevsky et al. 2020, section 2).

    Args:
        start: Centre `[2]` pixels.
        end: A point on the circle `[2]` pixels, on the side of the head.
        margin: Side of the square over the diameter of the circle.
    """
    # y points down in pictures: the angle is 0 where the end lies straight above the start.
    across, down = np.asarray(end, float) - start
    return Region(np.asarray(start, float), 2 * margin * math.hypot(across, down), math.atan2(across, -down))


def cut_out(image: Image.Image, region: Region, size: int) -> np.ndarray:
    """The picture within a region, `[size, size, 3]` uint8; black outside the picture.

    Args:
        image: RGB.
        region: In pixels of the image.
        size: Pixels along a side of what is returned.
    """
    # Bilinear interpolation reads four pixels. Where one new pixel covers more than two old ones, these are averaged
    # first, or thin limbs would flicker.
    factor = max(1, int(region.side / size))
    if factor > 1:
        reach = float(np.abs(region.axes).sum(axis=1).max()) / 2 + factor
        low = np.floor(np.clip(region.centre - reach, 0, None)).astype(int)
        high = np.minimum(np.ceil(region.centre + reach).astype(int), image.size)
        if np.any(high - low < factor):
            return np.zeros((size, size, 3), np.uint8)
        image = image.reduce(factor, box=(int(low[0]), int(low[1]), int(high[0]), int(high[1])))
        region = Region((region.centre - low) / factor, region.side / factor, region.angle)
    step = region.axes / size
    corner = region.to_picture(np.zeros(2))
    coefficients = (step[0, 0], step[0, 1], corner[0], step[1, 0], step[1, 1], corner[1])
    turned = image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(turned)
