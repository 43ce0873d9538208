"""What a benchmark does to predictions before it measures them, by name.

`standard` uses no ground truth but the target itself and is the default. Anything else says in its description what it
takes from the ground truth, and every report that uses it prints its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import metrics
from diffpose_jax.geometry import Camera, back_project_linear

Array = jax.Array


class Frames(NamedTuple):
    """What is known about the frames that are measured.

    poses `[M, J, 3]` metres, camera frame, root-relative: the target; follows `[M]` bool: is this the next frame of
    the clip of the one before; keypoints `[M, J, 2]` normalised image units; root `[M, 3]` metres and camera `[M]`, or
    None where they are unknown.
    """

    poses: Array
    follows: Array
    keypoints: Array
    root: Array | None = None
    camera: Camera | None = None


def known_frames(clips: ClipSet, numbers: np.ndarray) -> Frames:
    """What a set knows about its frames `numbers [M]`. Raises UserError where it has no poses to compare with."""
    if clips.poses is None:
        raise UserError(
            "data: expected 3D poses to compare with, found 2D keypoints only; use `python -m diffpose_jax.predict`"
        )
    clip = clips.frame_clip()[numbers]
    follows = np.concatenate([[False], (np.diff(numbers) == 1) & (np.diff(clip) == 0)])[: len(numbers)]
    camera = clips.frame_camera()
    return Frames(
        jnp.asarray(clips.poses[numbers]),
        jnp.asarray(follows),
        jnp.asarray(clips.keypoints[numbers]),
        None if clips.root is None else jnp.asarray(clips.root[numbers]),
        None if camera is None else Camera(*(jnp.asarray(field[numbers]) for field in camera)),
    )


class Protocol(NamedTuple):
    """A benchmark's rule: `measure(predictions [M, J, 3], frames) -> {metric: [M]}`, in metres or shares."""

    measure: Callable[[Array, Frames], dict[str, Array]]
    description: str
    needs_root: bool = False

    def check(self, frames: Frames) -> None:
        """Raises UserError where the frames lack what this protocol takes from them."""
        if self.needs_root and (frames.root is None or frames.camera is None):
            raise UserError("protocol: expected data with root positions and known cameras, found none of them")


def standard(predictions: Array, frames: Frames, root: int = 0) -> dict[str, Array]:
    """All metrics, `[M]` each, of predictions `[M, J, 3]` centred on their own root and not mended otherwise."""
    predictions = metrics.root_relative(predictions, root)
    target = metrics.root_relative(frames.poses, root)
    return {
        "mpjpe": metrics.mpjpe(predictions, target),
        "p_mpjpe": metrics.p_mpjpe(predictions, target),
        "n_mpjpe": metrics.n_mpjpe(predictions, target),
        "velocity_error": metrics.velocity_error_of_frames(predictions, target, frames.follows),
        "pck": metrics.pck(predictions, target, root=root),
        "auc": metrics.auc(predictions, target, root=root),
    }


def official_backprojection(predictions: Array, frames: Frames, root: int = 0) -> dict[str, Array]:
    """What DiffuPose's release reports for predictions `[M, J, 3]`, `[M]` each: the errors of `with_true_root_depth`.

    Its N-MPJPE keeps the release's shifted axes.
    """
    mended = with_true_root_depth(predictions, frames.keypoints, frames.root, frames.camera, root)
    return {
        "mpjpe": metrics.mpjpe(mended, frames.poses),
        "p_mpjpe": metrics.p_mpjpe(mended, frames.poses),
        "n_mpjpe_official_quirk": metrics.n_mpjpe_official_quirk(mended, frames.poses),
        "velocity_error": metrics.velocity_error_of_frames(mended, frames.poses, frames.follows),
    }


def back_projected(
    predictions: Array, keypoints: Array, true_root: Array, camera: Camera | None, root: int = 0
) -> Array:
    """The poses whose x and y come from the keypoints, the true depth of the root and the camera, `[..., J, 3]` m.

    predictions `[..., J, 3]` root-relative, of which only z is used; keypoints `[..., J, 2]`; true_root `[..., 3]`
    ground truth. The lens is taken for a pinhole, and the root joint is zero, as in DiffuPose's release.
    """
    depth = predictions[..., 2] + true_root[..., 2:]
    joints = back_project_linear(keypoints, depth.at[..., root].set(true_root[..., 2]), camera)
    return joints - joints[..., root : root + 1, :]


def with_true_root_depth(
    predictions: Array, keypoints: Array, true_root: Array, camera: Camera | None, root: int = 0
) -> Array:
    """The poses that DiffuPose's release measures, `[..., J, 3]` m: x and y back-projected, z as predicted.

    USES GROUND TRUTH (depth of the root). The release means to blend prediction and back-projection by the error
    against the target, but its first blend overwrites x and y in place; z of the root keeps its predicted value.
    """
    moved = back_projected(predictions, keypoints, true_root, camera, root)
    return jnp.concatenate([moved[..., :2], predictions[..., 2:]], axis=-1)


PROTOCOLS: dict[str, Protocol] = {
    "standard": Protocol(
        standard, "root-relative, each prediction centred on its own root; no ground truth at test time"
    ),
    "official_backprojection": Protocol(
        official_backprojection,
        "as DiffuPose's release: x and y of every prediction are replaced by the keypoints back-projected with the "
        "GROUND-TRUTH depth of the root and the true camera; not comparable with standard figures",
        needs_root=True,
    ),
}


def get_protocol(name: str, root: int = 0) -> Protocol:
    """The protocol of that name for skeletons with that root joint. Raises UserError listing the names there are."""
    if name not in PROTOCOLS:
        raise UserError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {name!r}")
    protocol = PROTOCOLS[name]
    return protocol._replace(measure=partial(protocol.measure, root=root))
