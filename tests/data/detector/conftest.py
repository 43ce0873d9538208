"""A long walk and its simulated heatmaps, which the tests of this folder share."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffpose_jax.data.detector.error_model import DetectorSettings
from diffpose_jax.data.detector.heatmap_simulation import HeatmapSettings, simulate_heatmaps
from diffpose_jax.data.detector.heatmaps import Heatmaps, person_box, render
from diffpose_jax.data.detector.maps import Box
from diffpose_jax.skeleton import H36M_17

from .walking import SIZE, walking


def walk(fps: float, confusion: float) -> tuple[np.ndarray, Heatmaps]:
    keypoints, poses = walking(3000)
    settings = HeatmapSettings(DetectorSettings(confusion=confusion))
    simulate = jax.jit(simulate_heatmaps, static_argnums=3)
    return keypoints, jax.tree.map(np.asarray, simulate(jax.random.key(0), keypoints, poses, H36M_17, settings, fps))


@pytest.fixture(scope="session")
def walk_50hz() -> tuple[np.ndarray, Heatmaps]:
    """Exact keypoints and heatmaps of a long walk with more confusion than usual, at 50 frames per second."""
    return walk(50.0, 0.1)


@pytest.fixture(scope="session")
def maps() -> tuple[np.ndarray, Heatmaps, Box, np.ndarray]:
    """Keypoints, heatmaps, boxes and maps of `SIZE` cells, at a frame per second: frames independent of each other."""
    keypoints, heatmaps = jax.tree.map(lambda array: array[::3], walk(1.0, 0.3))
    box = Box(*(np.asarray(part) for part in person_box(heatmaps)))
    return keypoints, heatmaps, box, np.asarray(jax.jit(render, static_argnums=2)(heatmaps, box, SIZE))
