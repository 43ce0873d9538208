"""The frames of an evaluation: every row of the report measures the same ones by the same protocol."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.sets.mpi_inf_3dhp import ACTIVITIES
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import baselines, report
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.evaluation.coherence import WINDOW
from diffpose_jax.evaluation.jobs import strided_frames
from diffpose_jax.evaluation.metrics import coordinate_errors, joint_errors, root_relative
from diffpose_jax.evaluation.protocols import Frames, Protocol, get_protocol, select_frames
from diffpose_jax.progress import Progress
from diffpose_jax.skeleton import Skeleton, convert_layout, describe_map, layout_matrix


class Measured(NamedTuple):
    """The frames that are measured, and the protocol.

    Attributes:
        clips: The set, in the layout of the lifter.
        indices: The indices `[M]` of the measured frames in the set, ascending.
        frames: Their ground truth, in the layout that the protocol measures.
        protocol: How they are measured.
        skeleton: That layout; poses are mapped to it before they are measured.
        actions: The action of each frame; the activity where the set has activities (MPI-INF-3DHP).
        subjects: The subject of each frame.
    """

    clips: ClipSet
    indices: np.ndarray
    frames: Frames
    protocol: Protocol
    skeleton: Skeleton
    actions: list[str]
    subjects: list[str]

    @classmethod
    def of(cls, clips: ClipSet, stride: int, protocol_name: str, source: ClipSet | None = None) -> Measured:
        """The valid ones among every `stride`-th frame of each clip.

        Args:
            clips: The set, in the layout of the lifter.
            stride: The distance of the frames.
            protocol_name: How they are measured.
            source: The same set in its own layout, where the protocol measures that one: the target is then that of the
                data and only the predicted poses are mapped. None: the protocol measures the layout of the lifter.

        Raises:
            UserError: There are no frames, or the protocol needs what the set does not have.
        """
        if not clips.num_frames:
            raise UserError("data: expected at least one clip to measure, found none")
        target = clips if source is None else source
        skeleton = target.skeleton
        layout_matrix(clips.skeleton, skeleton)  # raises where poses cannot be mapped
        protocol = get_protocol(protocol_name, skeleton)
        indices = strided_frames(clips, stride)
        # Invalid frames are lifted with their clip, as the benchmark does, but not measured. They interrupt the run of
        # consecutive frames, so that no velocity and no window reaches across them.
        if clips.valid_frame is not None:
            indices = indices[clips.valid_frame[indices]]
        if not len(indices):
            raise UserError("data: expected at least one valid frame to measure, found none")
        frames = select_frames(target, indices)
        protocol.check(frames, skeleton)
        clip = clips.frame_clip()[indices]
        actions, subjects = ([names[i] for i in clip] for names in (clips.action, clips.subject))
        if clips.activity is not None:
            actions = [ACTIVITIES[code] for code in clips.activity[indices]]
        return cls(clips, indices, frames, protocol, skeleton, actions, subjects)

    def row(self, name: str, label: str, poses: np.ndarray, *, kind: str, oracle: bool = False) -> dict[str, Any]:
        """The report's row of poses.

        Args:
            name: What `results.json` calls it.
            label: What the tables call it.
            poses: `[M, J, 3]`, m, in the layout of the lifter.
            kind: 'aggregation' or 'baseline'.
            oracle: Whether the ground truth chose the poses.
        """
        poses, values = self._in_layout(poses), self.measure(poses)
        sequences = self.subjects if self.protocol.by_sequence else None
        found = report.make_row(
            name, label, values, self.actions, self.subjects, sequences=sequences, kind=kind, oracle=oracle
        )
        return found | self._average_by_place(poses)

    def measure(self, poses: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every metric of the protocol for each frame, `{metric: [M]}` in m or shares; NaN: none.

        poses `[M, J, 3]`, m, in the layout of the lifter.
        """
        measured = self.protocol.measure(jnp.asarray(self._in_layout(poses)), self.frames)
        return {key: np.asarray(value) for key, value in measured.items()}

    def _in_layout(self, poses: np.ndarray) -> np.ndarray:
        """The poses in the layout that is measured."""
        if self.skeleton == self.clips.skeleton:
            return poses
        return convert_layout(np.asarray(poses), self.clips.skeleton, self.skeleton)

    def _average_by_place(self, poses: np.ndarray) -> dict[str, dict[str, float]]:
        """Mean errors per joint and per coordinate in mm, over all frames."""
        skeleton = self.skeleton
        transformed = self.protocol.transform(jnp.asarray(poses), self.frames)
        target = root_relative(self.frames.poses, skeleton.root)
        joints = np.asarray(joint_errors(transformed, target), np.float64).mean(axis=0) * 1000
        axes = np.asarray(coordinate_errors(transformed, target), np.float64).mean(axis=(0, 1)) * 1000
        return {
            "by_joint": dict(zip(skeleton.joints, joints.tolist(), strict=True)),
            "by_coordinate": dict(zip("xyz", axes.tolist(), strict=True)),
        }

    def notes(self) -> list[str]:
        """Notes for the report: the note of the data set, frames that are not measured, metrics that are left out."""
        lines = [f"data: {self.clips.note}"] if self.clips.note else []
        if self.skeleton != self.clips.skeleton:
            lines.append(
                f"poses are mapped to {self.skeleton.name}, the layout of the protocol and of the data: "
                f"{describe_map(self.clips.skeleton, self.skeleton) or 'all joints are copied'}"
            )
        invalid = 0 if self.clips.valid_frame is None else int((~self.clips.valid_frame).sum())
        if invalid:
            lines.append(f"{invalid} frames that the benchmark marks as invalid are lifted but not measured")
        if not self.frames.has_windows:
            lines.append(f"segment std left out: it needs {WINDOW} consecutive frames, so a stride of 1")
        return lines


def aggregation_row(measured: Measured, name: str, hypotheses: int, poses: np.ndarray) -> dict[str, Any]:
    """The report's row of an aggregation.

    Args:
        measured: The frames.
        name: A name of `AGGREGATES`.
        hypotheses: How many were aggregated, for the label.
        poses: `[M, J, 3]`, m.
    """
    chosen = AGGREGATES[name]
    label = chosen.label if name == "first" else f"{chosen.label} of {hypotheses}"
    return measured.row(name, label, poses, kind="aggregation", oracle=chosen.oracle)


def baseline_rows(measured: Measured, train: ClipSet) -> list[dict[str, Any]]:
    """The rows of the baselines of a training split: the mean pose and the nearest neighbour in 2D."""
    count = len(measured.indices)
    mean = np.repeat(baselines.mean_pose(train)[None], count, axis=0)
    with Progress("nearest neighbour", count, "frames") as progress:
        keypoints = measured.clips.keypoints[measured.indices]
        nearest = baselines.nearest_neighbour(train, keypoints, progress=progress.update)
    return [
        measured.row("mean_pose", "mean pose of train", mean, kind="baseline"),
        measured.row("nearest_neighbour", "nearest neighbour in 2D", nearest, kind="baseline"),
    ]
