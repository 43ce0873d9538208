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
from diffpose_jax.evaluation import coherence, metrics
from diffpose_jax.geometry import Camera, back_project_linear
from diffpose_jax.skeleton import H36M_17, MPI_INF_3DHP_17, Skeleton

Array = jax.Array


class Frames(NamedTuple):
    """What is known about the frames that are measured.

    poses `[M, J, 3]` metres, camera frame, root-relative: the target; follows `[M]` bool: is this the next frame of
    the clip of the one before; keypoints `[M, J, 2]` normalised image units; root `[M, 3]` metres and camera `[M]`, or
    None where they are unknown; window `[M]` int32, the window of consecutive frames of each (`coherence`), -1: none.
    """

    poses: Array
    follows: Array
    keypoints: Array
    root: Array | None = None
    camera: Camera | None = None
    window: Array | None = None


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
        jnp.asarray(coherence.index_windows(follows)),
    )


class Protocol(NamedTuple):
    """A benchmark's rule: `measure(predictions [M, J, 3], frames) -> {metric: [M]}`, in metres or shares.

    `compared(predictions, frames) -> [M, J, 3]` is what it compares with the target, centred or mended as it does.
    """

    measure: Callable[[Array, Frames], dict[str, Array]]
    description: str
    compared: Callable[[Array, Frames], Array]
    needs_root: bool = False
    needs_windows: bool = False
    layout: str | None = None
    by_sequence: bool = False

    def check(self, frames: Frames, skeleton: Skeleton) -> None:
        """Raises UserError where the frames lack what this protocol takes from them."""
        if self.layout not in (None, skeleton.name):
            raise UserError(f"protocol: expected data of layout {self.layout}, found {skeleton.name}")
        if self.needs_root and (frames.root is None or frames.camera is None):
            raise UserError("protocol: expected data with root positions and known cameras, found none of them")
        if self.needs_windows and (frames.window is None or not bool((frames.window >= 0).any())):
            raise UserError(
                f"protocol: expected {coherence.WINDOW} consecutive frames or more (a stride of 1), found none"
            )


def _centred(predictions: Array, _: Frames, skeleton: Skeleton = H36M_17) -> Array:
    return metrics.root_relative(predictions, skeleton.root)


def _as_is(predictions: Array, _: Frames, skeleton: Skeleton = H36M_17) -> Array:
    return predictions


def _mended(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> Array:
    return with_true_root_depth(predictions, frames.keypoints, frames.root, frames.camera, skeleton.root)


def standard(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> dict[str, Array]:
    """All metrics, `[M]` each, of predictions `[M, J, 3]` centred on their own root and not mended otherwise."""
    root = skeleton.root
    predictions = _centred(predictions, frames, skeleton)
    target = metrics.root_relative(frames.poses, root)
    return {
        "mpjpe": metrics.mpjpe(predictions, target),
        "p_mpjpe": metrics.p_mpjpe(predictions, target),
        "n_mpjpe": metrics.n_mpjpe(predictions, target),
        "velocity_error": metrics.velocity_error_of_frames(predictions, target, frames.follows),
        "pck": metrics.pck(predictions, target, root=root),
        "auc": metrics.auc(predictions, target, root=root),
    } | _coherence(predictions, frames, coherence.skeleton_bones(skeleton))


def _coherence(predictions: Array, frames: Frames, bones: coherence.Bones, unbiased: bool = False) -> dict[str, Array]:
    window = frames.window
    if window is None:
        window = jnp.full(len(predictions), -1, jnp.int32)
    deviation = coherence.segment_deviation_of_frames(predictions, window, bones, unbiased=unbiased)
    return {
        "symmetry_gap": jnp.mean(coherence.symmetry_gaps(predictions, bones), axis=-1),
        "segment_deviation": deviation,
    }


def mpi_inf_3dhp(predictions: Array, frames: Frames, skeleton: Skeleton = MPI_INF_3DHP_17) -> dict[str, Array]:
    """The measures of MPI-INF-3DHP's MATLAB tool, `[M]` each, of predictions `[M, 17, 3]` used as they are.

    MPJPE over all 17 joints, the root included; PCK and AUC over the 14 joints of `metrics.JOINT_GROUPS_3DHP`, in all
    and by group. P-MPJPE, velocity error and coherence are not the tool's.
    """
    target = metrics.root_relative(frames.poses, skeleton.root)
    errors = metrics.joint_errors(predictions, target)
    pck, auc = metrics.pck_3dhp(errors), metrics.auc_3dhp(errors)
    groups = {f"pck_{name}": pck[name] for name in metrics.JOINT_GROUPS_3DHP}
    groups |= {f"auc_{name}": auc[name] for name in metrics.JOINT_GROUPS_3DHP}
    return {
        "mpjpe": jnp.mean(errors, axis=-1),
        "p_mpjpe": metrics.p_mpjpe(predictions, target),
        "velocity_error": metrics.velocity_error_of_frames(predictions, target, frames.follows),
        "pck": pck["total"],
        "auc": auc["total"],
        **groups,
    } | _coherence(predictions, frames, coherence.skeleton_bones(skeleton))


def diffhpe_release(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> dict[str, Array]:
    """The measures of Rommel et al.'s release (2023), `[M]` each, of predictions `[M, 17, 3]` used as they are.

    Frames left over at the end of a clip do not count (NaN); bones are `coherence.released_bones`, their standard
    deviation is unbiased.
    """
    errors = metrics.mpjpe(predictions, frames.poses)
    found = {"mpjpe": errors} | _coherence(predictions, frames, coherence.released_bones(), unbiased=True)
    return {name: jnp.where(frames.window >= 0, value, jnp.nan) for name, value in found.items()}


def official_backprojection(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> dict[str, Array]:
    """What Choi et al.'s release (2023) reports for predictions `[M, J, 3]`, `[M]` each: `with_true_root_depth`.

    Its N-MPJPE keeps the release's shifted axes.
    """
    mended = _mended(predictions, frames, skeleton)
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
    ground truth. The lens is taken for a pinhole, and the root joint is zero, as in Choi et al.'s release.
    """
    depth = predictions[..., 2] + true_root[..., 2:]
    joints = back_project_linear(keypoints, depth.at[..., root].set(true_root[..., 2]), camera)
    return joints - joints[..., root : root + 1, :]


def with_true_root_depth(
    predictions: Array, keypoints: Array, true_root: Array, camera: Camera | None, root: int = 0
) -> Array:
    """The poses that Choi et al.'s release measures, `[..., J, 3]` m: x and y back-projected, z as predicted.

    USES GROUND TRUTH (depth of the root). The release means to blend prediction and back-projection by the error
    against the target, but its first blend overwrites x and y in place; z of the root keeps its predicted value.
    """
    moved = back_projected(predictions, keypoints, true_root, camera, root)
    return jnp.concatenate([moved[..., :2], predictions[..., 2:]], axis=-1)


PROTOCOLS: dict[str, Protocol] = {
    "standard": Protocol(
        standard, "root-relative, each prediction centred on its own root; no ground truth at test time", _centred
    ),
    "mpi_inf_3dhp": Protocol(
        mpi_inf_3dhp,
        "as the benchmark's MATLAB tool: valid frames, predictions used as they are; MPJPE over 17 joints with the "
        "root, PCK (strictly below 150 mm) and AUC (31 thresholds from 0, at most 96.8 %) over 14 joints",
        _as_is,
        layout=MPI_INF_3DHP_17.name,
        by_sequence=True,
    ),
    "whole_windows": Protocol(
        diffhpe_release,
        f"as Rommel et al.'s release (2023): predictions used as they are, whole windows of {coherence.WINDOW} frames "
        "only, shoulders hung from the spine, unbiased segment std",
        _as_is,
        needs_windows=True,
        layout=H36M_17.name,
    ),
    "official_backprojection": Protocol(
        official_backprojection,
        "as Choi et al.'s release (2023): x and y of every prediction are replaced by the keypoints back-projected "
        "with the GROUND-TRUTH depth of the root and the true camera; not comparable with standard figures",
        _mended,
        needs_root=True,
    ),
}


def default_protocol(skeleton: Skeleton) -> str:
    """The protocol of the benchmark with that layout where it has its own, else `standard`."""
    return "mpi_inf_3dhp" if skeleton == MPI_INF_3DHP_17 else "standard"


def get_protocol(name: str, skeleton: Skeleton = H36M_17) -> Protocol:
    """The protocol of that name for poses of that skeleton. Raises UserError listing the names there are."""
    if name not in PROTOCOLS:
        raise UserError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {name!r}")
    protocol = PROTOCOLS[name]
    bound = {key: partial(getattr(protocol, key), skeleton=skeleton) for key in ("measure", "compared")}
    return protocol._replace(**bound)
