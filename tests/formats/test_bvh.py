"""Biovision files: random figures read back against scipy, odd but legal files, mistakes found on their line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import node_positions
from diffpose_jax.formats.bvh import read_bvh

FIGURE = """HIERARCHY
ROOT Hips
{
  OFFSET 1 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT Left Arm
  {
    OFFSET 0 10 0
    CHANNELS 1 Zrotation
    End Site
    {
      OFFSET 5 0 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.05
0 0 0 0 0 0 0
0 0 7 0 0 0 90
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "figure.bvh"
    path.write_text(text)
    return path


def test_a_figure_posed_by_hand(tmp_path: Path):
    recording = read_bvh(write(tmp_path, FIGURE), unit=0.01)
    assert recording.names == ("Hips", "Left Arm", "Left Arm_end")
    assert recording.frame_time == 0.05
    expected = [[[1, 0, 0], [1, 10, 0], [6, 10, 0]], [[1, 0, 7], [1, 10, 7], [1, 15, 7]]]
    np.testing.assert_allclose(node_positions(recording), np.array(expected) / 100, atol=1e-7)


def test_indentation_case_blank_lines_and_line_ends_do_not_matter(tmp_path: Path):
    plain = node_positions(read_bvh(write(tmp_path, FIGURE), 1.0))
    odd = FIGURE.replace("  ", "\t").replace("ROOT", "Root").replace("\n", "  \r\n\r\n").replace("Xpos", "XPOS")
    np.testing.assert_array_equal(node_positions(read_bvh(write(tmp_path, odd), 1.0)), plain)


def random_bvh(rng: np.random.Generator, nodes: int, frames: int) -> tuple[str, np.ndarray]:
    """A random figure as BVH text, and its joints `[T, K, 3]` posed by scipy."""
    parents = [-1] + [int(rng.integers(0, node)) for node in range(1, nodes)]
    offsets = rng.normal(0, 10, (nodes, 3)).round(4)
    orders = ["".join(rng.permutation(list("XYZ"))[: 3 if node == 0 else rng.integers(0, 4)]) for node in range(nodes)]
    angles = rng.uniform(-170, 170, (frames, nodes, 3)).round(4)
    travel = rng.normal(0, 50, (frames, 3)).round(4)
    columns: list[np.ndarray] = []

    def block(node: int, depth: int) -> list[str]:
        pad, channels = "  " * depth, [f"{axis}rotation" for axis in orders[node]]
        columns.extend(angles[:, node, slot] for slot in range(len(channels)))
        if node == 0:
            # Positions may stand after rotations.
            channels += ["Yposition", "Xposition", "Zposition"]
            columns.extend(travel[:, axis] for axis in (1, 0, 2))
        children = [child for child in range(nodes) if parents[child] == node]
        inner = [line for child in children for line in block(child, depth + 1)]
        return [
            f"{pad}{'ROOT' if node == 0 else 'JOINT'} n{node}",
            f"{pad}{{",
            f"{pad}  OFFSET {' '.join(map(str, offsets[node]))}",
            *([f"{pad}  CHANNELS {len(channels)} {' '.join(channels)}"] if channels else []),
            *inner,
            *([] if children else [f"{pad}  End Site", f"{pad}  {{", f"{pad}    OFFSET 0 1 0", f"{pad}  }}"]),
            f"{pad}}}",
        ]

    lines = ["HIERARCHY", *block(0, 0), "MOTION", f"Frames: {frames}", "Frame Time: 0.01"]
    lines += [" ".join(map(str, row)) for row in np.stack(columns, axis=1)]
    rotations, positions = [], np.zeros((frames, nodes, 3))
    for node, parent in enumerate(parents):
        axes = orders[node]
        local = Rotation.identity(frames)
        if axes:
            # Upper-case sequences are about the moving axes in scipy.
            local = Rotation.from_euler(axes, angles[:, node, : len(axes)].reshape(frames, -1), degrees=True)
        above = rotations[parent] if parent >= 0 else Rotation.identity(frames)
        rotations.append(above * local)
        positions[:, node] = offsets[node] + travel if parent < 0 else positions[:, parent] + above.apply(offsets[node])
    return "\n".join(lines) + "\n", positions


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(1, 5), frames=st.integers(1, 4))
def test_any_hierarchy_and_channel_order_reads_back_as_scipy_poses_it(
    tmp_path: Path, seed: int, nodes: int, frames: int
):
    text, expected = random_bvh(np.random.default_rng(seed), nodes, frames)
    recording = read_bvh(write(tmp_path, text), unit=0.01)
    read = node_positions(recording)[:, [recording.names.index(f"n{node}") for node in range(nodes)]]
    np.testing.assert_allclose(read, expected / 100, atol=2e-5)


def test_resampling_interpolates_rotations_on_the_sphere_and_keeps_bones_rigid(tmp_path: Path):
    text, _ = random_bvh(np.random.default_rng(3), 4, 9)
    recording = read_bvh(write(tmp_path, text), unit=0.01)
    slow = node_positions(recording, fps=30.0)
    assert len(slow) == 3  # 0.08 s at 30 Hz: frames at 0, 1/30 and 2/30 s
    lengths = np.linalg.norm(slow[:, 1:] - slow[:, np.array(recording.parents[1:])], axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(recording.offsets[1:], axis=-1)[None] + 0 * lengths, atol=1e-5)

    order = "".join("XYZ"[axis] for axis in recording.axes[0].argmax(axis=1))
    turns = Rotation.from_euler(order, recording.angles[:, 0])
    middle = Slerp(np.arange(9) * 0.01, turns)(1 / 30)
    child = recording.parents.index(0)
    expected = middle.apply(recording.offsets[child])
    np.testing.assert_allclose(slow[1, child] - slow[1, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "hello", "line 1: expected HIERARCHY"),
        (FIGURE, "", "line 1: expected HIERARCHY .* found nothing"),
        ("OFFSET 0 10 0", "OFFSET 0 10", "line 8: expected 3 finite numbers for OFFSET, found 0 10"),
        ("    OFFSET 0 10 0\n", "", "expected an OFFSET of Left Arm"),
        ("CHANNELS 1 Zrotation", "CHANNELS 2 Zrotation", "line 9: expected CHANNELS, their count and names"),
        ("CHANNELS 1 Zrotation", "CHANNELS 1 Wrotation", "line 9: expected CHANNELS, their count and names"),
        ("CHANNELS 1 Zrotation", "WHEELS 4", "line 9: expected ROOT, JOINT, End Site"),
        ("JOINT Left Arm", "JOINT Hips", "line 6: expected joints of different names, found Hips"),
        ("JOINT Left Arm\n  {", "JOINT Left Arm", "line 7: expected { after Left Arm"),
        ("  }\n}\nMOTION", "  }\nMOTION", "expected as many } as {"),
        ("MOTION", "", "expected ROOT, JOINT"),
        ("Frames: 2\n", "", "expected Frames: and Frame Time: after MOTION"),
        ("Frames: 2", "Frames: 3", "expected 3 frames of motion as its header says, found 2"),
        ("Frames: 2", "Frames: two", "expected 1 finite numbers for Frames, found two"),
        ("Frame Time: 0.05", "Frame Time: 0", "expected a Frame Time of 0.00001 to 10 seconds"),
        ("0 0 7 0 0 0 90", "0 0 7 0 0 90", "line 20: expected 7 values, one per channel, found 6"),
        ("0 0 7 0 0 0 90", "0 0 7 0 0 0 nan", "line 20: expected 7 finite numbers for the channels"),
        ("0 0 7 0 0 0 90", "0 0 7 0 0 0 abc", "line 20: expected 7 finite numbers for the channels"),
    ],
)
def test_a_mistake_names_file_and_line(tmp_path: Path, old: str, new: str, message: str):
    path = write(tmp_path, FIGURE.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        read_bvh(path, 1.0)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(FIGURE) - 25), junk=st.text(max_size=6))
def test_a_damaged_file_is_a_user_error_and_never_a_traceback(tmp_path: Path, cut: int, junk: str):
    path = tmp_path / "figure.bvh"
    path.write_text(FIGURE[:cut] + junk, encoding="utf-8")
    with pytest.raises(UserError):
        read_bvh(path, 1.0)
