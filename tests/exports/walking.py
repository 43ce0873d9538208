"""A synthetic person who walks, filmed by a tilted camera, with hypotheses around them."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from diffpose_jax.data.sets.synthetic import generate_motion
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.skeleton import H36M_17

# From the camera's axes (x right, y down, z away) to axes with z up, of a camera that looks 10 degrees down.
WORLD = (
    Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).as_matrix()
    @ Rotation.from_euler("x", -10, degrees=True).as_matrix()
)
FLOOR = -1.3


def walk_in_world(frames: int = 40, seed: int = 0, action: str = "walk") -> np.ndarray:
    """Positions `[T, 17, 3]` m, z up, the floor at 0, of somebody 4 m before the camera."""
    (motion,) = generate_motion(seed, subjects=1, frames=frames, actions=[action])
    positions = np.asarray(motion.positions, np.float64)
    return positions - [*positions[0, 0, :2], 0] + [0, 4, 0]


def lift(world: np.ndarray, name: str = "person 0", hypotheses: int = 5, noise: float = 0.0, fps: float = 25.0,
         frames: np.ndarray | None = None) -> LiftedPerson:  # fmt: skip
    """A person whose positions in the world are these, `[T, 17, 3]` m; hypotheses have Gaussian noise (m)."""
    camera = (world + np.array([0, 0, FLOOR])) @ WORLD
    root, poses = camera[:, 0], camera - camera[:, :1]
    drawn = poses[:, None] + noise * np.random.default_rng(0).standard_normal((len(poses), hypotheses, 17, 3))
    spread = np.sqrt(((drawn - drawn.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1).mean(axis=1))
    frames = np.arange(len(world)) if frames is None else frames
    keypoints = 1000 * camera[..., :2] / camera[..., 2:] + [960, 540]
    seen = np.ones(poses.shape[:2], bool)
    radii = (0.8 * spread, 1.6 * spread)
    return LiftedPerson(
        name,
        frames,
        frames / fps,
        H36M_17,
        keypoints,
        seen,
        poses,
        drawn,
        spread,
        *radii,
        root,
        np.full_like(root, 0.05),
    )


def film(*people: LiftedPerson, frames: int = 40, fps: float = 25.0) -> LiftedVideo:
    """A video of people."""
    return LiftedVideo(
        "walk.mp4", (1920, 1080), np.arange(frames) / fps, 1000.0, WORLD, FLOOR, people, {"model": "synthetic"}
    )
