"""Lifting the people of one frame after the other at once, with programs that are all compiled beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import fill_gaps
from diffpose_jax.data.joint_centres import JointCentres
from diffpose_jax.data.views import pinhole
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.metrics import spread
from diffpose_jax.export import make_sampler
from diffpose_jax.formats.keypoint_files import MIN_SCORE
from diffpose_jax.geometry import normalise_screen, solve_root
from diffpose_jax.lifters.base import Variables
from diffpose_jax.model import Model
from diffpose_jax.skeleton import Skeleton, convert_layout, convert_scores
from diffpose_jax.video.tracking import Body
from diffpose_jax.world import assume_focal

# People of one compiled call; of more, the next call takes the rest. What is missing is filled up.
SIZES = (1, 2, 4)


class LivePeople(NamedTuple):
    """P people of one frame. Poses are root-relative, in the camera's frame, m.

    Attributes:
        keypoints: Pixels `[P, J, 2]`.
        seen: `[P, J]` bool.
        poses: The means of the hypotheses, `[P, J, 3]`.
        hypotheses: `[P, H, J, 3]`.
        spread: Standard deviation of each joint over the hypotheses, `[P, J]` m.
        root: Positions of the roots, `[P, 3]` m.
    """

    keypoints: np.ndarray
    seen: np.ndarray
    poses: np.ndarray
    hypotheses: np.ndarray
    spread: np.ndarray
    root: np.ndarray


class LiveLifter:
    """Lifts the people of one frame after the other, with programs that are all compiled beforehand.

    Args:
        model: A lifter of single frames.
        layout: The detector's joints.
        image_size: Width and height of the picture in pixels.
        hypotheses: Poses drawn for each frame.
        seed: Seed of all noise; None: that of the model.
        focal: Focal length in pixels; None: that of a phone's main camera.

    Raises:
        UserError: A lifter of sequences, or of heatmap mixtures.
    """

    def __init__(
        self,
        model: Model,
        layout: Skeleton,
        image_size: tuple[int, int],
        hypotheses: int = 20,
        seed: int | None = None,
        focal: float | None = None,
    ):
        lifter = model.trained.lifter
        if lifter.frames > 1 or model.needs_mixtures:
            found = f"{lifter.frames} frames" if lifter.frames > 1 else "heatmap mixtures"
            raise UserError(f"--live: expected a model of keypoints in single frames, found {model.name}, of {found}")
        self.skeleton, self._layout, self._image_size = lifter.skeleton, layout, image_size
        self._told = lifter.takes_mask
        self._focal = np.float32(2 * (focal or assume_focal(image_size)) / image_size[0])
        self._seed = np.uint32(model.config.seed if seed is None else seed)
        self._variables = jax.device_put(jax.device_get(model.trained.variables), jax.local_devices()[0])
        sampler = make_sampler(lifter, model.sampling(hypotheses))
        centres = model.joint_centres(layout.marked_in_pictures)
        call = jax.jit(partial(_lift, sampler, centres))
        joints = lifter.skeleton.num_joints
        # Compiled for each size: a third person must not stop the picture.
        self._calls = {
            size: call.lower(self._variables, *self._arguments(np.zeros((size, joints, 3), np.float32))).compile()
            for size in SIZES
        }

    def _arguments(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.uint32]:
        """The arguments of a call for keypoints and scores `[N, J, 3]`."""
        return points[:, None], np.full(len(points), self._focal), self._seed

    def lift(self, bodies: Mapping[int, Body]) -> tuple[list[int], LivePeople | None]:
        """The identities of those of whom a joint was seen, and the people; None where there is nobody."""
        found = list(bodies.values())
        keypoints = [convert_layout(np.asarray(one.keypoints, float), self._layout, self.skeleton) for one in found]
        scores = [convert_scores(np.asarray(one.scores, np.float32), self._layout, self.skeleton) for one in found]
        if not found:
            return [], None
        pixels, level = np.stack(keypoints), np.stack(scores)
        seen = (level >= MIN_SCORE) & np.isfinite(pixels).all(axis=-1)
        shown = np.flatnonzero(seen.any(axis=-1))
        if not len(shown):
            return [], None
        pixels, level, seen = pixels[shown], level[shown], seen[shown]
        lifted = self._run(self._complete(pixels, np.where(seen, level, 0)))
        names = [list(bodies)[place] for place in shown]
        return names, LivePeople(np.nan_to_num(pixels), seen, *lifted)

    def _complete(self, pixels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Normalised keypoints and scores `[P, J, 3]`, with guesses where the lifter is not told of hidden joints."""
        points = normalise_screen(pixels, np.asarray(self._image_size, float)).astype(np.float32)
        points = np.where(scores[..., None] > 0, points, 0)
        if not self._told and not scores.all():
            rows = [(points[row : row + 1], scores[row : row + 1]) for row in range(len(points))]
            clips = [Clip(one, None, None, "live", "live", scores=level) for one, level in rows]
            points = fill_gaps(ClipSet.build(clips, self.skeleton)).keypoints
        return np.concatenate([points, scores[..., None]], axis=-1, dtype=np.float32)

    def _run(self, points: np.ndarray) -> list[np.ndarray]:
        parts = []
        for first in range(0, len(points), SIZES[-1]):
            part = points[first : first + SIZES[-1]]
            size = next(size for size in SIZES if size >= len(part))
            # What is added is the first person once more: numbers that any lifter takes.
            padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            found = self._calls[size](self._variables, *self._arguments(padded))
            parts.append([np.asarray(each)[: len(part)] for each in found])
        return [np.nan_to_num(np.concatenate(each)) for each in zip(*parts, strict=True)]


def _lift(
    sampler: Any, centres: JointCentres, variables: Variables, points: Array, focal: Array, seed: Array
) -> tuple[Array, ...]:
    """Poses `[N, J, 3]`, hypotheses `[N, H, J, 3]`, spread `[N, J]` and roots `[N, 3]` of people `[N, 1, J, 3]`."""
    keypoints, scores = points[..., :2], points[..., 2]
    clip = jnp.zeros(len(points), jnp.int32)  # one noise for all: the same keypoints always give the same pose
    given = centres.place_as_trained(keypoints, scores > 0)
    drawn = jnp.swapaxes(sampler(variables, given, scores, focal, seed, clip)[:, :, 0], 0, 1)
    drawn = centres.place_as_detected(drawn)
    poses = jnp.mean(drawn, axis=1)
    std = spread(jnp.swapaxes(drawn, 0, 1))
    camera = jax.vmap(pinhole)(focal)
    root = solve_root(poses, keypoints[:, 0], camera, scores[:, 0])
    return poses, drawn, std, root
