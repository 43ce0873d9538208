"""Sets of clips of 2D-3D pairs in memory: the form that every data set becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from diffpose_jax.data.clip import FRAME_ARRAYS, Clip, check_clip, frame_shapes, join_arrays, mark_missing
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import Skeleton, convert_layout, convert_scores, layout_matrix

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class ClipSet:
    """The N frames of C clips, stored end to end, and what is known of each clip.

    Attributes:
        keypoints: `[N, J, 2]` normalised image units (x/w*2-1, y/w*2-h/w).
        poses: `[N, J, 3]` metres, camera frame, root-relative (the skeleton's root is zero), or None.
        root: `[N, 3]` metres, camera frame, or None.
        clip_start: `[C]` index of each clip's first frame.
        clip_length: `[C]` frames of each clip.
        subject: The person of each clip.
        action: What is done in each clip.
        camera: `[C]` index into `cameras`, -1 where the camera is unknown.
        fps: `[C]` frames per second.
        cameras: The K cameras, fields with a leading axis `[K]`, or None.
        skeleton: The joint layout.
        scores: `[N, J]` confidences of the detector, or None where all joints were seen. A joint of score 0 was not
            seen: its keypoint is a finite number that nothing reads (`data.gaps` fills it in).
        valid_frame: `[N]` bool, or None where all are. A frame that is not valid is lifted like the others, as part of
            its clip, but no error is measured on it.
        activity: `[N]` int32, or None: a benchmark's class of what is done in a frame, where that changes within a
            clip; 0 where it is not known.
        note: What a report must say about the data.
        visibility: `[N, J]` uint8, or None: the code in `VISIBILITY` of how a simulated detector saw each joint. No
            detector could tell, so it is for evaluation only.
        mixture: `[N, J, M, 6]` float16, or None: the mixtures fitted to the joints' heatmaps (`mixtures.packing`).
        detected: Whether the joints are where a detector of pictures finds them, made of another layout's: not quite
            those of motion capture (`data.joint_centres`).
    """

    keypoints: np.ndarray
    poses: np.ndarray | None
    root: np.ndarray | None
    clip_start: np.ndarray
    clip_length: np.ndarray
    subject: tuple[str, ...]
    action: tuple[str, ...]
    camera: np.ndarray
    fps: np.ndarray
    cameras: Camera | None
    skeleton: Skeleton
    scores: np.ndarray | None = None
    valid_frame: np.ndarray | None = None
    activity: np.ndarray | None = None
    note: str = ""
    visibility: np.ndarray | None = None
    mixture: np.ndarray | None = None
    detected: bool = False

    @classmethod
    def build(cls, clips: Sequence[Clip], skeleton: Skeleton, cameras: Camera | None = None, note: str = "") -> ClipSet:
        """Store clips end to end; no clips give a set of no frames.

        A keypoint that is NaN was not seen: it becomes (0, 0) with a score of 0.

        Args:
            clips: The clips, all of the same skeleton.
            skeleton: Their joint layout.
            cameras: The cameras that the clips' `camera` points to.
            note: What a report must say about the data.

        Raises:
            UserError: For arrays that do not fit together, infinity, NaN in other arrays than keypoints, and mixtures
                of different sizes.
        """
        marked = (mark_missing(clip.keypoints, clip.scores) for clip in clips)
        clips = [
            clip._replace(keypoints=array, scores=scores) for clip, (array, scores) in zip(clips, marked, strict=True)
        ]
        for clip in clips:
            check_clip(clip, skeleton)
        if len(components := {clip.mixture.shape[2] for clip in clips if clip.mixture is not None}) > 1:
            raise UserError(f"mixtures: expected one number of components, found {sorted(components)}")
        lengths = np.array([len(clip.keypoints) for clip in clips], np.int32)
        arrays: dict[str, Any] = {name: join_arrays(clips, name) for name in FRAME_ARRAYS}
        if not clips:
            shapes = frame_shapes(0, skeleton.num_joints)
            arrays |= {name: np.zeros(shapes[name], np.float32) for name in ("keypoints", "poses", "root")}
        return cls(
            **arrays,
            clip_start=(np.cumsum(lengths) - lengths).astype(np.int32),
            clip_length=lengths,
            subject=tuple(clip.subject for clip in clips),
            action=tuple(clip.action for clip in clips),
            camera=np.array([clip.camera for clip in clips], np.int32),
            fps=np.array([clip.fps for clip in clips], np.float32),
            cameras=cameras,
            skeleton=skeleton,
            note=note,
            detected=any(clip.detected for clip in clips),
        )

    def hide_below(self, least_score: float) -> ClipSet:
        """The same frames in which joints of a lower score count as not seen."""
        if self.scores is None:
            return self
        return dataclasses.replace(self, scores=np.where(self.scores < least_score, np.float32(0), self.scores))

    @property
    def seen(self) -> np.ndarray:
        """Which joints were seen, `[N, J]` bool."""
        return np.ones(self.keypoints.shape[:2], bool) if self.scores is None else self.scores > 0

    @property
    def num_frames(self) -> int:
        """The number of frames N."""
        return len(self.keypoints)

    @property
    def num_clips(self) -> int:
        """The number of clips C."""
        return len(self.clip_length)

    def clip(self, index: int) -> Clip:
        """The clip at `index`, as views of the set's arrays."""
        frames = slice(self.clip_start[index], self.clip_start[index] + self.clip_length[index])
        arrays: dict[str, Any] = {name: getattr(self, name) for name in FRAME_ARRAYS}
        arrays = {name: None if array is None else array[frames] for name, array in arrays.items()}
        return Clip(
            **arrays,
            subject=self.subject[index],
            action=self.action[index],
            camera=int(self.camera[index]),
            fps=float(self.fps[index]),
            detected=self.detected,
        )

    def select(self, indices: Iterable[int]) -> ClipSet:
        """The set of the clips at `indices`, in that order."""
        return ClipSet.build([self.clip(i) for i in indices], self.skeleton, self.cameras, self.note)

    def join(self, other: ClipSet) -> ClipSet:
        """The clips of this set and then those of another with the same skeleton and cameras.

        Where one of them has no scores, what it shows was seen for certain.
        """
        scored = self.scores is not None or other.scores is not None
        clips = [part.clip(i) for part in (self, other) for i in range(part.num_clips)]
        if scored:
            clips = [
                clip._replace(scores=np.ones(clip.keypoints.shape[:2], np.float32)) if clip.scores is None else clip
                for clip in clips
            ]
        return ClipSet.build(clips, self.skeleton, self.cameras, self.note)

    def to_layout(self, skeleton: Skeleton) -> ClipSet:
        """The same frames in another joint layout (see `skeleton.convert_layout`).

        A joint made of several is as badly seen as the worst of them. Mixtures are left out where a joint is made of
        several: a mean of Gaussian mixtures is none. Raises UserError where no map between the layouts exists.
        """
        if skeleton == self.skeleton:
            return self
        matrix = layout_matrix(self.skeleton, skeleton)

        def convert(array: np.ndarray) -> np.ndarray:
            return np.asarray(convert_layout(array, self.skeleton, skeleton), np.float32)

        poses, root, visibility, mixture = self.poses, self.root, self.visibility, self.mixture
        if poses is not None:
            poses = convert(poses)
            shift = poses[:, skeleton.root]
            poses, root = poses - shift[:, None], None if root is None else root + shift
        if visibility is not None:
            visibility = np.where(matrix != 0, visibility[:, None, :], np.uint8(0)).max(axis=-1)
        if mixture is not None:
            mixture = mixture[:, matrix.argmax(axis=1)] if (matrix.max(axis=1) == 1).all() else None
        return dataclasses.replace(
            self,
            keypoints=convert(self.keypoints),
            poses=poses,
            root=root,
            scores=None if self.scores is None else convert_scores(self.scores, self.skeleton, skeleton),
            skeleton=skeleton,
            visibility=visibility,
            mixture=mixture,
            detected=self.detected or self.skeleton.marked_in_pictures,
        )

    def frame_clip(self) -> np.ndarray:
        """The index of every frame's clip, `[N]` int32."""
        return np.repeat(np.arange(self.num_clips, dtype=np.int32), self.clip_length)

    def frame_camera(self, frames: slice = slice(None)) -> Camera | None:
        """The camera of every frame, or of some, leading axis `[N]`, or None where any clip's camera is unknown."""
        if self.cameras is None or (self.camera < 0).any():
            return None
        rows = np.arange(*frames.indices(self.num_frames))
        chosen = self.camera[np.searchsorted(self.clip_start, rows, side="right") - 1]
        return Camera(*(np.asarray(field)[chosen] for field in self.cameras))


def check_valid_subjects(named: Collection[str], training: Collection[str]) -> None:
    """Raise UserError unless not all of the training subjects are named for the valid split, and nobody else."""
    if not set(named) < set(training):
        raise UserError(f"valid_subjects: expected some, not all, of {', '.join(training)}, found {', '.join(named)}")
