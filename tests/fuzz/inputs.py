"""Damaged inputs for every parser: good files, and what becomes of them by seeded changes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from diffpose_jax.config import load_config
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.plausibility import load_record
from diffpose_jax.data.sets.cmu import read_cmu
from diffpose_jax.exports.arrays import read_arrays, write_arrays
from diffpose_jax.formats.asf_amc import read_amc, read_asf
from diffpose_jax.formats.bvh import read_bvh
from diffpose_jax.formats.keypoint_tools import read_clips
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.formats.torch_checkpoint import read_checkpoint
from diffpose_jax.formats.tracks import Reading
from diffpose_jax.grid.job_file import read_job
from diffpose_jax.lifters.scales import KINDS
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.workdir.calibration import read_calibration
from diffpose_jax.workdir.folds import read_folds

BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Spine
  {
    OFFSET 0 10 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 10 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0333
0 90 0 1 2 3 4 5 6
0 91 0 1 2 3 4 5 7
"""
ASF = """:version 1.10
:name one
:units
  mass 1.0
  length 0.45
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
     id 1
     name lowerback
     direction 0 1 0
     length 2.05
     axis 0 0 0 XYZ
     dof rx ry rz
     limits (-20 45)
            (-30 30)
            (-30 30)
  end
:hierarchy
  begin
    root lowerback
  end
"""
JOB = """workdirs: [runs/a]
data: [archive.npz]
hypotheses: [1, 20]
seeds: [0, 1]
"""
AMC = """#!OML:ASF one
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 10 20 30
lowerback 1 2 3
2
root 1 2 3 10 20 31
lowerback 1 2 4
"""
# Pieces that have broken parsers before.
PIECES = (
    *(b"NaN", b"1e30", b"-1", b"1e999", b"0", b"null", b"{}", b"[]", b'""', b"\xff\xfe", b"\x00", b"$\\frac{"),
    *(b"[" * 2000, b"100000000000", b"{'descr': [", b"true", b"'", b'"', b"\n", b"}", b"]"),
)  # fmt: skip


def _clips() -> ClipSet:
    poses = 0.3 * np.random.default_rng(0).standard_normal((4, 17, 3)).astype(np.float32)
    poses -= poses[:, :1]
    return ClipSet.build([Clip(poses[..., :2], poses, np.full((4, 3), 4, np.float32), "S1", "walk")], H36M_17)


def _write_npz(path: Path, **arrays: object) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _keypoints(joints: int = 17) -> list:
    return np.random.default_rng(1).uniform(100, 900, (2, joints, 2)).round(1).tolist()


def _calibration() -> bytes:
    errors = np.eye(48)[np.tril_indices(48)].tolist()
    scales = {"joints": [1.0] * 17, "kinds": dict.fromkeys(KINDS, 1.5)}
    return json.dumps({"step": 7, "temperature": 1.2, "scales": scales, "errors": errors, "hypotheses": 20}).encode()


def _read_sized(path: Path) -> object:
    return read_clips(path, Reading(image_size=(1000, 1000)))


def _read_calibration(path: Path) -> object:
    return read_calibration(path.parent, 7, 17)


def _read_amc(path: Path) -> object:
    skeleton = path.with_name("b.asf")
    skeleton.write_text(ASF)
    return read_amc(path, read_asf(skeleton))


def _write_people(path: Path) -> None:
    rows, joints = np.arange(2), np.zeros((2, 17), np.float32)
    poses, path_of_root = np.zeros((2, 17, 3), np.float32), np.ones((2, 3), np.float32)
    arrays = (joints[..., None].repeat(2, -1), joints > 0, poses, poses[:, None], joints, joints, joints)
    person = LiftedPerson("person 0", rows, rows / 25.0, H36M_17, *arrays, path_of_root, path_of_root)
    with path.open("wb") as file:
        write_arrays(file, LiftedVideo("a.mp4", (960, 540), rows / 25.0, 900.0, np.eye(3), 0.0, (person,), {}))


# For every parser the name of its file, how a good file is written, and the parser.
Target = tuple[str, Callable[[Path], None], Callable[[Path], object]]


def targets() -> dict[str, Target]:
    """All parsers that are fuzzed, by name."""

    def text(content: str | bytes) -> Callable[[Path], None]:
        encoded = content.encode() if isinstance(content, str) else content
        return lambda path: (path.write_bytes(encoded), None)[1]

    ours = {"keypoints": _keypoints(), "layout": "h36m17", "image_size": [1000, 1000], "fps": 50}
    coco = [{"image_id": n, "category_id": 1, "keypoints": [500.0, 500.0, 1.0] * 17, "score": 1.0} for n in range(2)]
    config = json.dumps({"lifter": {"name": "diffupose", "width": 32}, "training": {"steps": 4}, "seed": 0})
    cmu = {"clips": {"a": {"frames": 4, "subject": "1", "activity": "walk"}}, "splits": {"train": ["1"]}}
    cmu |= {"fps": 60, "scale_to_metres": 0.001}
    record = json.dumps({"layout": "h36m17", "centre": [[0, 0], [1, 1]], "size": [0.1, 1.0]})
    joints = ("nose", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_shoulder")
    table = ",".join(["frame", *(f"{name}_{axis}" for name in joints for axis in "xy")]) + "\n"
    table += "\n".join(",".join(map(str, [frame, *range(100, 100 + 2 * len(joints))])) for frame in range(3)) + "\n"

    def write_keypoints(path: Path) -> None:
        _write_npz(path, keypoints=np.array(_keypoints()), layout="h36m17", image_size=[1000, 1000], fps=50)

    def write_cmu(path: Path) -> None:
        _write_npz(path, meta=json.dumps(cmu), a=np.ones((4, 17, 3), np.int16))

    return {
        "bvh": ("a.bvh", text(BVH), lambda path: read_bvh(path, 0.01)),
        "asf": ("a.asf", text(ASF), read_asf),
        "amc": ("a.amc", text(AMC), _read_amc),
        "lifted people": ("poses.npz", _write_people, read_arrays),
        "job": ("job.yaml", text(JOB), read_job),
        "keypoints.json": ("a.json", text(json.dumps(ours)), read_clips),
        "coco": ("b.json", text(json.dumps(coco)), _read_sized),
        "keypoints.csv": ("a.csv", text(table), _read_sized),
        "keypoints.npz": ("k.npz", write_keypoints, read_clips),
        "archive": ("a.npz", lambda path: save_archive(path, {"test": _clips()}), load_archive),
        "cmu": ("c.npz", write_cmu, read_cmu),
        "npz of pickles": (
            "p.npz",
            lambda path: _write_npz(path, positions=np.array({"S1": {"walk": np.ones((2, 17, 3))}}, object)),
            read_npz,
        ),
        "pytorch": ("m.pth", _write_checkpoint, read_checkpoint),
        "config": ("config.json", text(config), load_config),
        "calibration": ("calibration.json", text(_calibration()), _read_calibration),
        "folds": ("folds.json", text(json.dumps({"folds": [["S1"], ["S2"]]})), lambda path: read_folds(path.parent)),
        "keypoint record": ("keypoints.json", text(record), lambda path: load_record(path.parent)),
    }  # fmt: skip


def _write_checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"epoch": 3, "model": {"bias": [1.0, 2.0]}}, protocol=2))
        archive.writestr("archive/version", "3\n")


def mutations(content: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Changed copies of a file: bits, cuts, doubled and foreign pieces, other numbers, members of archives."""
    members = _members(content)
    for _ in range(count):
        if members and rng.random() < 0.6:
            name = list(members)[rng.integers(len(members))]
            changed = {**members, name: _mutate(members[name], rng)}
            yield _pack(changed, compress=bool(rng.integers(2)))
        else:
            yield _mutate(content, rng)


def _mutate(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(changed) + 1))
        kind = rng.integers(6)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[place : place + int(rng.integers(1, 40))]
        elif kind == 2:
            changed[place:place] = PIECES[rng.integers(len(PIECES))]
        elif kind == 3:
            end = place + int(rng.integers(1, 12))
            changed[place:end] = PIECES[rng.integers(len(PIECES))]
        elif kind == 4:
            del changed[place:]
        else:
            _replace_number(changed, rng)
    return bytes(changed)


def _replace_number(content: bytearray, rng: np.random.Generator) -> None:
    digits = [index for index, byte in enumerate(content[:20_000]) if 48 <= byte <= 57]
    if digits:
        place = digits[rng.integers(len(digits))]
        content[place : place + 1] = PIECES[rng.integers(len(PIECES))]


def _members(content: bytes) -> dict[str, bytes]:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(members: dict[str, bytes], compress: bool) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()
