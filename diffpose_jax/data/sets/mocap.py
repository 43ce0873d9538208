"""Motion capture files (ASF/AMC, BVH) as Human3.6M's 17 joints, and a folder of them as 2D-3D pairs.

The recipe is that of the CMU archive: joint angles are interpolated to the new frame rate, the figure is posed by
forward kinematics, its y-up axes become z-up, the chains of bones that Human3.6M sees as one get their rest length, and
the toes stand on the floor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from diffpose_jax.data.cameras import h36m_cameras
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.motion import Motion, film_splits, split_subjects
from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import Recording, node_positions
from diffpose_jax.formats.asf_amc import read_amc, read_asf
from diffpose_jax.formats.bvh import read_bvh
from diffpose_jax.skeleton import H36M_17

CMU_UNIT = 0.0254 / 0.45  # metres; the length unit of CMU's files and of cgspeed's plain conversions of them
CENTIMETRE = 0.01  # metres; the length unit of most other BVH files
TOE_HEIGHT = 0.02  # metres above the floor: the end of the toes lies inside the shoe
TOES = ("left_toe", "right_toe")

# The node of a figure at each joint of H36M_17 and at the toes; `a+b` is the middle of two nodes. A wrist is the end of
# CMU's `wrist` bone, the distal third of the forearm.
_CONVENTIONS = {
    "CMU's ASF": "lhipjoint_end+rhipjoint_end rhipjoint_end rfemur_end rtibia_end lhipjoint_end lfemur_end ltibia_end "
    "lowerback_end thorax_end upperneck_end head_end lclavicle_end lhumerus_end lwrist_end "
    "rclavicle_end rhumerus_end rwrist_end ltoes_end rtoes_end",
    "cgspeed's BVH": "LeftUpLeg+RightUpLeg RightUpLeg RightLeg RightFoot LeftUpLeg LeftLeg LeftFoot "
    "Spine Neck Head Head_end LeftArm LeftForeArm LeftFingerBase RightArm RightForeArm RightFingerBase "
    "LeftToeBase_end RightToeBase_end",
    "cgspeed's DAZ-friendly BVH": "lThigh+rThigh rThigh rShin rFoot lThigh lShin lFoot "
    "chest lCollar+rCollar head head_top lShldr lForeArm lHand rShldr rForeArm rHand lFoot_end rFoot_end",
    "Mixamo's names": "LeftUpLeg+RightUpLeg RightUpLeg RightLeg RightFoot LeftUpLeg LeftLeg LeftFoot "
    "Spine1 Neck Head HeadTop_End LeftArm LeftForeArm LeftHand RightArm RightForeArm RightHand "
    "LeftToeBase RightToeBase",
}
JOINT_NAMES: dict[str, dict[str, str]] = {
    name: dict(zip(H36M_17.joints + TOES, nodes.split(), strict=True)) for name, nodes in _CONVENTIONS.items()
}


def load_mocap(
    folder: str | os.PathLike,
    *,
    valid_subjects: Collection[str] | None = None,
    test_subjects: Collection[str] | None = None,
    fps: float = 50.0,
    seed: int = 0,
    cameras_per_clip: int = 4,
    unit: float | None = None,
    amc_fps: float = 120.0,
    joint_names: Mapping[str, str] | None = None,
    name_pattern: str = r"(?P<subject>[^_]+)",
) -> dict[str, ClipSet]:
    """Reads every .amc and .bvh below a folder as 2D-3D pairs in Human3.6M's 17 joints, split by subject.

    `unit` is the length unit of the BVH files in metres (unless given: CMU's for cgspeed's plain figures, else
    centimetres), `amc_fps` the frame rate of the AMC files, which do not hold it. `name_pattern` finds the group
    `subject`, and `action` if it has one, at the start of a file's name. Subjects not named for valid or test are drawn
    by the seed (`split_subjects`). A trial present in both formats is read from the AMC. Cameras as in `load_cmu`.
    Raises UserError.
    """
    folder, pattern = Path(folder), _checked_pattern(name_pattern)
    for name, value in (("fps", fps), ("amc_fps", amc_fps), ("unit", 1.0 if unit is None else unit)):
        if not 0 < value < np.inf:
            raise UserError(f"{name}: expected a positive number, found {value}")
    motions = []
    for path in _files(folder):
        match = pattern.match(path.stem)
        if match is None:
            raise UserError(f"{path}: expected a file name that matches {name_pattern!r}")
        recording = _read(path, match["subject"], unit, amc_fps)
        positions = to_h36m17(recording, path, fps=fps, joint_names=joint_names)
        action = match.groupdict().get("action") or "motion"
        motions.append(Motion(positions, str(path.relative_to(folder)), match["subject"], action, fps))
    splits = split_subjects([motion.subject for motion in motions], seed, valid_subjects, test_subjects)
    return film_splits(motions, splits, h36m_cameras(), seed=seed, cameras_per_clip=cameras_per_clip)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of .amc and .bvh files, found no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".amc", ".bvh"))
    if not files:
        raise UserError(f"{folder}: expected .amc or .bvh files, found none")
    both = {path.with_suffix("") for path in files if path.suffix.lower() == ".amc"}
    return [path for path in files if path.suffix.lower() == ".amc" or path.with_suffix("") not in both]


def _read(path: Path, subject: str, unit: float | None, amc_fps: float) -> Recording:
    if path.suffix.lower() == ".amc":
        skeletons = sorted(path.parent.glob("*.[aA][sS][fF]"))
        own = [asf for asf in skeletons if asf.stem in (path.stem, subject)] or skeletons
        if len(own) != 1:
            raise UserError(f"{path}: expected its skeleton {subject}.asf beside it, found {len(own)} .asf files")
        return read_amc(path, read_asf(own[0]), amc_fps)
    recording = read_bvh(path, 1.0)
    plain = {"LeftFingerBase", "Spine1", "Neck1"} <= set(recording.names)
    scale = unit or (CMU_UNIT if plain else CENTIMETRE)
    recording = recording._replace(offsets=recording.offsets * scale, translation=recording.translation * scale)
    if plain:
        return restore_cgspeed(recording)
    return restore_daz(recording) if {"lButtock", "leftEye", "rightEye"} <= set(recording.names) else recording


def _checked_pattern(name_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(name_pattern)
    except re.error as error:
        raise UserError(f"name_pattern: expected a regular expression, found {name_pattern!r} ({error})") from error
    if "subject" not in pattern.groupindex:
        raise UserError(f"name_pattern: expected a group (?P<subject>...), found {name_pattern!r}")
    return pattern


def restore_cgspeed(recording: Recording) -> Recording:
    """Undoes what cgspeed's conversion lost: drops the leading T-pose, restores the thorax and wrist bones.

    The BVH files give the thorax and the `wrist` bones zero length; the thorax gets that of the upper back (right to
    7 mm in CMU's skeletons), the wrist half that of the radius (exact).
    """
    lengths = {"Neck": ("Spine1", 1.0), "LeftShoulder": ("Spine1", 1.0), "RightShoulder": ("Spine1", 1.0)}
    lengths |= {f"{side}FingerBase": (f"{side}Hand", 0.5) for side in ("Left", "Right")}
    offsets = recording.offsets.copy()
    for name, (like, scale) in lengths.items():
        node = recording.names.index(name) if name in recording.names else -1
        if node >= 0 and not offsets[node].any():
            offsets[node] = scale * recording.offsets[recording.names.index(like)]
    return _without_first_frame(recording)._replace(offsets=offsets)


def restore_daz(recording: Recording) -> Recording:
    """Drops the leading T-pose of a DAZ-friendly file and adds the node `head_top`.

    The figure ends at the eyes; the top is twice as high above `head`, as long as the CMU archive has it.
    """
    eyes = [recording.offsets[recording.names.index(name), 1] for name in ("leftEye", "rightEye")]
    trimmed = _without_first_frame(recording)
    still = np.zeros((len(trimmed.angles), 1, 3))
    return trimmed._replace(
        names=(*recording.names, "head_top"),
        parents=(*recording.parents, recording.names.index("head")),
        offsets=np.concatenate([recording.offsets, [[0, sum(eyes), 0]]]),
        axes=np.concatenate([recording.axes, np.zeros((1, 3, 3))]),
        angles=np.concatenate([trimmed.angles, still], axis=1),
    )


def _without_first_frame(recording: Recording) -> Recording:
    if len(recording.angles) < 2:
        return recording
    return recording._replace(angles=recording.angles[1:], translation=recording.translation[1:])


def to_h36m17(
    recording: Recording,
    path: str | os.PathLike = "recording",
    *,
    fps: float | None = 50.0,
    joint_names: Mapping[str, str] | None = None,
) -> np.ndarray:
    """The 17 joints of Human3.6M in a recording: `[T, 17, 3]` metres, z up, float32.

    x/y origin at the pelvis of the first frame; the lower toe is at z = 0.02 in its 5th percentile. Without
    `joint_names` (a node, or `a+b`, for every joint of H36M_17) the known naming conventions are tried. Raises
    UserError that lists the names found, or says that legs of this length need another unit.
    """
    places = _places(recording, path, joint_names)
    rest = _upright(_gather(recording.rest_positions(), places))
    legs = np.linalg.norm(rest[1] - rest[2]) + np.linalg.norm(rest[2] - rest[3])
    if not 0.35 < legs < 1.4:
        raise UserError(f"{path}: expected legs of 0.35 to 1.4 m, found {legs:.3g} m: is the length unit right?")
    nodes = _upright(_gather(node_positions(recording, fps), places))
    toes, pose = nodes[:, H36M_17.num_joints :], _rest_lengths(nodes[:, : H36M_17.num_joints], rest)
    lowest = np.percentile(toes[..., 2].min(axis=-1), 5)
    return (pose - [*pose[0, 0, :2], lowest - TOE_HEIGHT]).astype(np.float32)


def _places(
    recording: Recording, path: str | os.PathLike, joint_names: Mapping[str, str] | None
) -> list[tuple[int, ...]]:
    """The nodes whose middle each joint, and each toe, is."""
    # Mixamo and MotionBuilder put a namespace such as `mixamorig:` before every name.
    known = {name.rpartition(":")[2]: node for node, name in enumerate(recording.names)}
    known |= {name: node for node, name in enumerate(recording.names)}
    wanted = H36M_17.joints + TOES
    if joint_names is not None:
        if missing := sorted(set(wanted) - set(joint_names)):
            raise UserError(f"joint_names: expected a node for {', '.join(wanted)}, found none for {missing[0]}")
        if lost := sorted({node for name in wanted for node in joint_names[name].split("+")} - set(known)):
            raise UserError(f"{path}: expected the joint {lost[0]}, found {', '.join(recording.names)}")
    conventions = JOINT_NAMES if joint_names is None else {"given": joint_names}
    for names in conventions.values():
        nodes = [names[joint].split("+") for joint in wanted]
        if all(name in known for part in nodes for name in part):
            return [tuple(known[name] for name in part) for part in nodes]
    conventions_listed = ", ".join(JOINT_NAMES)
    raise UserError(
        f"{path}: expected joints named as in one of {conventions_listed}, or joint_names; "
        f"found {', '.join(recording.names)}"
    )


def _gather(nodes: np.ndarray, places: list[tuple[int, ...]]) -> np.ndarray:
    return np.stack([nodes[..., list(place), :].mean(axis=-2) for place in places], axis=-2)


def _upright(points: np.ndarray) -> np.ndarray:
    """From y up to z up: (x, y, z) -> (x, -z, y)."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def _rest_lengths(pose: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Gives the three bones of the trunk their rest length; all that hangs from them moves along rigidly."""
    pose = pose.copy()
    for name, above in (("spine", range(7, 17)), ("thorax", range(8, 17)), ("neck_nose", range(9, 11))):
        child = H36M_17.joints.index(name)
        parent = H36M_17.parents[child]
        bone = pose[:, child] - pose[:, parent]
        length = np.linalg.norm(rest[child] - rest[parent])
        stretched = bone * (length / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-9))
        pose[:, list(above)] += (stretched - bone)[:, None]
    return pose
