"""What BlazePose's heatmaps say of the 17 joints of Human3.6M: a mixture of Gaussians for each.

A heatmap's logits become the probabilities of its cells: the logistic function, without what is below a twentieth of
the highest cell (the faint rest of 4096 cells would weigh as much as the peak), divided by their sum. Points are drawn
from each map and carried from the turned region to the picture, so that covariances turn with them. A joint that
BlazePose lacks is made of others as keypoints are (`skeleton.layout_matrix`): the pelvis of a set of points is the
middle of its hips, each drawn from its own map. That takes the errors of those landmarks for independent. To the
points of each joint a mixture is fitted by expectation maximisation.

Where no cell reaches `MIN_PEAK` the network does not know, for the joint is hidden or outside the region: then the
points are those of a Gaussian around the landmark with a standard deviation of `UNKNOWN` of the region's side, about
the width of a person's trunk.
"""

from __future__ import annotations

import jax
import numpy as np

from diffpose_jax.geometry import normalise_screen
from diffpose_jax.mixtures.fitting import FitOptions, fit_mixtures
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import BLAZEPOSE_33, H36M_17, layout_matrix
from diffpose_jax.video.networks import LANDMARKS, MAP_SIZE, Landmarks, logistic
from diffpose_jax.video.regions import Region

COMPONENTS = 5
POINTS = 100  # drawn from each heatmap
MIN_PEAK = 0.05  # of a heatmap that knows where its joint is; that of a visible joint is 0.5 to 0.9
UNKNOWN = 0.08  # standard deviation of a joint of which nothing is known, as a share of the region's side
_FAINT = 0.05  # of the highest cell, below which cells do not count
_AT_ONCE = 64  # frames whose mixtures are fitted in one call
# Mixtures to draw from: a high floor of variances and a short search, so that none shrinks to a single point.
_FIT = FitOptions(iterations=20, initialisations=1, relocations=0, tolerance=1e-3, variance_floor=1e-3)
_MAP = layout_matrix(BLAZEPOSE_33, H36M_17)
_USED = np.flatnonzero(_MAP.any(axis=0))


class HeatmapMixtures:
    """The mixtures of one person, fitted some frames at a time; heatmaps are let go at once.

    Args:
        image_size: Width and height of the picture in pixels.
    """

    def __init__(self, image_size: tuple[int, int]):
        self._image_size = image_size
        self._waiting: list[np.ndarray] = []
        self._fitted: list[Mixture] = []
        self._random = np.random.default_rng(0)

    def add(self, landmarks: Landmarks) -> None:
        """Take the landmarks of the next frame, whose region is in pixels of the picture."""
        points = draw_joints(self._random, landmarks)
        self._waiting.append(normalise_screen(points, self._image_size).astype(np.float32))
        if len(self._waiting) == _AT_ONCE:
            self._fit()

    def finish(self) -> Mixture:
        """Fit what is left; the mixtures of all frames `[T, 17, M]`, in normalised image units."""
        if self._waiting:
            self._fit()
        return jax.tree.map(lambda *parts: np.concatenate(parts), *self._fitted)

    def _fit(self) -> None:
        points = np.stack(self._waiting)
        self._waiting = []
        key = jax.random.fold_in(jax.random.key(0), len(self._fitted))
        self._fitted.append(fit_mixtures(key, points, COMPONENTS, _FIT).mixture)


def draw_joints(random: np.random.Generator, landmarks: Landmarks, count: int = POINTS) -> np.ndarray:
    """Draw points of the 17 joints of Human3.6M from heatmaps: `[17, count, 2]` pixels.

    Args:
        random: Where the draws come from.
        landmarks: With a region in pixels.
        count: Points of each joint.
    """
    drawn = np.zeros((LANDMARKS, count, 2))
    for joint in _USED:
        drawn[joint] = draw_places(random, landmarks.heatmaps[..., joint], landmarks.points[joint], count)
    return np.einsum("ij,jpc->ipc", _MAP.astype(float), landmarks.region.to_picture(drawn))


def draw_places(random: np.random.Generator, logits: np.ndarray, point: np.ndarray, count: int) -> np.ndarray:
    """Draw places `[count, 2]` in a region from one heatmap.

    Args:
        random: Where the draws come from.
        logits: `[64, 64]`, rows before columns. The cell in column c is centred at the share c / 64 of the side, where
            the landmark it was trained with lies (over 2400 landmarks the means differ by 0.04 cells).
        point: The landmark `[2]`, around which the joint is where the map knows nothing.
        count: Number of places.
    """
    masses = cell_masses(logits)
    if masses is None:
        return point + UNKNOWN * random.standard_normal((count, 2))
    # One draw from each of `count` equal parts of the probability: the means of points vary far less than those of
    # independent draws. Their order is shuffled, for points of other joints are paired with them.
    levels = (random.permutation(count) + random.random(count)) / count
    cells = np.searchsorted(np.cumsum(masses.ravel()), levels).clip(0, masses.size - 1)
    rows, columns = np.divmod(cells, masses.shape[1])
    return (np.stack([columns, rows], axis=-1) + random.random((count, 2)) - 0.5) / MAP_SIZE


def cell_masses(logits: np.ndarray) -> np.ndarray | None:
    """The probability of each cell `[64, 64]` of a heatmap of logits, with the sum 1; None where no cell stands out."""
    heights = logistic(logits.astype(float))
    highest = heights.max()
    if highest < MIN_PEAK:
        return None
    heights[heights < _FAINT * highest] = 0
    return heights / heights.sum()


def heatmap_moments(logits: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean `[2]` and covariance `[2, 2]` (pixels) of one heatmap of a region; None where no cell stands out."""
    masses = cell_masses(logits)
    if masses is None:
        return None
    across, down = np.meshgrid(np.arange(MAP_SIZE), np.arange(MAP_SIZE))
    places = np.stack([across, down], axis=-1).reshape(-1, 2) / MAP_SIZE
    mean = masses.ravel() @ places
    # A cell is not a point: a uniform distribution over its width adds a twelfth of its square.
    covariance = np.einsum("p,pi,pj->ij", masses.ravel(), places - mean, places - mean) + np.eye(2) / 12 / MAP_SIZE**2
    return region.to_picture(mean), region.covariance_to_picture(covariance)
