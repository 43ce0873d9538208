"""Clips of random numbers that every test of clips, archives and windows may share."""

from __future__ import annotations

import numpy as np

from diffpose_jax.data.clip import Clip
from diffpose_jax.geometry import Camera


def cameras(count: int = 2) -> Camera:
    """Cameras all alike, leading axis `[count]`."""
    rows = ([2.3, 2.2], [0.02, 0.03], [-0.2, 0.2, 0], [0, 0], [1, 0, 0, 0], [0, 0, 5], [1000, 1000])
    return Camera(*(np.stack([np.array(row, np.float32)] * count) for row in rows))


def clip(
    frames: int, subject: str = "S1", action: str = "walk", camera: int = 0, seed: int = 0, joints: int = 17
) -> Clip:
    """A clip with 3D poses and scores."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(frames, joints, 3)).astype(np.float32)
    return Clip(
        keypoints=rng.uniform(-1, 1, (frames, joints, 2)).astype(np.float32),
        poses=poses - poses[:, :1],
        root=rng.normal(size=(frames, 3)).astype(np.float32),
        subject=subject,
        action=action,
        camera=camera,
        fps=25.0,
        scores=rng.uniform(size=(frames, joints)).astype(np.float32),
    )


def mixtures(frames: int, components: int = 3, joints: int = 17, seed: int = 0) -> np.ndarray:
    """Packed mixtures `[frames, joints, components, 6]`, weights adding up to one."""
    packed = np.random.default_rng(seed).uniform(0.1, 1, (frames, joints, components, 6)).astype(np.float16)
    packed[..., 0] /= packed[..., 0].sum(-1, keepdims=True)
    return packed
