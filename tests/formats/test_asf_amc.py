"""Acclaim files: what the skeleton and the motion say, posed by hand and by scipy, and mistakes found on their line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import node_positions
from diffpose_jax.formats.asf_amc import INCH, read_amc, read_asf

SKELETON = """# a comment
:version 1.10
:name TWO
:units
  mass 1.0
  length 0.5
  angle deg
:documentation
   begin anything 1 2 3
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name thigh
     direction 0 -2 0
     length 4
     axis 10 20 30 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
     id 2
     name shin
     direction 0 -1 0
     length 3
     axis 0 0 90 XYZ
    dof rx
    limits (-10.0 170.0)
  end
:hierarchy
  begin
    root thigh
    thigh shin
  end
"""
MOTION = """#!OML
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 10 20 30
thigh 15 25 35
shin 90
2
root 1 2 3 0 0 0
thigh 0 0 0
shin 0
"""
METRES = INCH / 0.5


def write(folder: Path, skeleton: str = SKELETON, motion: str = MOTION) -> tuple[Path, Path]:
    (folder / "s.asf").write_text(skeleton)
    (folder / "s_1.amc").write_text(motion)
    return folder / "s.asf", folder / "s_1.amc"


def posed(folder: Path, skeleton: str = SKELETON, motion: str = MOTION) -> tuple[dict[str, np.ndarray], object]:
    asf, amc = write(folder, skeleton, motion)
    recording = read_amc(amc, read_asf(asf))
    return dict(zip(recording.names, np.moveaxis(node_positions(recording), 1, 0), strict=True)), recording


def test_the_rest_pose_hangs_from_the_root_in_metres(tmp_path: Path):
    nodes, recording = posed(tmp_path)
    root = np.array([1, 2, 3]) * METRES
    np.testing.assert_allclose(nodes["root"][1], root, atol=1e-6)
    np.testing.assert_allclose(nodes["thigh_end"][1], root - [0, 4 * METRES, 0], atol=1e-6)
    np.testing.assert_allclose(nodes["shin_end"][1], root - [0, 7 * METRES, 0], atol=1e-6)
    assert recording.frame_time == pytest.approx(1 / 120)


def test_a_shin_turns_about_its_own_axis_frame(tmp_path: Path):
    # The frame of the shin is turned by 90 degrees about z, so its x axis is the world's y: the bone lies along it and
    # does not move. With an unturned frame 90 degrees about x carry -y to -z.
    still = MOTION.replace("10 20 30", "0 0 0").replace("15 25 35", "0 0 0")
    nodes, _ = posed(tmp_path, motion=still)
    np.testing.assert_allclose(nodes["shin_end"][0] - nodes["thigh_end"][0], [0, -3 * METRES, 0], atol=1e-6)
    nodes, _ = posed(tmp_path, skeleton=SKELETON.replace("axis 0 0 90", "axis 0 0 0"), motion=still)
    np.testing.assert_allclose(nodes["shin_end"][0] - nodes["thigh_end"][0], [0, 0, -3 * METRES], atol=1e-6)


@pytest.mark.parametrize("axis_order", ["XYZ", "ZYX", "YZX"])
@pytest.mark.parametrize("dof", ["rx ry rz", "rz rx ry"])
def test_rotations_are_about_fixed_axes_in_the_order_of_the_file(tmp_path: Path, axis_order: str, dof: str):
    skeleton = SKELETON.replace("10 20 30 XYZ", f"10 20 30 {axis_order}").replace("dof rx ry rz", f"dof {dof}")
    skeleton = skeleton.replace("order TX TY TZ RX RY RZ", "order RZ TX RX TY RY TZ")
    nodes, _ = posed(tmp_path, skeleton, MOTION.replace("1 2 3 10 20 30", "30 1 10 2 20 3"))
    angle = dict(zip("XYZ", (10, 20, 30), strict=True))
    # Lower-case sequences are about fixed axes in scipy.
    frame = Rotation.from_euler(axis_order.lower(), [angle[axis] for axis in axis_order], degrees=True)
    root = Rotation.from_euler("zxy", [30, 10, 20], degrees=True)
    local = Rotation.from_euler(dof.replace("r", "").replace(" ", ""), [15, 25, 35], degrees=True)
    thigh = root * frame * local * frame.inv()
    shin_frame = Rotation.from_euler("z", 90, degrees=True)
    shin = thigh * shin_frame * Rotation.from_euler("x", 90, degrees=True) * shin_frame.inv()
    start = np.array([1, 2, 3]) * METRES
    knee = start + thigh.apply([0, -4 * METRES, 0])
    np.testing.assert_allclose(nodes["thigh_end"][0], knee, atol=1e-6)
    np.testing.assert_allclose(nodes["shin_end"][0], knee + shin.apply([0, -3 * METRES, 0]), atol=1e-6)


def test_radians_and_degrees_agree(tmp_path: Path):
    def in_radians(line: str) -> str:
        name, *values = line.split()
        keep = 3 if name == "root" else 0
        return " ".join([name, *values[:keep], *(str(np.deg2rad(float(value))) for value in values[keep:])])

    lines = [in_radians(line) if line[0].isalpha() else line for line in MOTION.splitlines()]
    degrees, _ = posed(tmp_path)
    radians, _ = posed(tmp_path, motion="\n".join(lines).replace(":DEGREES", ":RADIANS"))
    for name, positions in degrees.items():
        np.testing.assert_allclose(radians[name], positions, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("direction 0 -2 0", "direction 0 -2", "line 19: expected 3 finite numbers for direction of thigh"),
        ("length 4", "length nan", "line 20: expected 1 finite numbers for length of thigh, found nan"),
        ("     length 4\n", "", "line 25: expected a bone with name, direction and length, found no length"),
        ("dof rx ry rz", "dof rx ry l", "line 22: expected dof of thigh among rx ry rz, found rx ry l"),
        ("axis 10 20 30 XYZ", "axis 10 20 30 XYX", "line 21: expected an axis order of thigh such as XYZ, found XYX"),
        ("name shin", "name thigh", "line 29: expected bones of different names, found thigh"),
        ("thigh shin", "thigh toe", "line 39: expected a bone of :bonedata, found toe"),
        ("    thigh shin\n", "", "ties every bone to the root, found shin apart"),
        ("root thigh", "shin thigh", "ties every bone to the root"),
        ("angle deg", "angle grad", "line 7: expected angle deg or angle rad"),
        ("length 0.5", "length 0", "line 6: expected a positive length unit"),
        ("order TX TY TZ RX RY RZ", "order TX TY TZ RX RY", "TX TY TZ RX RY RZ in any order"),
        ("orientation 0 0 0", "orientation 0 90 0", "expected a root orientation of 0 0 0"),
        (":bonedata", ":bonedat", "expected the sections :bonedata and :hierarchy"),
        (":version", "version", "line 2: expected a keyword such as :version"),
    ],
)
def test_a_mistake_in_the_skeleton_names_file_and_line(tmp_path: Path, old: str, new: str, message: str):
    asf, _ = write(tmp_path, SKELETON.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        read_asf(asf)
    assert str(asf) in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shin 90", "shin 90 1", "line 7: expected 1 finite numbers for shin, found 90 1"),
        ("thigh 15 25 35", "thigh 15 x 35", "line 6: expected 3 finite numbers for thigh"),
        ("shin 90\n", "", "line 7: expected a line for every bone in frame 1, found none for shin"),
        ("shin 0\n", "", "expected a line for every bone in frame 2, found none for shin"),
        ("shin 90", "foot 90", "line 7: expected a bone of the .asf with degrees of freedom, found foot"),
        ("shin 90", "thigh 1 2 3", "line 7: expected every bone once per frame"),
        ("1\nroot", "root", "line 4: expected a frame number, found root"),
        (MOTION, ":DEGREES\n", "expected frames of motion, found none"),
        (MOTION, "", "expected frames of motion, found none"),
    ],
)
def test_a_mistake_in_the_motion_names_file_and_line(tmp_path: Path, old: str, new: str, message: str):
    asf, amc = write(tmp_path, motion=MOTION.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        read_amc(amc, read_asf(asf))
    assert str(amc) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_a_clear_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"absent\.asf: expected a motion capture file"):
        read_asf(tmp_path / "absent.asf")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 600), gap=st.integers(1, 40), junk=st.text(max_size=5), which=st.booleans())
def test_a_damaged_file_is_read_or_refused_but_never_a_traceback(
    tmp_path: Path, cut: int, gap: int, junk: str, which: bool
):
    damaged = [SKELETON, MOTION]
    damaged[which] = damaged[which][:cut] + junk + damaged[which][cut + gap :]
    for name, text in zip(("d.asf", "d.amc"), damaged, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with contextlib.suppress(UserError):
        recording = read_amc(tmp_path / "d.amc", read_asf(tmp_path / "d.asf"))
        assert np.isfinite(recording.angles).all()
        assert np.isfinite(recording.offsets).all()
