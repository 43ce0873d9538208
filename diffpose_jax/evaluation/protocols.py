"""Protocols: what a benchmark does to predictions before it measures them, and which metrics it reports.

`standard` uses no ground truth but the target itself and is the default. The others repeat what a benchmark's tool or a
release does; their descriptions say what they take from the ground truth, and every report that uses one prints both
name and description. Names of what only a release does end in `release`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
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
    """The ground truth and the input of the frames that are measured.

    Attributes:
        poses: The target `[M, J, 3]`, root-relative m in the camera's frame.
        follows: Whether a frame is the successor of the frame before it, in the same clip, `[M]` bool.
        keypoints: `[M, J, 2]`, normalised image units.
        root: Positions of the root `[M, 3]`, m, None where they are not known.
        camera: The cameras `[M]`, None where they are not known.
        window: The index of each frame's window of consecutive frames, `[M]` int32, -1: none (`coherence`).
    """

    poses: Array
    follows: Array
    keypoints: Array
    root: Array | None = None
    camera: Camera | None = None
    window: Array | None = None

    @property
    def has_windows(self) -> bool:
        """Whether any frames form a whole window."""
        return self.window is not None and bool(jnp.any(self.window >= 0))


def select_frames(clips: ClipSet, indices: np.ndarray) -> Frames:
    """The frames of a set at `indices [M]`, ascending. Raises UserError where it has no poses to compare with."""
    if clips.poses is None:
        raise UserError(
            "data: expected 3D poses to compare with, found 2D keypoints only; use `python -m diffpose_jax.predict`"
        )
    clip = clips.frame_clip()[indices]
    # A velocity needs the frame before: not across clips, and not across frames that are left out.
    follows = np.concatenate([[False], (np.diff(indices) == 1) & (np.diff(clip) == 0)])[: len(indices)]
    camera = clips.frame_camera()
    return Frames(
        jnp.asarray(clips.poses[indices]),
        jnp.asarray(follows),
        jnp.asarray(clips.keypoints[indices]),
        None if clips.root is None else jnp.asarray(clips.root[indices]),
        None if camera is None else Camera(*(jnp.asarray(field[indices]) for field in camera)),
        jnp.asarray(coherence.index_windows(follows)),
    )


class Protocol(NamedTuple):
    """A benchmark's rule.

    Attributes:
        measure: (predictions `[M, J, 3]`, frames, skeleton) -> `{metric: [M]}`, in metres or shares. What
            `get_protocol` gives has the skeleton bound.
        description: What a report says of it.
        transform: (predictions `[M, J, 3]`, frames, skeleton) -> `[M, J, 3]`, the poses that it compares with the
            target.
        needs_root: Whether it reads the true position of the root, and the camera.
        needs_windows: Whether it measures whole windows of consecutive frames only.
        layout: The only layout that it measures, None: any.
        by_sequence: Whether it averages over sequences, not over actions.
    """

    measure: Callable[..., dict[str, Array]]
    description: str
    transform: Callable[..., Array]
    needs_root: bool = False
    needs_windows: bool = False
    layout: str | None = None
    by_sequence: bool = False

    def check(self, frames: Frames, skeleton: Skeleton) -> None:
        """Raises UserError where the frames lack what this protocol reads of them."""
        if self.layout not in (None, skeleton.name):
            raise UserError(f"protocol: expected data of layout {self.layout}, found {skeleton.name}")
        if self.needs_root and (frames.root is None or frames.camera is None):
            raise UserError("protocol: expected data with root positions and known cameras, found none of them")
        if self.needs_windows and not frames.has_windows:
            raise UserError(
                f"protocol: expected {coherence.WINDOW} consecutive frames or more (a stride of 1), found none"
            )


def _centre(predictions: Array, _: Frames, skeleton: Skeleton = H36M_17) -> Array:
    return metrics.root_relative(predictions, skeleton.root)


def _keep(predictions: Array, _: Frames, skeleton: Skeleton = H36M_17) -> Array:
    return predictions


def _overwrite_xy_release(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> Array:
    assert frames.root is not None, "Protocol.check refuses such frames"
    assert frames.camera is not None, "Protocol.check refuses such frames"
    return back_project_release(predictions, frames.keypoints, frames.root, frames.camera, skeleton.root)


def standard(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> dict[str, Array]:
    """All metrics, `[M]` each, of predictions `[M, J, 3]` centred on their own root and otherwise as they are."""
    root = skeleton.root
    predictions = _centre(predictions, frames, skeleton)
    target = metrics.root_relative(frames.poses, root)
    return {
        "mpjpe": metrics.mpjpe(predictions, target),
        "p_mpjpe": metrics.p_mpjpe(predictions, target),
        "n_mpjpe": metrics.n_mpjpe(predictions, target),
        "velocity_error": metrics.velocity_error_of_frames(predictions, target, frames.follows),
        "pck": metrics.pck(predictions, target, root=root),
        "auc": metrics.auc(predictions, target, root=root),
    } | _coherence(predictions, frames, coherence.list_bones(skeleton))


def _coherence(predictions: Array, frames: Frames, bones: coherence.Bones, unbiased: bool = False) -> dict[str, Array]:
    window = jnp.full(len(predictions), -1, jnp.int32) if frames.window is None else frames.window
    return {
        "symmetry_gap": jnp.mean(coherence.symmetry_gaps(predictions, bones), axis=-1),
        "segment_std": coherence.segment_std_of_frames(predictions, window, bones, unbiased=unbiased),
    }


def mpi_inf_3dhp(predictions: Array, frames: Frames, skeleton: Skeleton = MPI_INF_3DHP_17) -> dict[str, Array]:
    """The measures of MPI-INF-3DHP's MATLAB tool, `[M]` each, of predictions `[M, 17, 3]` used as they are.

    MPJPE over all 17 joints, the root included; PCK and AUC over the 14 joints of `metrics.JOINT_GROUPS_3DHP`, in all
    and by group. P-MPJPE, velocity error and coherence are not measures of the tool.
    """
    # The tool subtracts the true root from the target but nothing from the prediction (mpii_compute_3d_pck.m): the
    # root's own error, which `standard` sets to zero, is one of the 17.
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
    } | _coherence(predictions, frames, coherence.list_bones(skeleton))


def whole_windows_release(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> dict[str, Array]:
    """The measures of Rommel et al.'s release (2023), `[M]` each, of predictions `[M, 17, 3]` used as they are.

    Frames left over at the end of a clip do not count (NaN); bones are `coherence.list_bones_release`, their standard
    deviation is unbiased.
    """
    assert frames.window is not None, "Protocol.check refuses such frames"
    errors = metrics.mpjpe(predictions, frames.poses)
    found = {"mpjpe": errors} | _coherence(predictions, frames, coherence.list_bones_release(), unbiased=True)
    return {name: jnp.where(frames.window >= 0, value, jnp.nan) for name, value in found.items()}


def backprojection_release(predictions: Array, frames: Frames, skeleton: Skeleton = H36M_17) -> dict[str, Array]:
    """The measures of Choi et al.'s release (2023), `[M]` each, of predictions `[M, J, 3]` with replaced x and y.

    The poses are those of `back_project_release`, N-MPJPE is `metrics.n_mpjpe_release`.
    """
    poses = _overwrite_xy_release(predictions, frames, skeleton)
    return {
        "mpjpe": metrics.mpjpe(poses, frames.poses),
        "p_mpjpe": metrics.p_mpjpe(poses, frames.poses),
        "n_mpjpe_release": metrics.n_mpjpe_release(poses, frames.poses),
        "velocity_error": metrics.velocity_error_of_frames(poses, frames.poses, frames.follows),
    }


def back_project(predictions: Array, keypoints: Array, true_root: Array, camera: Camera, root: int = 0) -> Array:
    """The poses whose x and y come from the keypoints, the true depth of the root and the camera, `[..., J, 3]` m.

    USES GROUND TRUTH (depth of the root). The lens is taken for a pinhole, and the root joint is zero, as in Choi et
    al.'s release.

    Args:
        predictions: `[..., J, 3]`, root-relative m, of which only z is used.
        keypoints: `[..., J, 2]`, normalised image units.
        true_root: The ground-truth position of the root, `[..., 3]`, m; only its depth is used.
        camera: The cameras `[...]`.
        root: The root joint.
    """
    # A keypoint (u, v) lies on the ray ((u - c_x) / f_x, (v - c_y) / f_y, 1); the joint is where the ray has the depth
    # Z = z_predicted + Z_root.
    depth = predictions[..., 2] + true_root[..., 2:]
    joints = back_project_linear(keypoints, depth.at[..., root].set(true_root[..., 2]), camera)
    return joints - joints[..., root : root + 1, :]


def back_project_release(
    predictions: Array, keypoints: Array, true_root: Array, camera: Camera, root: int = 0
) -> Array:
    """The poses that Choi et al.'s release measures, `[..., J, 3]` m: x and y of `back_project`, z as predicted.

    USES GROUND TRUTH (depth of the root).

    Args:
        predictions: `[..., J, 3]`, root-relative m, of which only z is used.
        keypoints: `[..., J, 2]`, normalised image units.
        true_root: The ground-truth position of the root, `[..., 3]`, m; only its depth is used.
        camera: The cameras `[...]`.
        root: The root joint.
    """
    # The release searches 100 blends of predicted and back-projected x and y for the least error against the target.
    # It writes the blends into the prediction itself, and the first one has weight 0 on the prediction, so that every
    # blend is the back-projection. z is not blended, also not that of the root.
    moved = back_project(predictions, keypoints, true_root, camera, root)
    return jnp.concatenate([moved[..., :2], predictions[..., 2:]], axis=-1)


PROTOCOLS: dict[str, Protocol] = {
    "standard": Protocol(
        standard, "root-relative, each prediction centred on its own root; no ground truth at test time", _centre
    ),
    "mpi_inf_3dhp": Protocol(
        mpi_inf_3dhp,
        "as the benchmark's MATLAB tool: valid frames, predictions used as they are; MPJPE over 17 joints with the "
        "root, PCK (strictly below 150 mm) and AUC (31 thresholds from 0, at most 96.8 %) over 14 joints",
        _keep,
        layout=MPI_INF_3DHP_17.name,
        by_sequence=True,
    ),
    "whole_windows_release": Protocol(
        whole_windows_release,
        f"as Rommel et al.'s release (2023): predictions used as they are, whole windows of {coherence.WINDOW} frames "
        "only, shoulders hung from the spine, unbiased segment std",
        _keep,
        needs_windows=True,
        layout=H36M_17.name,
    ),
    "backprojection_release": Protocol(
        backprojection_release,
        "as Choi et al.'s release (2023): x and y of every prediction are replaced by the keypoints back-projected "
        "with the GROUND-TRUTH depth of the root and the true camera; not comparable with standard figures",
        _overwrite_xy_release,
        needs_root=True,
    ),
}

# Names of version 0.1.
_RENAMED = {"whole_windows": "whole_windows_release", "official_backprojection": "backprojection_release"}


def default_protocol(skeleton: Skeleton) -> str:
    """The protocol of the benchmark with that layout where it has its own, else `standard`."""
    return "mpi_inf_3dhp" if skeleton == MPI_INF_3DHP_17 else "standard"


@cache
def get_protocol(name: str, skeleton: Skeleton = H36M_17) -> Protocol:
    """The protocol of that name for poses of that skeleton, compiled once. Raises UserError listing the names."""
    if name in _RENAMED:
        raise UserError(f"protocol: {name!r} is called {_RENAMED[name]!r} now")
    if name not in PROTOCOLS:
        raise UserError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {name!r}")
    protocol = PROTOCOLS[name]
    measure, transform = (jax.jit(partial(one, skeleton=skeleton)) for one in (protocol.measure, protocol.transform))
    return protocol._replace(measure=measure, transform=transform)
