"""One set of frames, measured the same way for every lifter and baseline: what a table's rows have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import baselines, report
from diffpose_jax.evaluation.jobs import CHOICES, predict_clips, strided_frames
from diffpose_jax.evaluation.protocols import Frames, Protocol, get_protocol, known_frames
from diffpose_jax.lifters.base import Lifter, Variables, flip_averaged
from diffpose_jax.progress import Progress


class Setting(NamedTuple):
    """How predictions are made: hypotheses, flip averaging, windows per device and call, the seed of the noise."""

    hypotheses: int
    flip: bool
    batch_size: int
    seed: int


class Measured(NamedTuple):
    """The frames that are measured, by which protocol, and the action and subject of each."""

    clips: ClipSet
    numbers: np.ndarray
    frames: Frames
    protocol: Protocol
    actions: list[str]
    subjects: list[str]

    @classmethod
    def of(cls, clips: ClipSet, stride: int, protocol_name: str) -> Measured:
        """Every `stride`-th frame of the set. Raises UserError where the protocol needs what the set does not have."""
        if not clips.num_frames:
            raise UserError("data: expected at least one clip to measure, found none")
        protocol = get_protocol(protocol_name, clips.skeleton.root)
        numbers = strided_frames(clips, stride)
        frames = known_frames(clips, numbers)
        protocol.check(frames)
        clip = clips.frame_clip()[numbers]
        actions, subjects = ([names[i] for i in clip] for names in (clips.action, clips.subject))
        return cls(clips, numbers, frames, protocol._replace(measure=jax.jit(protocol.measure)), actions, subjects)

    def row(self, name: str, label: str, poses: np.ndarray, *, kind: str, oracle: bool = False) -> dict[str, Any]:
        """The report's row for poses `[M, J, 3]`."""
        values = {key: np.asarray(value) for key, value in self.protocol.measure(poses, self.frames).items()}
        return report.row(name, label, values, self.actions, self.subjects, kind=kind, oracle=oracle)


def lift(
    label: str,
    lifter: Lifter,
    variables: Variables,
    clips: ClipSet,
    numbers: np.ndarray,
    setting: Setting,
    aggregations: Sequence[str],
) -> dict[str, np.ndarray]:
    """Lifts the frames `numbers [M]` of a set with progress under `label`: `{aggregation: poses [M, J, 3]}`, metres."""
    lifter = flip_averaged(lifter) if setting.flip else lifter
    with Progress(label, len(numbers), "frames") as progress:
        poses, _ = predict_clips(
            lifter,
            variables,
            clips,
            frames=numbers,
            num_hypotheses=setting.hypotheses,
            aggregations=aggregations,
            batch_size=setting.batch_size,
            seed=setting.seed,
            progress=progress.update,
        )
    return poses


def aggregation_row(measured: Measured, name: str, hypotheses: int, poses: np.ndarray) -> dict[str, Any]:
    """The row of an aggregation of `CHOICES`."""
    choice = CHOICES[name]
    label = choice.label if name == "first" else f"{choice.label} of {hypotheses}"
    return measured.row(name, label, poses, kind="aggregation", oracle=choice.oracle)


def baseline_rows(measured: Measured, train: ClipSet) -> list[dict[str, Any]]:
    """The rows of what needs no training: the mean pose and the nearest neighbour in 2D, from the frames of `train`."""
    count = len(measured.numbers)
    mean = np.broadcast_to(baselines.mean_pose(train), (count, *train.poses.shape[1:]))
    with Progress("nearest neighbour", count, "frames") as progress:
        keypoints = measured.clips.keypoints[measured.numbers]
        nearest = baselines.nearest_neighbour(train, keypoints, progress=progress.update)
    return [
        measured.row("mean_pose", "mean pose of train", mean, kind="baseline"),
        measured.row("nearest_neighbour", "nearest neighbour in 2D", nearest, kind="baseline"),
    ]
