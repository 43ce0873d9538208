"""A walking person for the tests of heatmaps, and heatmaps of single joints."""

from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from diffpose_jax.data.detector.heatmaps import Heatmaps
from diffpose_jax.data.detector.maps import Box
from diffpose_jax.skeleton import H36M_17

JOINT = {name: index for index, name in enumerate(H36M_17.joints)}
SIZE = 48  # cells along each side of the maps of the tests
PIXELS = 500  # half an image of 1000 pixels: one normalised unit
UNIT = Box(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))


def walking(frames: int, turn: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints `[T, J, 2]` and poses `[T, J, 3]` of a person seen obliquely, legs crossing in the image, 5 m away."""
    places = {"hip": (0.13, 0, 0), "knee": (0.13, 0.45, 0), "ankle": (0.13, 0.9, 0.05),
              "shoulder": (0.16, -0.5, 0), "elbow": (0.2, -0.22, 0.02), "wrist": (0.2, 0.02, -0.05)}  # fmt: skip
    pose = np.zeros((frames, 17, 3))
    swing = 0.3 * np.sin(2 * np.pi * np.arange(frames) / 53)
    for side, sign in (("right", -1), ("left", 1)):
        for joint, (x, y, z) in places.items():
            far = {"knee": 0.6, "ankle": 1.0, "elbow": -0.5, "wrist": -0.9}.get(joint, 0)
            pose[:, JOINT[f"{side}_{joint}"]] = np.stack(
                [0 * swing + sign * x, 0 * swing + y, z + sign * far * swing], -1
            )
    for joint, y in {"spine": -0.25, "thorax": -0.5, "neck_nose": -0.6, "head_top": -0.75}.items():
        pose[:, JOINT[joint], 1] = y
    angle = turn + 0.5 * np.sin(2 * np.pi * np.arange(frames) / 400)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    pose = np.stack(
        [cos * pose[..., 0] + sin * pose[..., 2], pose[..., 1], cos * pose[..., 2] - sin * pose[..., 0]], -1
    )
    pose = pose.astype(np.float32)
    return (2.29 * pose[..., :2] / (pose[..., 2:] + 5)).astype(np.float32), pose


def one_joint(weights, means, covariances) -> Heatmaps:
    """Heatmaps of one frame and one joint."""
    nothing = np.zeros((1, 1), bool)
    parts = (np.asarray(part, np.float32)[None, None] for part in (weights, means, covariances))
    return Heatmaps(*parts, nothing, nothing)


def follows(counts: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether cells were hit as often as they should be, by a chi-square test over the cells that matter."""
    often = probabilities > 5e-4
    expected = probabilities[often].astype(np.float64)
    return chisquare(counts[often], expected / expected.sum() * counts[often].sum()).pvalue > 1e-3
