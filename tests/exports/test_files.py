"""Every exported file says the same of a person, is read back by an independent reader, and is written whole or not."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.exports.angles import ANGLES, compute_angles
from diffpose_jax.exports.arrays import read_arrays
from diffpose_jax.exports.files import FORMATS, save_exports, turn_y_up
from diffpose_jax.exports.opensim import MARKERS
from diffpose_jax.exports.timing import lay_out_frames
from diffpose_jax.formats.bvh import read_bvh
from diffpose_jax.people import LiftedVideo
from diffpose_jax.skeleton import H36M_17, HUMANEVA_15

from .walking import film, lift, walk_in_world


@pytest.fixture(scope="module")
def video() -> LiftedVideo:
    return film(lift(walk_in_world(), noise=0.02))


@pytest.fixture(scope="module")
def paths(video, tmp_path_factory):
    return {path.name: path for path in save_exports(video, tmp_path_factory.mktemp("out"), FORMATS)}


def read_table(path) -> tuple[dict[str, str], list[str], np.ndarray]:
    """Header lines `name=value`, column names and values of an OpenSim storage file."""
    head, _, body = path.read_text().partition("endheader\n")
    columns, *rows = body.splitlines()
    values = np.array([[float(word) for word in row.split("\t")] for row in rows])
    return dict(line.split("=") for line in head.splitlines() if "=" in line), columns.split("\t"), values


def read_markers(path) -> tuple[dict[str, str], dict[str, np.ndarray], np.ndarray]:
    """Header, markers `{name: [T, 3]}` and times of a TRC file, by the description of OpenSim's documentation."""
    lines = path.read_text().split("\n")
    header = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True))
    names = [name for name in lines[3].split("\t")[2:] if name]
    assert lines[3].split("\t")[2::3] == names
    assert lines[5] == ""
    rows = np.array([[float(word) for word in line.split("\t")] for line in lines[6:] if line])
    return header, {name: rows[:, 2 + 3 * i : 5 + 3 * i] for i, name in enumerate(names)}, rows[:, 1]


def test_one_entry_writes_all_formats(paths):
    assert list(paths) == ["poses.bvh", "poses.trc", "angles.mot", "poses.csv", "poses.npz", "poses.json", "poses.c3d"]


def test_markers_are_metres_with_y_up(video, paths):
    header, markers, times = read_markers(paths["poses.trc"])
    assert (header["Units"], header["DataRate"], header["NumFrames"], header["NumMarkers"]) == ("m", "25", "40", "17")
    world = video.in_world(video.people[0])
    for index, name in enumerate(MARKERS):
        np.testing.assert_allclose(markers[name], turn_y_up(world)[:, index], atol=1e-5)
    np.testing.assert_allclose(times, np.arange(40) / 25, atol=1e-6)
    assert (markers["Head"][:, 1] > markers["Hip"][:, 1]).all()
    assert 0 < markers["LAnkle"][:, 1].min() < 0.2


def test_angles_have_their_deviation_beside_them(video, paths):
    header, columns, values = read_table(paths["angles.mot"])
    assert header == {"version": "1", "nRows": "40", "nColumns": str(len(columns)), "inDegrees": "yes"}
    assert columns[:3] == ["time", "pelvis_tilt", "pelvis_tilt_std"]
    angles = compute_angles(video.in_world(video.people[0], hypotheses=True))
    for name in ("knee_flexion_r", "elbow_flexion_l", "hip_abduction_r"):
        found = values[:, columns.index(name)]
        drawn = angles[..., ANGLES.index(name)]
        mean = np.degrees(np.arctan2(np.sin(drawn).sum(axis=1), np.cos(drawn).sum(axis=1)))
        np.testing.assert_allclose(found, mean, atol=0.1)
        away = (np.degrees(drawn) - mean[:, None] + 180) % 360 - 180
        np.testing.assert_allclose(values[:, columns.index(f"{name}_std")], away.std(axis=1), atol=0.1)


def test_the_table_has_a_row_per_frame_person_and_joint(video, paths):
    with paths["poses.csv"].open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 40 * 17
    person = video.people[0]
    row = rows[3 * 17 + 6]
    assert (row["frame"], row["person"], row["joint"], row["seen"]) == ("3", "person 0", "left_ankle", "1")
    np.testing.assert_allclose([float(row[name]) for name in "xyz"], video.in_world(person)[3, 6], atol=1e-5)
    numbers = [float(row[name]) for name in ("std", "radius_50", "radius_90", "u", "v")]
    expected = [person.spread[3, 6], person.radius_50[3, 6], person.radius_90[3, 6], *person.keypoints[3, 6]]
    np.testing.assert_allclose(numbers, expected, atol=1e-2)


def test_arrays_come_back_without_loss(video, paths):
    back = read_arrays(paths["poses.npz"])
    assert back.people[0].skeleton == H36M_17
    assert (back.source, back.image_size, back.settings) == (video.source, video.image_size, video.settings)
    for name, value in video.people[0]._asdict().items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(back.people[0], name), value)
    np.testing.assert_array_equal(back.in_world(back.people[0]), video.in_world(video.people[0]))


def test_json_is_one_object_with_frames(video, paths):
    found = json.loads(paths["poses.json"].read_text())
    person = found["people"][0]
    assert len(person["frames"]) == 40
    np.testing.assert_allclose(person["frames"][5]["positions"], video.in_world(video.people[0])[5], atol=1e-4)
    assert np.shape(person["frames"][0]["hypotheses"]) == (5, 17, 3)


def test_c3d_holds_millimetres_and_deviations(video, paths):
    ezc3d = pytest.importorskip("ezc3d")
    found = ezc3d.c3d(str(paths["poses.c3d"]))
    points = np.moveaxis(found["data"]["points"][:3], 0, -1).swapaxes(0, 1)
    np.testing.assert_allclose(points / 1000, video.in_world(video.people[0]), atol=1e-4)
    residuals = found["data"]["meta_points"]["residuals"][0].T
    np.testing.assert_allclose(residuals, 1000 * video.people[0].spread, atol=0.51)
    assert found["parameters"]["POINT"]["LABELS"]["value"] == list(MARKERS)


def test_several_people_have_files_of_their_own(tmp_path):
    world = walk_in_world(frames=4)
    people = [lift(world, name) for name in ("Ada", "Ada", "../../B b")]
    names = {path.name for path in save_exports(film(*people, frames=4), tmp_path)}
    assert {"poses_Ada_0.bvh", "poses_Ada_1.trc", "angles_B_b.mot", "poses.csv"} <= names
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*"))


def test_nobody_and_a_single_frame_are_files_too(tmp_path):
    assert {path.name for path in save_exports(film(), tmp_path / "nobody")} == {"poses.csv", "poses.npz", "poses.json"}
    save_exports(film(lift(walk_in_world(frames=1)), frames=1), tmp_path / "one")
    assert len(read_bvh(tmp_path / "one" / "poses.bvh", 1.0).angles) == 1


def test_frames_without_the_person_and_uneven_times_become_a_constant_rate(tmp_path):
    world = walk_in_world(frames=30)
    shown = np.r_[0:10, 20:30]
    person = lift(world[shown], frames=shown)
    timeline = lay_out_frames(film(person), person)
    assert len(timeline.times) == 30
    sampled = timeline.sample(world[shown])
    np.testing.assert_allclose(sampled[shown], world[shown], atol=1e-9)
    np.testing.assert_allclose(sampled[15], world[9] + (world[20] - world[9]) * 6 / 11, atol=1e-9)
    save_exports(film(person), tmp_path)
    assert len(read_bvh(tmp_path / "poses.bvh", 1.0).angles) == 30
    with (tmp_path / "poses.csv").open() as stream:
        assert len(list(stream)) == 1 + 20 * 17


def test_a_large_json_file_is_written_only_where_asked_for(monkeypatch, tmp_path, video):
    monkeypatch.setattr("diffpose_jax.exports.files.MAX_JSON_VALUES", 100)
    assert "poses.json" not in {path.name for path in save_exports(video, tmp_path)}
    assert [path.name for path in save_exports(video, tmp_path, ["json"])] == ["poses.json"]


def test_mistakes_are_one_line(tmp_path, video):
    with pytest.raises(UserError, match=r"formats: expected some of bvh, .*, found 'fbx'"):
        save_exports(video, tmp_path, ["fbx"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a directory that can be written"):
        save_exports(video, tmp_path / "file")
    (tmp_path / "poses.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"poses\.npz"):
        read_arrays(tmp_path / "poses.npz")


def test_layouts_with_a_map_to_seventeen_joints_are_exported(tmp_path, video):
    wanted = [H36M_17.joints.index(name) for name in HUMANEVA_15.joints]
    person = video.people[0]
    few = person._replace(skeleton=HUMANEVA_15, **{
        name: value[..., wanted] if name in ("seen", "spread", "radius_50", "radius_90") else value[..., wanted, :]
        for name, value in person._asdict().items()
        if name in ("keypoints", "seen", "poses", "hypotheses", "spread", "radius_50", "radius_90")
    })  # fmt: skip
    save_exports(video._replace(people=(few,)), tmp_path, ["bvh", "trc", "mot"])
    _, markers, _ = read_markers(tmp_path / "poses.trc")
    np.testing.assert_allclose(markers["LKnee"], turn_y_up(video.in_world(person))[:, 5], atol=1e-5)
    odd = dataclasses.replace(HUMANEVA_15, joints=tuple(f"x{name}" for name in HUMANEVA_15.joints))
    with pytest.raises(UserError, match="cannot convert"):
        save_exports(video._replace(people=(few._replace(skeleton=odd),)), tmp_path, ["bvh"])
