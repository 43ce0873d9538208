"""A person of cardboard, filmed from the front, and a lifter that knows how far away they stand: all of it exact."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.synthesis.body import draw_body
from diffpose_jax.model import Result
from diffpose_jax.people import FilmedPeople, Track
from diffpose_jax.skeleton import H36M_17, Skeleton

SIZE, FOCAL, DISTANCE = (960, 540), 900.0, 4.0
ROOT_HEIGHT = -0.1  # of the person in the picture, m below the camera's axis


def cut_out() -> np.ndarray:
    """Somebody who stands with hanging arms, seen from the front: `[17, 3]` m, root-relative, camera frame, flat."""
    offsets = draw_body(np.random.default_rng(0)).offsets()
    joints = np.zeros((17, 3))
    for joint, parent in enumerate(H36M_17.parents):
        if parent >= 0:
            joints[joint] = joints[parent] + offsets[joint]
    # The person's left is on the right of the picture, and their up is its -y.
    return np.stack([joints[:, 1], -joints[:, 2], np.zeros(17)], axis=-1)


def walk(times: np.ndarray, aside: float = 0.0) -> np.ndarray:
    """The root's path `[T, 3]` m, camera frame: sideways, half a metre in a second."""
    return np.stack([0.5 * times - 1 + aside, np.full_like(times, ROOT_HEIGHT), np.full_like(times, DISTANCE)], axis=-1)


def film(times: np.ndarray, *frames: np.ndarray) -> FilmedPeople:
    """People of cardboard in these frames each, of a video whose frames are at `times`."""
    tracks = []
    for number, own in enumerate(frames):
        points = cut_out() + walk(times[own], 0.3 * number)[:, None]
        keypoints = FOCAL * points[..., :2] / points[..., 2:] + np.array(SIZE) / 2
        tracks.append(Track(f"person {number}", np.asarray(own), keypoints, np.ones((len(own), 17)), H36M_17))
    return FilmedPeople("cardboard.mp4", SIZE, times, tuple(tracks))


class CardboardModel:
    """In place of a `Model`: the pose is flat and `DISTANCE` away; hypotheses are of sizes within `spread`."""

    name = "cardboard"
    skeleton: Skeleton = H36M_17

    def __init__(self, frames: int = 1, spread: float = 0.0, regions: bool = False, mixtures: bool = False):
        self.trained = SimpleNamespace(lifter=SimpleNamespace(frames=frames))
        self.needs_mixtures = mixtures
        self.spread, self.regions, self.lifted = spread, regions, ClipSet.build([], H36M_17)

    def lift(self, clips: ClipSet, *, hypotheses: int, focal: float, **options: object) -> Result:
        self.lifted = clips
        seen = clips.keypoints - clips.keypoints[:, :1]
        poses = np.concatenate([seen * DISTANCE / focal, 0 * seen[..., :1]], axis=-1).astype(np.float32)
        sizes = 1 + self.spread * np.linspace(-1, 1, hypotheses, dtype=np.float32)
        drawn = poses[:, None] * sizes[None, :, None, None]
        std = np.sqrt(drawn.var(axis=1).sum(axis=-1))
        radii = (1.2 * std + 0.01, 2.2 * std + 0.02) if self.regions else (None, None)
        return Result(drawn.mean(axis=1), drawn, std, None, clips, {}, *radii)

    def settings(self, hypotheses: int, aggregation: str, seed: int | None) -> dict[str, object]:
        return {"hypotheses": hypotheses}
