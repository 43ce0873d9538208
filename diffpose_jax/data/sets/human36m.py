"""Human3.6M from the files everyone uses: VideoPose3D's `data_3d_h36m.npz` and `data_2d_h36m_{detections}.npz`.

The 3D file holds, per subject and action, 32 mocap joints in the world (m); the 2D files hold, per subject, action and
camera, the pixels of a detector or of the projected mocap (`gt`). 50 Hz, no down-sampling. Test subjects are S9 and
S11; valid is carved out of the training subjects S1, S5, S6, S7, S8 by `valid_subjects`. Published runs train on all
five, as empty `valid_subjects` do too, and select on the test split, which nothing here does. S11's `Directions` is
left out: its mocap is corrupt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from diffpose_jax.data.cameras import H36M_SUBJECTS, h36m_cameras
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import SPLITS, ClipSet, check_valid_subjects
from diffpose_jax.data.sets.videopose3d import Joints, Recordings, list_views, pair_view, read_recordings
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17, Skeleton, get_skeleton

TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
TEST_SUBJECTS = ("S9", "S11")
CORRUPT = {("S11", "Directions")}
FPS = 50.0
CAMERAS = 4

# The rows of the 32 mocap joints that make `H36M_17`.
JOINTS_17_OF_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
_MOCAP = Joints(32, JOINTS_17_OF_32, H36M_17)

ALIASES = {"cpn": "cpn_ft_h36m_dbb"}


def load_human36m(
    folder: str | os.PathLike,
    *,
    detections: str = "gt",
    layout: str | None = None,
    valid_subjects: Collection[str] = ("S8",),
) -> dict[str, ClipSet]:
    """Read Human3.6M as 2D-3D pairs, one clip per subject, action and camera.

    Args:
        folder: Where the two files are.
        detections: The 2D file, 'gt', 'cpn' (for 'cpn_ft_h36m_dbb'), 'hr', ...
        layout: 'h36m17' or 'h36m16'; None takes the 16-joint layout for files of 16 joints (HRNet, SemGCN's 'gt') and
            the 17-joint one for all others. 2D of another layout is converted (17 to 16 drops joint 9).
        valid_subjects: Those of the training subjects that make the valid split; none: all of them train.

    Returns:
        `{split: ClipSet}`. Clips are named by their action without its take; `cameras` holds the four cameras of all
        seven subjects.

    Raises:
        UserError: For files that are missing, damaged or of another form, and for options that do not fit them.
    """
    check_valid_subjects(valid_subjects, TRAIN_SUBJECTS)
    detections, layouts = ALIASES.get(detections, detections), (H36M_17, H36M_16, COCO_17)
    found = read_recordings(Path(folder), "h36m", detections, H36M_SUBJECTS, layouts)
    target = get_skeleton(layout) if layout else (H36M_16 if found.layout == H36M_16 else H36M_17)
    if target not in (H36M_16, H36M_17):
        raise UserError(f"layout: expected h36m17 or h36m16 for Human3.6M, found {target.name}")
    clips: dict[str, list[Clip]] = {split: [] for split in SPLITS}
    for subject in H36M_SUBJECTS:
        split = "test" if subject in TEST_SUBJECTS else "valid" if subject in valid_subjects else "train"
        clips[split] += _subject_clips(found, subject, target)
    cameras = [h36m_cameras(subject) for subject in H36M_SUBJECTS]
    stacked = Camera(*(np.concatenate(fields) for fields in zip(*cameras, strict=True)))
    return {split: ClipSet.build(part, target, stacked) for split, part in clips.items()}


def _subject_clips(found: Recordings, subject: str, target: Skeleton) -> list[Clip]:
    """The clips of all actions and cameras of a subject."""
    cameras, first, clips = h36m_cameras(subject), CAMERAS * H36M_SUBJECTS.index(subject), []
    for name, positions in found.world[subject].items():
        if (subject, name) in CORRUPT:
            continue
        where = f"{found.path_2d}: {subject}/{name}"
        if name not in found.pixels[subject]:
            raise UserError(f"{found.path_2d}: expected keypoints of {subject}/{name}, found none")
        for index, view in enumerate(list_views(where, found.pixels[subject][name], CAMERAS)):
            camera = Camera(*(field[index] for field in cameras))
            names = (f"{found.path_3d}: {subject}/{name}", f"{where}, camera {index}")
            clip = pair_view(names, positions, view, camera, (_MOCAP, found.layout, target))
            action = re.sub(r" \d+$", "", name)
            clips.append(clip._replace(subject=subject, action=action, camera=first + index, fps=FPS))
    return clips
