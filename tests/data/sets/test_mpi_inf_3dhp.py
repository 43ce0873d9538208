"""The MPI-INF-3DHP loader on small files of the published forms: the archives, and the original test files."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from diffpose_jax import geometry
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.sets.mpi_inf_3dhp import LENSES, TEST_SEQUENCES, load_mpi_inf_3dhp, mpi_inf_3dhp_cameras
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import MPI_INF_3DHP_17

PELVIS = 14


def people(frames: int, seed: int) -> np.ndarray:
    """Absolute poses of a scattered person some metres before the camera, `[frames, 17, 3]` mm."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 300, (frames, 17, 3)) + np.array([100.0, -200.0, 3800.0])


def seen(points: np.ndarray, number: int) -> np.ndarray:
    """The pixels of a calibrated test camera, by hand: a pinhole in pixels, the aspect on the vertical focal length."""
    lens = LENSES[number]
    density = np.array(lens.size) / np.array(lens.sensor)
    focal = lens.focal * density * [1, lens.aspect]
    centre = np.array(lens.offset) * density + np.array(lens.size) / 2
    return points[..., :2] / points[..., 2:] * focal + centre


def shrunk(points: np.ndarray) -> np.ndarray:
    root = points[:, PELVIS : PELVIS + 1]
    return root + 0.9554 * (points - root)


def sixteen_sequences(scale=lambda points: points) -> dict:
    content = {}
    for subject in range(1, 9):
        for sequence in (1, 2):
            points = people(3 + sequence, 10 * subject + sequence)
            pixels = points[..., :2] / points[..., 2:] * 1500 + 1024
            views = {camera: {"data_2d": pixels, "data_3d": scale(points)} for camera in ("0", "8")}
            content[f"S{subject} Seq{sequence}"] = [views, 50 if sequence == 2 else 25]
    return content


def six_sequences(scale=lambda points: points, names=TEST_SEQUENCES) -> dict:
    content = {}
    for number, name in enumerate(TEST_SEQUENCES):
        points = people(6 + number, number)
        valid = (np.arange(len(points)) % 3 != 1).astype(np.float64)
        content[name] = {"data_2d": seen(points, number), "data_3d": scale(points), "valid": valid}
    return {name: content[name] for name in names}


@pytest.fixture
def folder(tmp_path):
    np.savez_compressed(tmp_path / "data_train_3dhp_ori.npz", data=sixteen_sequences())
    np.savez_compressed(tmp_path / "data_test_3dhp_ori.npz", data=six_sequences())
    np.savez_compressed(tmp_path / "data_train_3dhp.npz", data=sixteen_sequences(shrunk))
    np.savez_compressed(tmp_path / "data_test_3dhp.npz", data=six_sequences(shrunk))
    return tmp_path


def test_the_splits_their_labels_and_rates(folder):
    splits = load_mpi_inf_3dhp(folder, annotation="annot3")
    assert {split: sorted(set(clips.subject)) for split, clips in splits.items()} == {
        "train": [f"S{n}" for n in range(1, 8)],
        "valid": ["S8"],
        "test": list(TEST_SEQUENCES),
    }
    train, test = splits["train"], splits["test"]
    assert train.num_clips == 7 * 2 * 2
    assert set(train.action) == {"Seq1", "Seq2"}
    rates = dict(zip(train.action, train.fps.tolist(), strict=True))
    assert rates == {"Seq1": 25.0, "Seq2": 50.0}
    assert all(clips.skeleton == MPI_INF_3DHP_17 for clips in splits.values())
    assert train.cameras is None
    assert train.valid_frame is None
    np.testing.assert_array_equal(test.clip_length, [6, 7, 8, 9, 10, 11])


def test_poses_are_metres_around_joint_14_and_the_root_keeps_the_way(folder):
    test = load_mpi_inf_3dhp(folder, annotation="annot3")["test"]
    for number, content in enumerate(six_sequences().values()):
        clip = test.clip(number)
        np.testing.assert_array_equal(clip.poses[:, PELVIS], 0)
        np.testing.assert_allclose(clip.poses + clip.root[:, None], content["data_3d"] / 1000, atol=2e-6)
        np.testing.assert_array_equal(clip.valid_frame, content["valid"] == 1)
        assert clip.camera == number


def test_the_last_two_sequences_are_normalised_by_another_resolution(folder):
    test, content = load_mpi_inf_3dhp(folder, annotation="annot3")["test"], six_sequences()
    x, y = content["TS2"]["data_2d"][1, 7]
    np.testing.assert_allclose(test.clip(1).keypoints[1, 7], [x / 1024 - 1, y / 1024 - 1], atol=1e-5)
    x, y = content["TS6"]["data_2d"][1, 7]
    np.testing.assert_allclose(test.clip(5).keypoints[1, 7], [x / 960 - 1, y / 960 - 1080 / 1920], atol=1e-5)


def test_the_calibrated_cameras_project_the_targets_onto_the_keypoints(folder):
    test = load_mpi_inf_3dhp(folder, annotation="annot3")["test"]
    projected = geometry.project(test.poses + test.root[:, None], test.frame_camera())
    np.testing.assert_allclose(np.asarray(projected), test.keypoints, atol=2e-6)


def test_the_published_intrinsics_in_pixels():
    cameras = mpi_inf_3dhp_cameras(release=True)
    # 7.32506 mm on 10 mm of 2048 px; 8.770747185 mm on 10 mm of 1920 px and 5.625 mm of 1080 px.
    np.testing.assert_allclose(cameras.focal[0] * 1024, [1500.172288] * 2, rtol=1e-6)
    np.testing.assert_allclose(cameras.focal[5] * 960, [1683.98345952] * 2, rtol=1e-6)
    centre = geometry.denormalise_screen(cameras.centre, cameras.size)
    np.testing.assert_allclose(centre[0], [1024 - 6.61266432, 1024 + 19.03198208], rtol=1e-6)
    np.testing.assert_allclose(centre[4], [960 - 20.14245984, 540 + 20.140743168], rtol=1e-6)
    aspect = mpi_inf_3dhp_cameras().focal[4] / cameras.focal[4]
    np.testing.assert_allclose(aspect, [1, 0.993236423], rtol=1e-6)


def test_the_two_annotations_are_asked_for_by_name_and_the_note_tells_them_apart(folder):
    for wrong in (None, "annot2"):
        with pytest.raises(UserError, match=r"annotation: expected annot3 or univ_annot3 .*not comparable"):
            load_mpi_inf_3dhp(folder, annotation=wrong)
    exact, scaled = (load_mpi_inf_3dhp(folder, annotation=name) for name in ("annot3", "univ_annot3"))
    np.testing.assert_allclose(scaled["test"].poses, 0.9554 * exact["test"].poses, atol=1e-6)
    np.testing.assert_array_equal(scaled["test"].keypoints, exact["test"].keypoints)
    assert exact["test"].note == "3D targets: annot3; they project 0.00 px (median) from the 2D"
    assert scaled["test"].note.startswith("3D targets: univ_annot3; they project ")
    assert " 0.00 px" not in scaled["test"].note
    assert exact["train"].note == "3D targets: annot3"


def test_an_archive_keeps_valid_frames_and_the_note(folder, tmp_path):
    test = load_mpi_inf_3dhp(folder, annotation="annot3")["test"]
    save_archive(tmp_path / "a.npz", {"test": test})
    found = load_archive(tmp_path / "a.npz")["test"]
    np.testing.assert_array_equal(found.valid_frame, test.valid_frame)
    assert found.note == test.note


def test_a_folder_with_some_sequences_says_which_are_missing(tmp_path):
    np.savez(tmp_path / "data_test_3dhp_ori.npz", data=six_sequences(names=("TS5", "TS6")))
    splits = load_mpi_inf_3dhp(tmp_path, annotation="annot3")
    assert list(splits) == ["test"]
    assert splits["test"].note.endswith("test sequences missing: TS1, TS2, TS3, TS4")
    np.testing.assert_array_equal(splits["test"].camera, [4, 5])


def replaced(part: str, key: str, value) -> dict:
    content = six_sequences()
    content[part] = {**content[part], key: value}
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"S9": {}}, "expected sequences TS1, TS2, TS3, TS4, TS5, TS6, found S9"),
        ([1, 2], "expected a dictionary, found"),
        (replaced("TS2", "valid", np.ones(3)), "TS2: expected valid of 7 zeros and ones, found shape (3,)"),
        (replaced("TS2", "valid", np.full(7, 2.0)), "TS2: expected valid of 7 zeros and ones"),
        (
            replaced("TS1", "data_3d", np.ones((6, 28, 3))),
            "expected data_3d of shape (frames, 17, 3), found (6, 28, 3)",
        ),
        (replaced("TS1", "data_3d", people(5, 0)), "expected as many frames of 2D as of 3D, found 6 and 5"),
        (replaced("TS1", "data_3d", people(6, 0) / 1000), "TS1: expected data_3d in mm"),
        (replaced("TS1", "data_2d", np.full((6, 17, 2), 0.5)), "TS1: expected data_2d in pixels"),
        (replaced("TS1", "data_2d", np.full((6, 17, 2), np.nan)), "TS1: expected finite numbers in data_2d"),
        (replaced("TS1", "data_2d", "pixels"), "TS1: expected data_2d of shape"),
    ],
)
def test_damaged_test_archives_are_told_in_one_line(tmp_path, content, said):
    np.savez(tmp_path / "data_test_3dhp_ori.npz", data=np.array(content, dtype=object))
    with pytest.raises(UserError) as refused:
        load_mpi_inf_3dhp(tmp_path, annotation="annot3")
    assert said in str(refused.value)
    assert "data_test_3dhp_ori.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update({"TS1 Seq1": c["S1 Seq1"]}), "TS1 Seq1: expected a name like 'S1 Seq1'"),
        (lambda c: c.update({"S1 Seq1": c["S1 Seq1"][0]}), "S1 Seq1: expected a pair of cameras and frame rate"),
        (lambda c: c.update({"S1 Seq1": [c["S1 Seq1"][0], "fast"]}), "S1 Seq1: expected a frame rate, found 'fast'"),
        (lambda c: c.update({"S1 Seq1": [{}, 25]}), "S1 Seq1: expected a dictionary, found dict of"),
        (lambda c: c["S3 Seq2"][0].update({"8": {}}), "S3 Seq2, camera 8: expected a dictionary"),
    ],
)
def test_damaged_train_archives_are_told_in_one_line(tmp_path, change, said):
    content = sixteen_sequences()
    change(content)
    np.savez(tmp_path / "data_train_3dhp.npz", data=content)
    with pytest.raises(UserError) as refused:
        load_mpi_inf_3dhp(tmp_path, annotation="univ_annot3")
    assert said in str(refused.value)


def test_missing_truncated_and_hostile_files_and_wrong_subjects(folder, tmp_path):
    with pytest.raises(UserError, match="found no such folder"):
        load_mpi_inf_3dhp(tmp_path / "nowhere", annotation="annot3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected data_train_3dhp.npz, data_test_3dhp.npz or TS1/annot_data.mat"):
        load_mpi_inf_3dhp(tmp_path / "empty", annotation="univ_annot3")
    for subjects in (("TS1",), tuple(f"S{n}" for n in range(1, 9))):
        with pytest.raises(UserError, match="valid_subjects: expected some, not all, of S1"):
            load_mpi_inf_3dhp(folder, annotation="annot3", valid_subjects=subjects)
    path = folder / "data_test_3dhp_ori.npz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"data_test_3dhp_ori.npz: expected an .npz file, found a damaged one"):
        load_mpi_inf_3dhp(folder, annotation="annot3")


class Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


@pytest.mark.parametrize("name", ["data_test_3dhp", "data_train_3dhp"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, name):
    sentinel = tmp_path / "sentinel"
    command = Command(f"touch {sentinel}")
    content = {"TS1": {**six_sequences()["TS1"], "data_2d": command}, "S1 Seq1": [command, 25]}
    np.savez(tmp_path / f"{name}.npz", data=content)
    with pytest.raises(UserError, match="refused: its pickle holds the forbidden global"):
        load_mpi_inf_3dhp(tmp_path, annotation="univ_annot3")
    assert not sentinel.exists()


def write_mat(path, arrays):
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array


def mat_content(number: int) -> dict[str, np.ndarray]:
    content = six_sequences()[TEST_SEQUENCES[number]]
    return {
        "annot2": content["data_2d"][:, None],
        "annot3": content["data_3d"][:, None],
        "univ_annot3": shrunk(content["data_3d"])[:, None],
        "valid_frame": content["valid"][:, None],
        "activity_annotation": (1.0 + np.arange(len(content["valid"])) % 7)[:, None],
    }


@pytest.mark.parametrize("nested", ["", "mpi_inf_3dhp_test_set"])
@pytest.mark.parametrize("annotation", ["annot3", "univ_annot3"])
def test_original_files_hold_both_annotations_and_the_activities(folder, annotation, nested):
    pytest.importorskip("h5py")
    plain = load_mpi_inf_3dhp(folder, annotation=annotation)["test"]
    for number, name in enumerate(TEST_SEQUENCES):
        write_mat(folder / nested / name / "annot_data.mat", mat_content(number))
    test = load_mpi_inf_3dhp(folder, annotation=annotation)["test"]
    for field in ("keypoints", "poses", "root", "valid_frame", "camera", "clip_length"):
        np.testing.assert_array_equal(getattr(test, field), getattr(plain, field))
    np.testing.assert_array_equal(test.clip(0).activity, [1, 2, 3, 4, 5, 6])
    assert plain.activity is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("univ_annot3"), "expected numbers named univ_annot3, found"),
        (lambda c: c.update(annot2=c["annot2"][:, 0]), "expected 2d of shape (6, 1, 17, ...), found (6, 17, 2)"),
        (lambda c: c.update(valid_frame=c["valid_frame"][:4]), "expected 2d of shape (4, 1, 17, ...)"),
        (lambda c: c.update(activity_annotation=np.full((6, 1), 9.0)), "expected 6 activities 1 to 7"),
    ],
)
def test_damaged_original_files_are_told_in_one_line(tmp_path, change, said):
    pytest.importorskip("h5py")
    content = mat_content(0)
    change(content)
    write_mat(tmp_path / "TS1" / "annot_data.mat", content)
    with pytest.raises(UserError) as refused:
        load_mpi_inf_3dhp(tmp_path, annotation="univ_annot3")
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "TS1" / "annot_data.mat"))


def test_links_out_of_an_original_file_are_not_followed(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_mat(tmp_path / "elsewhere.mat", mat_content(0))
    path = tmp_path / "TS1" / "annot_data.mat"
    write_mat(path, {name: array for name, array in mat_content(0).items() if name != "annot2"})
    with h5py.File(path, "a") as file:
        file["annot2"] = h5py.ExternalLink(str(tmp_path / "elsewhere.mat"), "annot2")
    with pytest.raises(UserError, match="expected numbers named annot2"):
        load_mpi_inf_3dhp(tmp_path, annotation="annot3")


def test_a_file_that_is_not_hdf5_is_told_in_one_line(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "TS1").mkdir()
    (tmp_path / "TS1" / "annot_data.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(1000))
    with pytest.raises(UserError, match=r"expected a MATLAB v7.3 file, found a damaged one"):
        load_mpi_inf_3dhp(tmp_path, annotation="annot3")


def test_without_h5py_the_way_to_get_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "TS1").mkdir()
    (tmp_path / "TS1" / "annot_data.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install h5py"):
        load_mpi_inf_3dhp(tmp_path, annotation="annot3")
