"""A trained model in memory: load it, lift keypoints, read the result's fields."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import current_value
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import fill_gaps
from diffpose_jax.data.joint_centres import JointCentres, find_joint_centres
from diffpose_jax.data.sets.keypoints import convert_keypoints
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES, ALL, check_aggregates
from diffpose_jax.evaluation.frame_blocks import count_block_frames, lift_blocks
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.metrics import spread
from diffpose_jax.evaluation.warnings import warn_of_keypoints
from diffpose_jax.evaluation.window_cameras import add_pinhole, has_cameras
from diffpose_jax.geometry import solve_root
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.sections import Noise
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.workdir.calibration import LEVELS
from diffpose_jax.workdir.releases import locate
from diffpose_jax.workdir.trained import Trained, load_trained


class Result(NamedTuple):
    """Lifted frames. Poses are root-relative, in the camera's frame: x right, y down, z away from the camera.

    Attributes:
        poses: The aggregate of the hypotheses, `[M, J, 3]`, m.
        hypotheses: The samples, `[M, H, J, 3]`, m.
        spread: The standard deviation of each joint over the hypotheses, `[M, J]`, m.
        root: The position of the root, `[M, 3]`, m, by least squares on the keypoints; None without a known camera.
        clips: The input in the model's layout; `clips.keypoints` are `[M, J, 2]`, normalised image units, with guesses
            where a joint was not seen.
        settings: The step of the weights and the options of sampling.
        radius_50: The radius of each joint's 50 % region around the mean of the hypotheses, `[M, J]`, m
            (docs/calibration.md says what is guaranteed); None without a calibration.
        radius_90: The same of the 90 % region.
    """

    poses: np.ndarray
    hypotheses: np.ndarray
    spread: np.ndarray
    root: np.ndarray | None
    clips: ClipSet
    settings: dict[str, Any]
    radius_50: np.ndarray | None = None
    radius_90: np.ndarray | None = None

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the poses."""
        return self.clips.skeleton

    @property
    def seen(self) -> np.ndarray:
        """Which joints were seen, `[M, J]` bool."""
        return self.clips.seen

    def rows(self, part: slice) -> Result:
        """The same of some of the frames; `clips` stay whole."""
        found: dict[str, Any] = {name: value[part] for name, value in self.arrays().items()}
        return self._replace(**found)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that have a row for each frame, by their names; without those that are None."""
        names = ("poses", "hypotheses", "spread", "root", "radius_50", "radius_90")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Lifting(NamedTuple):
    """The frames of a set, lifted while they are read, so that memory is that of a part.

    Attributes:
        clips: The input in the model's layout, all of it.
        hypotheses: H, how many poses each frame gets.
        settings: The step of the weights and the options of sampling.
        parts: The results of consecutive frames, from the first frame to the last; `clips` of each are all clips.
    """

    clips: ClipSet
    hypotheses: int
    settings: dict[str, Any]
    parts: Iterator[Result]

    def collect(self) -> Result:
        """All parts as one result."""
        first = next(self.parts)
        if len(first.poses) == self.clips.num_frames:
            return first
        whole: dict[str, Any] = {name: np.empty((self.clips.num_frames, *one.shape[1:]), one.dtype)
                 for name, one in first.arrays().items()}  # fmt: skip
        done = 0
        for part in itertools.chain([first], self.parts):
            rows = slice(done, done + len(part.poses))
            for name, values in part.arrays().items():
                whole[name][rows] = values
            done = rows.stop
        return first._replace(**whole)


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained lifter in memory.

    Attributes:
        trained: Its config, variables and calibration.
        name: The title of its progress bar.
        batch_size: Windows per device and compiled call, None: that of the config.
        flip: How the mirrored input enters, 'none', 'half' or 'average' (`Sampling`), None: as in the config. With
            'average' only `Result.poses` is made of averages, `hypotheses` and `spread` are those of the samples.
    """

    trained: Trained
    name: str
    batch_size: int | None = None
    flip: str | bool | None = None

    @property
    def config(self) -> ConfigDict:
        """The config of its training."""
        return self.trained.config

    @property
    def skeleton(self) -> Skeleton:
        """The joints of its poses."""
        return self.trained.lifter.skeleton

    @property
    def needs_mixtures(self) -> bool:
        """Whether it needs mixtures fitted to a detector's heatmaps, as DiffPose does."""
        return bool(self.config.data.mixtures)

    def lift(
        self,
        keypoints: np.ndarray | ClipSet,
        *,
        layout: str = "",
        image_size: tuple[float, float] | None = None,
        hypotheses: int = 20,
        aggregation: str = "mean",
        seed: int | None = None,
        focal: float | None = None,
        noise: Noise = "clip",
    ) -> Result:
        """Lifts keypoints to hypotheses of 3D poses.

        Args:
            keypoints: Pixels `[M, J, 2]` of the frames of one clip, x right and y down, with scores `[M, J, 3]`; or the
                clips that `read_keypoints` gives. A joint that is NaN, or of a score below 0.1, was not seen.
            layout: The joint layout of pixels, such as 'coco17'; clips have their own.
            image_size: Width and height of the image in pixels; clips have normalised keypoints.
            hypotheses: How many poses are drawn for each frame.
            aggregation: How `poses` is made of them: 'mean', 'medoid', 'joint_median' or, with `focal`, 'reprojection'.
            seed: The seed of all noise; that of the config by default.
            focal: Focal length in halves of the image's width (Human3.6M: 2.29); gives the root.
            noise: 'clip': each hypothesis keeps its noise through a clip, so that a single-frame method gives the same
                poses for the same keypoints, and a method of sequences is blended where its windows overlap
                (`evaluation.overlapping`). 'frame': every frame, or window beside window, is drawn independently.

        Raises:
            UserError: A value or a layout that is not possible, or an aggregation that needs a camera.
        """
        _check(hypotheses, aggregation)
        if not isinstance(keypoints, ClipSet):
            keypoints = convert_keypoints(keypoints, layout, image_size, self.skeleton)
        options: dict[str, Any] = {"aggregation": aggregation, "seed": seed, "focal": focal, "noise": noise}
        return self.lift_parts(keypoints, hypotheses=hypotheses, **options).collect()

    def lift_parts(
        self,
        clips: ClipSet,
        *,
        hypotheses: int = 20,
        aggregation: str = "mean",
        seed: int | None = None,
        focal: float | None = None,
        noise: Noise = "clip",
    ) -> Lifting:
        """Lifts clips as `lift` does, with the same results, while its parts are read.

        Args:
            clips: What `read_keypoints` gives.
            hypotheses: As in `lift`, and so are the others.
            aggregation: How one pose is made of them.
            seed: The seed of all noise.
            focal: Focal length.
            noise: Whose noise hypotheses have.

        Raises:
            UserError: A value or a layout that is not possible, or an aggregation that needs a camera.
        """
        _check(hypotheses, aggregation)
        clips = fill_gaps(clips.to_layout(self.skeleton))
        clips = clips if focal is None else add_pinhole(clips, focal)
        if AGGREGATES[aggregation].needs_camera and not has_cameras(clips):
            raise UserError(f"aggregation {aggregation}: expected a known camera (focal), found none")
        warn_of_keypoints(self.trained, self.joint_centres(clips.detected).place_clips(clips))
        job = self._job(hypotheses, noise, aggregation, seed)
        settings = self._describe(job)
        parts = self._lift_blocks(clips, job, aggregation, settings)
        return Lifting(clips, job.sampling.hypotheses, settings, parts)

    def _lift_blocks(self, clips: ClipSet, job: Job, aggregation: str, settings: dict[str, Any]) -> Iterator[Result]:
        # An equal job on an equal lifter is compiled already: a second call, or a second model, only computes.
        lifter, size = self.trained.lifter, count_block_frames(job.sampling.hypotheses, self.skeleton.num_joints)
        seen, centres = clips.seen, self.joint_centres(clips.detected)
        moved = centres.place_clips(clips)
        for frames, found in lift_blocks(self.name, lifter, self.trained.variables, moved, job, size):
            poses, drawn = (centres.place_as_detected(found[name]) for name in (aggregation, ALL))
            std = spread(np.moveaxis(drawn, 1, 0))
            root = _solve_roots(clips, poses, frames)
            radii = self._radii(std, seen[frames], drawn.shape[1])
            yield Result(poses, drawn, std, root, clips, settings, *centres.widen(radii, LEVELS[: len(radii)]))

    def joint_centres(self, detected: bool) -> JointCentres:
        """How keypoints are moved before they are lifted, and poses after: not, but for those of a detector.

        Args:
            detected: Whether the keypoints are those of a detector of pictures.
        """
        record = self.trained.keypoints
        return find_joint_centres(record.proportions if detected and record else None, self.skeleton)

    def _radii(self, std: np.ndarray, seen: np.ndarray, hypotheses: int) -> tuple[np.ndarray, ...]:
        """The radii of both levels `[M, J]`, m; `()` without regions, or where one hypothesis shows no spread."""
        calibration = self.trained.calibration
        if calibration is None or calibration.regions is None:
            return ()
        if hypotheses == 1 and self.trained.lifter.stochastic:
            return ()
        radii = calibration.regions.radii(std, seen)
        return tuple(radii[:, place] for place in range(radii.shape[1]))

    def sampling(self, hypotheses: int, noise: Noise = "clip", flip: str | bool | None = None) -> Sampling:
        """How hypotheses are drawn, calibrated; mirrored input enters as `flip` says, or else as in the model."""
        chosen = next(one for one in (flip, self.flip, self.config.evaluation.flip) if one is not None)
        count = hypotheses if self.trained.lifter.stochastic else 1
        return Sampling(count, self.trained.temperature or 1.0, current_value("evaluation.flip", chosen), noise)

    def _job(self, hypotheses: int, noise: Noise, aggregation: str, seed: int | None) -> Job:
        sampling = self.sampling(hypotheses, noise)
        section = self.config.evaluation
        seed = self.config.seed if seed is None else seed
        size = section.batch_size if self.batch_size is None else self.batch_size
        return Job(sampling, (ALL, aggregation), size, seed, memory=section.memory)

    def settings(self, hypotheses: int, aggregation: str, seed: int | None) -> dict[str, Any]:
        """What `lift` would write down of the weights and of its sampling."""
        return self._describe(self._job(hypotheses, "clip", aggregation, seed))

    def _describe(self, job: Job) -> dict[str, Any]:
        return {
            "step": self.trained.step,
            "lifter": self.config.lifter.name,
            "hypotheses": job.sampling.hypotheses,
            "aggregation": job.outputs[1],
            "flip": job.sampling.flip,
            "noise": job.sampling.noise,
            "temperature": self.trained.temperature,
            "seed": job.seed,
        }


def load(workdir: str | os.PathLike, batch_size: int | None = None, flip: str | bool | None = None) -> Model:
    """Loads the best model of a work directory, by its valid split, or a released one, such as `sequence`.

    The names of those that come with the package are those of `workdir.releases.shipped_releases`. Raises UserError
    where there is none.

    `batch_size`, the number of windows per device and compiled call, and `flip`, how the mirrored input enters (see
    `Model`), are those of the config by default.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, found {batch_size}")
    return Model(load_trained(workdir), locate(workdir).name, batch_size, flip)


def _check(hypotheses: int, aggregation: str) -> None:
    if hypotheses < 1:
        raise UserError(f"hypotheses: expected at least 1, found {hypotheses}")
    check_aggregates([aggregation])
    if AGGREGATES[aggregation].oracle:
        raise UserError(f"aggregation: expected one that needs no ground truth, found {aggregation!r}")


def _solve_roots(clips: ClipSet, poses: np.ndarray, frames: slice) -> np.ndarray | None:
    """The roots of some frames, `[n, 3]` m; None without known cameras."""
    camera = clips.frame_camera(frames)
    scores = None if clips.scores is None else clips.scores[frames]
    return None if camera is None else np.asarray(solve_root(poses, clips.keypoints[frames], camera, scores))
