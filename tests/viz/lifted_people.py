"""Synthetic people as `diffpose lift` would give them: generated motion, hypotheses that differ smoothly over time."""

from __future__ import annotations

import functools

import numpy as np

from diffpose_jax.data.sets.synthetic import generate_motion
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.skeleton import H36M_17

WIDTH, HEIGHT, FOCAL, FPS = 960, 540, 900.0, 25.0
CAMERA_HEIGHT = 1.5
# The camera looks along the world's y axis, 6 degrees downwards; its rows are the world's axes in camera coordinates.
_TILT = np.radians(6.0)
WORLD = np.array([[1, 0, 0], [0, -np.sin(_TILT), np.cos(_TILT)], [0, -np.cos(_TILT), -np.sin(_TILT)]])


@functools.cache
def generated(actions: tuple[str, ...], frames: int) -> tuple[np.ndarray, ...]:
    """Motions, positions `[frames, 17, 3]` m, z up."""
    return tuple(motion.positions for motion in generate_motion(3, subjects=1, frames=frames, actions=actions))


def _turn(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def smooth_noise(rng: np.random.Generator, frames: int, shape: tuple[int, ...], width: int = 12) -> np.ndarray:
    """Noise `[frames, *shape]` of unit variance that changes within about `width` frames."""
    kernel = np.hanning(2 * width + 1)
    white = rng.normal(size=(frames + 2 * width, *shape)).reshape(frames + 2 * width, -1)
    smooth = np.stack([np.convolve(column, kernel, "valid") for column in white.T], axis=1)
    return (smooth / np.linalg.norm(kernel)).reshape(frames, *shape)


def lift(
    name: str, positions: np.ndarray, frames: np.ndarray, hypotheses: int, rng: np.random.Generator
) -> LiftedPerson:
    """A person at `positions` `[T, 17, 3]` m in the world, lifted less surely in the hands and in depth."""
    camera = (positions - [0, 0, CAMERA_HEIGHT]) @ WORLD
    root = camera[:, 0]
    relative = camera - root[:, None]
    depth = np.array([0, 1, 2, 4, 1, 2, 4, 1, 2, 3, 3, 2, 4, 7, 2, 4, 7]) / 7
    scale = depth[:, None] * [0.035, 0.035, 0.11] * (1.2 + 0.8 * np.sin(np.arange(len(root)) / 40))[:, None, None]
    noise = smooth_noise(rng, len(root), (hypotheses + 1, 17, 3))
    drawn = relative[:, None] + scale[:, None] * noise[:, 1:]
    mean = drawn.mean(axis=1)
    spread = np.sqrt(scale.clip(0.003) ** 2).max(axis=-1)
    return LiftedPerson(
        name=name, frames=frames, times=frames / FPS, skeleton=H36M_17,
        keypoints=FOCAL * camera[..., :2] / camera[..., 2:] + [WIDTH / 2, HEIGHT / 2],
        seen=noise[:, 0, :, 0] > -1.6, poses=mean, hypotheses=drawn, spread=spread,
        radius_50=1.4 * spread, radius_90=2.3 * spread, root=root, root_std=np.tile([0.02, 0.02, 0.15], (len(root), 1)),
    )  # fmt: skip


def lifted_video(
    names: tuple[str, ...] = ("person 0", "person 1"), frames: int = 60, hypotheses: int = 5, source: str = "clip.mp4"
) -> tuple[LiftedVideo, dict[str, np.ndarray]]:
    """Up to three people beside each other, and their true joints in the camera's frame; the second one comes late."""
    rng = np.random.default_rng(0)
    people, truth = [], {}
    for index, (name, motion) in enumerate(zip(names, generated(("wave", "squat", "reach"), frames), strict=False)):
        rows = np.arange(frames // 5 if index == 1 else 0, frames)
        # They come from the generator facing along x and are turned to the camera.
        turned = (motion - motion[:1, :1] * [1, 1, 0]) @ _turn(-70 - 30 * index).T
        placed = turned + np.array([1.3 * index - 0.6, 4.5 + 0.8 * index, 0])
        people.append(lift(name, placed[rows], rows, hypotheses, rng))
        truth[name] = (placed[rows] - [0, 0, CAMERA_HEIGHT]) @ WORLD
    settings: dict[str, object] = {"model": "synthetic", "hypotheses": hypotheses, "focal length": "assumed"}
    video = LiftedVideo(
        source, (WIDTH, HEIGHT), np.arange(frames) / FPS, FOCAL, WORLD, -CAMERA_HEIGHT, tuple(people), settings
    )
    return video, truth


def painted_frames(video: LiftedVideo, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """A picture per frame, `[h, w, 3]`: a room with a floor, and a bar that shows the time."""
    width, height = size or video.image_size
    room = np.full((height, width, 3), (92, 104, 118), np.uint8)
    room[int(0.62 * height) :] = (128, 116, 100)
    pictures = []
    for index in range(len(video.times)):
        picture = room.copy()
        picture[: height // 40, : int(width * (index + 1) / len(video.times))] = (250, 210, 90)
        pictures.append(picture)
    return pictures
