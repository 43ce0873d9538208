"""Figures of any convention become Human3.6M's 17 joints, and agree with the CMU archive made elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.data.motion import split_subjects
from diffpose_jax.data.sets.figures import JOINT_NAMES, TOES, name_nodes, restore_cgspeed, to_h36m17
from diffpose_jax.data.sets.mocap import CMU_UNIT, FileOptions, load_mocap
from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import Recording, node_positions
from diffpose_jax.formats.asf_amc import read_amc, read_asf
from diffpose_jax.formats.bvh import read_bvh
from diffpose_jax.skeleton import H36M_17

SHARED = Path(__file__).parents[3] / "../shared/data"
SAMPLES = SHARED / "raw_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared motion capture samples are not here")


@pytest.fixture(scope="module")
def archive():
    with np.load(SHARED / "cmu_h36m17.npz", allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
        return {key: archive[key] * meta["scale_to_metres"] for key in ("16_31", "16_35", "49_05")}


@needs_samples
@pytest.mark.parametrize("trial", ["16_31", "16_35"])
def test_the_acclaim_reader_agrees_with_the_archive_at_every_joint(archive: dict, trial: str):
    pose = to_h36m17(read_amc(SAMPLES / f"{trial}.amc", read_asf(SAMPLES / "16.asf")))
    assert pose.shape == archive[trial].shape
    assert np.linalg.norm(pose - archive[trial], axis=-1).max() < 0.0015


@needs_samples
@pytest.mark.parametrize("trial", ["16_31", "49_05"])
def test_a_restored_cgspeed_file_agrees_with_the_archive(archive: dict, trial: str):
    pose = to_h36m17(restore_cgspeed(read_bvh(SAMPLES / f"{trial}.bvh", CMU_UNIT)))
    assert pose.shape == archive[trial].shape
    error = np.linalg.norm(pose - archive[trial], axis=-1).max(axis=0)
    assert error[:8].max() < 0.0015
    # The thorax is taken to be as long as the upper back.
    assert error[8:].max() < 0.008


@needs_samples
def test_the_plain_bvh_reader_differs_from_the_amc_by_the_missing_bones_alone():
    amc = read_amc(SAMPLES / "16_31.amc", read_asf(SAMPLES / "16.asf"))
    bvh = read_bvh(SAMPLES / "16_31.bvh", CMU_UNIT)
    assert len(bvh.angles) == len(amc.angles) + 1
    # The BVH rounds its frame time.
    bvh = bvh._replace(angles=bvh.angles[1:], translation=bvh.translation[1:], frame_time=amc.frame_time)
    true, read = named_joints(amc, "CMU's ASF"), named_joints(bvh, "cgspeed's BVH")
    for joint in H36M_17.joints[:8]:
        assert np.linalg.norm(true[joint] - read[joint], axis=-1).max() < 1e-5
    thorax = 2.17484 * CMU_UNIT
    for joint in ("thorax", "neck_nose", "head_top", "left_shoulder", "left_elbow", "right_shoulder", "right_elbow"):
        np.testing.assert_allclose(np.linalg.norm(true[joint] - read[joint], axis=-1), thorax, atol=2e-5)
    for side, wrist in (("left", 1.87569), ("right", 1.88072)):
        missing = (true[f"{side}_wrist"] - true[f"{side}_elbow"]) - (read[f"{side}_wrist"] - read[f"{side}_elbow"])
        np.testing.assert_allclose(np.linalg.norm(missing, axis=-1), wrist * CMU_UNIT, atol=2e-5)


@needs_samples
def test_the_first_frame_of_a_cgspeed_file_is_a_t_pose():
    joints = {
        name: path[0] for name, path in named_joints(read_bvh(SAMPLES / "16_31.bvh", CMU_UNIT), "cgspeed's BVH").items()
    }
    arm = joints["left_wrist"] - joints["right_wrist"]
    assert abs(arm[0]) > 0.99 * np.linalg.norm(arm)
    leg = joints["left_hip"] - joints["left_ankle"]
    assert leg[1] > 0.95 * np.linalg.norm(leg)


def named_joints(recording: Recording, convention: str) -> dict[str, np.ndarray]:
    nodes = dict(
        zip(recording.names, np.moveaxis(node_positions(recording, 50.0).astype(np.float64), 1, 0), strict=True)
    )
    names = JOINT_NAMES[convention]
    return {joint: np.mean([nodes[node] for node in names[joint].split("+")], axis=0) for joint in names}


# A person with centimetre-sized bones, y up, facing z: joint -> (parent, offset).
BODY = {
    "Hips": ("", (0, 95, 0)),
    "LeftUpLeg": ("Hips", (10, -5, 0)),
    "LeftLeg": ("LeftUpLeg", (0, -40, 0)),
    "LeftFoot": ("LeftLeg", (0, -40, 0)),
    "LeftToeBase": ("LeftFoot", (0, -8, 12)),
    "RightUpLeg": ("Hips", (-10, -5, 0)),
    "RightLeg": ("RightUpLeg", (0, -40, 0)),
    "RightFoot": ("RightLeg", (0, -40, 0)),
    "RightToeBase": ("RightFoot", (0, -8, 12)),
    "Spine": ("Hips", (0, 10, 0)),
    "Spine1": ("Spine", (0, 10, 0)),
    "Neck": ("Spine1", (0, 25, 0)),
    "Head": ("Neck", (0, 12, 0)),
    "HeadTop_End": ("Head", (0, 15, 0)),
    "LeftArm": ("Spine1", (18, 20, 0)),
    "LeftForeArm": ("LeftArm", (28, 0, 0)),
    "LeftHand": ("LeftForeArm", (25, 0, 0)),
    "RightArm": ("Spine1", (-18, 20, 0)),
    "RightForeArm": ("RightArm", (-28, 0, 0)),
    "RightHand": ("RightForeArm", (-25, 0, 0)),
}


def body_bvh(frames: int = 30, prefix: str = "", scale: float = 1.0) -> str:
    columns: list[str] = []

    def block(name: str) -> list[str]:
        columns.append(name)
        children = [child for child, (parent, _) in BODY.items() if parent == name]
        inner = [line for child in children for line in block(child)]
        offset = [value * scale for value in BODY[name][1]]
        kind = "JOINT" if BODY[name][0] else "ROOT"
        end = ["End Site", "{", f"OFFSET 0 {15 * scale} 0", "}"] if not children else []
        places = "Xposition Yposition Zposition " if kind == "ROOT" else ""
        channels = f"CHANNELS {6 if places else 3} {places}Zrotation Xrotation Yrotation"
        return [
            f"{kind} {prefix}{name}",
            "{",
            f"OFFSET {offset[0]} {offset[1]} {offset[2]}",
            channels,
            *inner,
            *end,
            "}",
        ]

    lines = ["HIERARCHY", *block("Hips"), "MOTION", f"Frames: {frames}", "Frame Time: 0.01"]
    for frame in range(frames):
        row = ["0", "0", str(frame * scale)]
        for name in columns:
            row += ["0", str(20 * np.sin(frame / 5) * (name == "Spine")), "0"]
        lines.append(" ".join(row))
    return "\n".join(lines) + "\n"


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "anna_walk.bvh"
    path.write_text(body_bvh())
    return path


def test_a_figure_becomes_seventeen_joints_that_stand_on_the_floor(body: Path):
    pose = to_h36m17(read_bvh(body, 0.01))
    assert pose.shape == (15, 17, 3)
    assert pose.dtype == np.float32
    joints = dict(zip(H36M_17.joints, np.moveaxis(pose, 1, 0), strict=True))
    np.testing.assert_allclose(joints["pelvis"][0, :2], 0, atol=1e-6)
    # y up and facing z becomes z up and facing -y; the left stays at +x. Walking towards z is walking towards -y.
    np.testing.assert_allclose(joints["left_hip"][0] - joints["right_hip"][0], [0.2, 0, 0], atol=1e-6)
    assert joints["pelvis"][-1, 1] == pytest.approx(-0.28, abs=1e-6)
    # The toes are 93 cm below the hips' root and stand at 2 cm; the ankle is 8 cm above them.
    np.testing.assert_allclose(joints["left_ankle"][:, 2], 0.10, atol=1e-6)


def test_every_bone_is_rigid_although_the_trunk_bends(body: Path):
    pose = to_h36m17(read_bvh(body, 0.01))
    lengths = np.stack([np.linalg.norm(pose[:, child] - pose[:, parent], axis=-1) for child, parent in H36M_17.bones])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[:, :1], lengths.shape), atol=1e-5)
    assert np.ptp(pose[:, H36M_17.joints.index("head_top"), 1] - pose[:, 0, 1]) > 0.1


def test_a_namespace_before_the_names_does_not_matter(tmp_path: Path, body: Path):
    path = tmp_path / "named.bvh"
    path.write_text(body_bvh(prefix="mixamorig:"))
    np.testing.assert_allclose(to_h36m17(read_bvh(path, 0.01)), to_h36m17(read_bvh(body, 0.01)), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0.0}, "fps: expected 0.1 to 100000 frames per second, found 0.0"),
        ({"files": FileOptions(unit=0.0)}, "unit: expected a positive number, found 0.0"),
        ({"files": FileOptions(amc_fps=-1.0)}, "amc_fps: expected 0.1 to 100000 frames per second"),
        ({"files": FileOptions(amc_fps=1e-6)}, "amc_fps: expected 0.1 to 100000 frames per second"),
        ({"files": FileOptions(name_pattern="(")}, "name_pattern: expected a regular expression"),
        ({"files": FileOptions(name_pattern="(.*)")}, r"name_pattern: expected a group \(\?P<subject>"),
        (
            {"files": FileOptions(name_pattern="(?P<subject>[0-9]+)")},
            "anna_walk.bvh: expected a file name that matches",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(body: Path, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        load_mocap(body.parent, **options)


def test_unknown_joints_are_listed_and_can_be_given(tmp_path: Path, body: Path):
    path = tmp_path / "foreign.bvh"
    path.write_text(body_bvh().replace("LeftForeArm", "Ellbogen"))
    with pytest.raises(UserError, match=r"foreign\.bvh: expected joints named as in .*found Hips, LeftUpLeg.*Ellbogen"):
        to_h36m17(read_bvh(path, 0.01), path)
    names = JOINT_NAMES["Mixamo's names"] | {"left_elbow": "Ellbogen"}
    given = to_h36m17(read_bvh(path, 0.01), path, joint_names=names)
    np.testing.assert_allclose(given, to_h36m17(read_bvh(body, 0.01)), atol=1e-6)
    with pytest.raises(UserError, match="expected the joint Elbow, found Hips"):
        to_h36m17(read_bvh(path, 0.01), path, joint_names=names | {"left_elbow": "Elbow"})
    assert name_nodes(list(names.values())) == dict(zip(H36M_17.joints + TOES, names.values(), strict=True))
    with pytest.raises(UserError, match=r"joint_names: expected 19 nodes .* found 2"):
        name_nodes(["Hips", "LeftUpLeg"])
    with pytest.raises(UserError, match="found none for left_toe"):
        to_h36m17(read_bvh(path, 0.01), path, joint_names=dict.fromkeys(H36M_17.joints, "Hips"))


def test_a_wrong_unit_is_noticed(body: Path):
    with pytest.raises(UserError, match=r"expected legs of 0\.35 to 1\.4 m, found 80 m"):
        to_h36m17(read_bvh(body, 1.0), body)


def test_a_folder_becomes_splits_by_subject(tmp_path: Path):
    for name in ("anna_walk", "anna_run", "ben_walk", "carl_sit", "dora_sit"):
        (tmp_path / f"{name}.bvh").write_text(body_bvh())
    pattern = r"(?P<subject>[^_]+)_(?P<action>\w+)"
    splits = load_mocap(tmp_path, test_subjects=["anna"], files=FileOptions(name_pattern=pattern), cameras_per_clip=2)
    assert set(splits["test"].subject) == {"anna"}
    assert splits["test"].action == ("run", "run", "walk", "walk")
    assert splits["test"].num_frames == 2 * 2 * 15
    seen = [set(splits[split].subject) for split in ("train", "valid", "test")]
    assert set.union(*seen) == {"anna", "ben", "carl", "dora"}
    assert sum(map(len, seen)) == 4
    assert all(seen)


@pytest.mark.parametrize(("names", "spared"), [(("anna_1", "anna_2", "anna_3"), 1), (("anna_1",), 0)])
def test_one_person_gives_a_valid_split_of_clips_and_says_so(tmp_path: Path, names: tuple[str, ...], spared: int):
    for name in names:
        (tmp_path / f"{name}.bvh").write_text(body_bvh())
    splits = load_mocap(tmp_path, cameras_per_clip=1)
    assert set(splits["valid"].subject) == set(splits["train"].subject) == {"anna"}
    # A sixth of three clips of 15 frames is one clip, of one clip it is two frames.
    assert splits["valid"].num_frames == (15 if spared else 2)
    assert splits["train"].num_frames + splits["valid"].num_frames == 15 * len(names)
    assert "other clips of the people in train" in splits["valid"].note
    assert load_mocap(tmp_path, cameras_per_clip=1, valid_subjects=[])["valid"].num_clips == 0


def test_two_people_give_a_test_split_and_a_valid_one_of_clips(tmp_path: Path):
    for name in ("anna_1", "anna_2", "ben_1", "ben_2"):
        (tmp_path / f"{name}.bvh").write_text(body_bvh())
    splits = load_mocap(tmp_path, cameras_per_clip=1)
    assert set(splits["valid"].subject) == set(splits["train"].subject) != set(splits["test"].subject)
    assert [splits[split].num_clips for split in ("train", "valid", "test")] == [1, 1, 2]


@needs_samples
def test_files_named_like_those_of_hdm05_find_their_skeleton(tmp_path: Path):
    for actor in ("bd", "mm"):
        shutil.copy(SAMPLES / "16.asf", tmp_path / f"HDM_{actor}.asf")
        shutil.copy(SAMPLES / "16_35.amc", tmp_path / f"HDM_{actor}_01-01_01_120.amc")
    splits = load_mocap(tmp_path, cameras_per_clip=1, valid_subjects=[])
    assert {*splits["train"].subject, *splits["test"].subject} == {"bd", "mm"}


DAZ = {
    "LeftUpLeg": "lThigh",
    "LeftLeg": "lShin",
    "LeftFoot": "lFoot",
    "RightUpLeg": "rThigh",
    "RightLeg": "rShin",
    "RightFoot": "rFoot",
    "Spine1": "chest",
    "Neck": "neck",
    "Head": "head",
    "LeftArm": "lShldr",
    "LeftForeArm": "lForeArm",
    "LeftHand": "lHand",
    "RightArm": "rShldr",
    "RightForeArm": "rForeArm",
    "RightHand": "rHand",
}


def test_a_daz_friendly_figure_gets_the_top_of_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    body = {DAZ.get(name, name): (DAZ.get(parent, parent), offset) for name, (parent, offset) in BODY.items()}
    for name in ("LeftToeBase", "RightToeBase", "HeadTop_End"):
        del body[name]
    body |= {"lButtock": ("Hips", (8, 2, 0)), "leftEye": ("head", (3, 8, 8)), "rightEye": ("head", (-3, 8, 8))}
    body |= {"lCollar": ("chest", (3, 20, 0)), "rCollar": ("chest", (-3, 20, 0))}
    monkeypatch.setitem(globals(), "BODY", body)
    (tmp_path / "60_01.bvh").write_text(body_bvh())
    clips = load_mocap(tmp_path, valid_subjects=[])["train"]
    assert set(clips.subject) == {"60"}
    head, nose = (H36M_17.joints.index(name) for name in ("head_top", "neck_nose"))
    np.testing.assert_allclose(np.linalg.norm(clips.poses[:, head] - clips.poses[:, nose], axis=-1), 0.16, atol=1e-5)
    # The leading T-pose is gone: 29 frames of 10 ms are 15 of 20 ms.
    assert clips.clip_length.tolist() == [15] * 4


def test_folders_without_motion_and_motion_without_skeleton_are_clear_errors(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        load_mocap(tmp_path / "absent")
    with pytest.raises(UserError, match=r"expected \.amc or \.bvh files, found none"):
        load_mocap(tmp_path)
    (tmp_path / "07_01.amc").write_text(":DEGREES\n")
    with pytest.raises(UserError, match=r"expected its skeleton 07\.asf beside it, found 0 \.asf files"):
        load_mocap(tmp_path)


@needs_samples
def test_the_sample_folder_reads_each_trial_once():
    splits = load_mocap(SAMPLES, test_subjects=["49"], valid_subjects=[])
    assert splits["train"].num_clips == 2 * 4
    assert splits["test"].num_clips == 4
    assert splits["valid"].num_frames == 0


def test_split_subjects_draws_disjoint_splits_by_the_seed():
    subjects = [f"s{number}" for number in range(12)]
    splits = split_subjects(subjects, seed=3)
    assert splits == split_subjects(reversed(subjects), seed=3)
    counts = {split: list(splits.values()).count(split) for split in ("train", "valid", "test")}
    assert counts == {"train": 8, "valid": 2, "test": 2}
    assert split_subjects(subjects, 3, ["s1"], ["s2"])["s1"] == "valid"
    assert split_subjects(["a"]) == {"a": "train"}
    assert sorted(split_subjects(["a", "b"]).values()) == ["test", "train"]
    with pytest.raises(UserError, match="expected a subject to remain"):
        split_subjects(["a", "b"], 0, ["a"], ["b"])
    for valid, test in ((["s1"], ["s1"]), (["z"], None)):
        with pytest.raises(UserError, match="valid_subjects: expected subjects among"):
            split_subjects(subjects, 0, valid, test)


def test_every_convention_names_every_joint():
    for names in JOINT_NAMES.values():
        assert set(names) == {*H36M_17.joints, *TOES}
