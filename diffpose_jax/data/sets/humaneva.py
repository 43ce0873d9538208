"""HumanEva-I from VideoPose3D's `data_3d_humaneva15.npz` and `data_2d_humaneva15_{detections}.npz`.

The 3D file holds, per subject ('Train/S1', 'Validate/S1', ...) and recording, 15 joints in the world (m). Recordings
are cut where the motion capture failed and named after the pieces that are left: 'Walking 1 chunk0', 'Walking 1
chunk2'. The 2D files hold the pixels of three cameras of 640x480; their entries 'Unlabeled/...' have no 3D and are not
read. The lenses are not known: keypoints are normalised by the resolution alone, and the sets have no cameras.

Everybody trains on the Train part of S1, S2 and S3 and tests on the Validate part of the same people. Valid is the end
of every training piece, so that the test part is neither trained on nor selected on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import SPLITS, ClipSet
from diffpose_jax.data.sets.videopose3d import Joints, Recordings, list_views, pair_view, read_recordings
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, HUMANEVA_15

SUBJECTS = ("S1", "S2", "S3")
PARTS = ("Train", "Validate")
FPS = 60.0
SIZE = (640, 480)
CAMERAS = 3
_MOCAP = Joints(HUMANEVA_15.num_joints, tuple(range(HUMANEVA_15.num_joints)), HUMANEVA_15)

# Per subject and camera: quaternion from camera to world axes, position in the world in millimetres. S1 and S3 were
# recorded with one placement of the cameras.
_PLACED = (
    ((0.424207, -0.4983646, -0.5802981, 0.4847012), (4062.227, 663.2477, 1528.397)),
    ((0.6503354, -0.7481602, -0.0919284, 0.0941766), (844.8131, -3805.2092, 1504.9929)),
    ((0.0664734, -0.0690535, 0.7416416, -0.6639132), (-797.67377, 3916.3174, 1433.6602)),
)
EXTRINSICS = {
    "S1": _PLACED,
    "S2": (
        ((0.4214752, -0.4961493, -0.5838273, 0.4851187), (4112.9121, 626.4929, 1545.2988)),
        ((0.6501393, -0.7476588, -0.0954617, 0.0959808), (923.5740, -3877.9243, 1504.5518)),
        ((0.0699353, -0.0712403, 0.7421637, -0.662742), (-781.4915, 3838.8853, 1444.9929)),
    ),
    "S3": _PLACED,
}


def load_humaneva(
    folder: str | os.PathLike,
    *,
    detections: str = "gt",
    valid_share: float = 0.1,
    actions: Collection[str] | None = None,
) -> dict[str, ClipSet]:
    """Read HumanEva-I as 2D-3D pairs, layout `humaneva15`, one clip per piece and camera.

    Args:
        folder: Where the two files are.
        detections: The 2D file, 'gt', 'detectron_pt_coco', ...; 2D of COCO's joints is converted.
        valid_share: The share of the frames of every training piece, from its end, that make the valid split; pieces of
            fewer than two frames train. 0: there is none.
        actions: The actions to read, such as 'Walking', 'Jog' and 'Box'; None: all.

    Returns:
        `{split: ClipSet}`. Clips are named by their action alone ('Walking'), and their cameras are unknown.

    Raises:
        UserError: For files that are missing, damaged or of another form, a share outside 0 to 1, and actions that are
            not in the files.
    """
    subjects = [f"{part}/{subject}" for part in PARTS for subject in SUBJECTS]
    found = read_recordings(Path(folder), "humaneva15", detections, subjects, (HUMANEVA_15, COCO_17))
    if not 0 <= valid_share < 1:
        raise UserError(f"valid_share: expected a share from 0 to below 1, found {valid_share}")
    clips: dict[str, list[Clip]] = {split: [] for split in SPLITS}
    known = {_action(name) for pieces in found.world.values() for name in pieces}
    wanted = known if actions is None else set(actions)
    if not wanted or wanted - known:
        missing = ", ".join(sorted(wanted - known)) or "none"
        raise UserError(f"actions: expected some of {', '.join(sorted(known))}, found {missing}")
    for subject in SUBJECTS:
        for clip in _part_clips(found, f"Train/{subject}"):
            for split, piece in zip(("train", "valid"), _split_end(clip, valid_share), strict=True):
                clips[split] += [piece] if len(piece.keypoints) else []
        clips["test"] += _part_clips(found, f"Validate/{subject}")
    chosen = {split: [clip for clip in part if clip.action in wanted] for split, part in clips.items()}
    return {split: ClipSet.build(part, HUMANEVA_15) for split, part in chosen.items()}


def humaneva_cameras(subject: str) -> Camera:
    """The three cameras of a subject, leading axis `[3]`, numpy float32: where they stand (m) and their resolution.

    Their lenses are NOT known: the focal length is zero, so that nothing can be projected by mistake.
    """
    rotation, millimetres = (np.array(column, np.float32) for column in zip(*EXTRINSICS[subject], strict=True))
    nothing = {"focal": 2, "centre": 2, "radial": 3, "tangential": 2}
    return Camera(
        **{name: np.zeros((3, width), np.float32) for name, width in nothing.items()},
        rotation=rotation,
        translation=millimetres / 1000,
        size=np.tile(np.array(SIZE, np.float32), (3, 1)),
    )


def _part_clips(found: Recordings, part: str) -> list[Clip]:
    """The clips of all pieces and cameras of a part such as 'Train/S1'."""
    subject, clips = part.rpartition("/")[-1], []
    cameras = humaneva_cameras(subject)
    for name, positions in found.world[part].items():
        where = f"{found.path_2d}: {part}/{name}"
        for index, view in enumerate(list_views(where, found.pixels[part].get(name), CAMERAS)):
            camera = Camera(*(field[index] for field in cameras))
            names = f"{found.path_3d}: {part}/{name}", f"{where}, camera {index}"
            clip = pair_view(names, positions, view, camera, (_MOCAP, found.layout, HUMANEVA_15))
            clips.append(clip._replace(subject=subject, action=_action(name), fps=FPS))
    return clips


def _action(name: object) -> str:
    """The action of a piece: 'Walking' of 'Walking 1 chunk0'."""
    return re.sub(r"( \d+)?( chunk\d+)?$", "", str(name))


def _split_end(clip: Clip, share: float) -> tuple[Clip, Clip]:
    """The clip without the share of its frames at its end, and these; either may be empty."""
    frames = len(clip.keypoints)
    first = frames - (round(frames * share) if frames > 1 else 0)
    arrays = {name: getattr(clip, name) for name in ("keypoints", "poses", "root", "scores")}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    start = clip._replace(**{name: array[:first] for name, array in arrays.items()})
    return start, clip._replace(**{name: array[first:] for name, array in arrays.items()})
