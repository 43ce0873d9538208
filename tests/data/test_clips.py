"""ClipSet and its archive: what goes in comes out, and what is not an archive is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest

from diffpose_jax.data.clips import Clip, ClipSet, load_archive, save_archive
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17


def cameras(count: int = 2) -> Camera:
    rows = ([2.3, 2.2], [0.02, 0.03], [-0.2, 0.2, 0], [0, 0], [1, 0, 0, 0], [0, 0, 5], [1000, 1000])
    return Camera(*(np.stack([np.array(row, np.float32)] * count) for row in rows))


def clip(
    frames: int, subject: str = "S1", action: str = "walk", camera: int = 0, seed: int = 0, joints: int = 17
) -> Clip:
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(frames, joints, 3)).astype(np.float32)
    return Clip(
        keypoints=rng.uniform(-1, 1, (frames, joints, 2)).astype(np.float32),
        poses=poses - poses[:, :1],
        root=rng.normal(size=(frames, 3)).astype(np.float32),
        subject=subject,
        action=action,
        camera=camera,
        fps=25.0,
        scores=rng.uniform(size=(frames, joints)).astype(np.float32),
    )


@pytest.fixture
def splits() -> dict[str, ClipSet]:
    return {
        "train": ClipSet.build([clip(5), clip(1, "S5", "sit", 1, seed=1)], H36M_17, cameras()),
        "valid": ClipSet.build([clip(3, "S8", seed=2)], H36M_17, cameras()),
        "test": ClipSet.build([clip(4, "S9", camera=-1, seed=3)._replace(poses=None, root=None, scores=None)], H36M_17),
    }


def assert_equal_sets(found: ClipSet, expected: ClipSet) -> None:
    for field in dataclasses.fields(ClipSet):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
            assert one.dtype == other.dtype, field.name
        elif isinstance(other, Camera):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            assert one == other, field.name


def test_clips_lie_end_to_end_and_come_back_as_they_were():
    parts = [clip(5), clip(1, "S5", "sit", 1, seed=1), clip(7, "S6", seed=2)]
    whole = ClipSet.build(parts, H36M_17, cameras())
    np.testing.assert_array_equal(whole.clip_start, [0, 5, 6])
    np.testing.assert_array_equal(whole.frame_clip(), [0] * 5 + [1] + [2] * 7)
    for number, part in enumerate(parts):
        for one, other in zip(whole.clip(number), part, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_clip_that_marks_no_frames_is_valid_throughout_and_of_unknown_activity():
    marked = clip(3)._replace(valid_frame=np.array([True, False, True]), activity=np.array([2, 2, 7]))
    whole = ClipSet.build([marked, clip(2, "S5")], H36M_17, cameras(), "3D targets: annot3")
    np.testing.assert_array_equal(whole.valid_frame, [True, False, True, True, True])
    np.testing.assert_array_equal(whole.activity, [2, 2, 7, 0, 0])
    chosen = whole.select([1, 0])
    np.testing.assert_array_equal(chosen.valid_frame, [True, True, True, False, True])
    assert chosen.note == whole.note
    assert whole.converted(H36M_16).valid_frame is whole.valid_frame
    assert ClipSet.build([clip(2)], H36M_17, cameras()).valid_frame is None


def test_marks_and_note_survive_the_archive_and_older_archives_have_none(splits, tmp_path):
    marked = clip(3)._replace(valid_frame=np.array([True, False, True]), activity=np.array([2, 2, 7]))
    original = ClipSet.build([marked], H36M_17, cameras(), "a note")
    save_archive(tmp_path / "a.npz", {"test": original, "train": splits["train"]})
    found = load_archive(tmp_path / "a.npz")
    assert_equal_sets(found["test"], original)
    assert (found["train"].note, found["train"].valid_frame) == ("", None)


def test_a_selection_holds_its_clips_in_the_order_asked_for(splits):
    chosen = splits["train"].select([1, 0])
    assert chosen.subject == ("S5", "S1")
    np.testing.assert_array_equal(chosen.poses[0], splits["train"].poses[5])
    np.testing.assert_array_equal(chosen.clip_start, [0, 1])
    assert splits["train"].select([]).num_frames == 0


def test_every_frame_knows_the_camera_of_its_clip(splits):
    train = dataclasses.replace(
        splits["train"], cameras=cameras()._replace(focal=np.array([[1, 1], [2, 2]], np.float32))
    )
    np.testing.assert_array_equal(train.frame_camera().focal[:, 0], [1, 1, 1, 1, 1, 2])
    assert splits["test"].frame_camera() is None


def test_another_layout_keeps_the_place_of_every_shared_joint():
    original = ClipSet.build([clip(6)], H36M_17, cameras())
    fewer = original.converted(H36M_16)
    kept = [H36M_17.joints.index(joint) for joint in H36M_16.joints]
    np.testing.assert_array_equal(fewer.keypoints, original.keypoints[:, kept])
    np.testing.assert_allclose(
        fewer.poses + fewer.root[:, None], (original.poses + original.root[:, None])[:, kept], atol=1e-6
    )


def test_the_root_moves_with_a_layout_that_is_rooted_elsewhere():
    coco = clip(6)
    original = ClipSet.build([coco], COCO_17)
    converted = original.converted(H36M_17)
    hips = [COCO_17.joints.index(side) for side in ("left_hip", "right_hip")]
    pelvis = (original.poses + original.root[:, None])[:, hips].mean(axis=1)
    np.testing.assert_allclose(converted.root, pelvis, atol=1e-6)
    np.testing.assert_array_equal(converted.poses[:, 0], 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": np.zeros((0, 17, 2)), "poses": None, "root": None, "scores": None}, "at least one frame"),
        ({"keypoints": np.zeros((4, 16, 2))}, r"keypoints of shape \(4, 17, 2\).*found \(4, 16, 2\)"),
        ({"poses": np.zeros((3, 17, 3))}, r"poses of shape \(4, 17, 3\)"),
        ({"root": np.zeros((4, 2))}, r"root of shape \(4, 3\)"),
        ({"scores": np.zeros((4,))}, r"scores of shape \(4, 17\)"),
        ({"valid_frame": np.ones(5, bool)}, r"valid_frame of shape \(4,\)"),
        ({"poses": np.where(np.arange(4)[:, None, None] < 2, 0, np.nan) * np.ones((4, 17, 3))}, "poses.*frame 2"),
        ({"keypoints": np.full((4, 17, 2), np.inf)}, "keypoints.*NaN or infinity first in frame 0"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named(change, message):
    with pytest.raises(UserError, match=f"clip S1/walk: .*{message}"):
        ClipSet.build([clip(4)._replace(**change)], H36M_17)


def test_an_archive_gives_back_every_split(splits, tmp_path):
    path = tmp_path / "new" / "clips.npz"
    save_archive(path, splits)
    found = load_archive(path)
    assert list(found) == ["train", "valid", "test"]
    for split, expected in splits.items():
        assert_equal_sets(found[split], expected)
    assert [file.name for file in path.parent.iterdir()] == ["clips.npz"]


def test_only_the_named_split_is_read(splits, tmp_path, monkeypatch):
    path = tmp_path / "clips.npz"
    save_archive(path, splits)
    opened = []
    plain_open = zipfile.ZipFile.open

    def noting_open(self, name, *args, **kwargs):
        opened.append(getattr(name, "filename", name))
        return plain_open(self, name, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", noting_open)
    assert list(load_archive(path, ["valid"])) == ["valid"]
    assert {name.partition("/")[0] for name in opened} == {"meta.npy", "valid"}


def test_a_split_that_is_not_there_is_named(splits, tmp_path):
    path = tmp_path / "clips.npz"
    save_archive(path, {"train": splits["train"]})
    with pytest.raises(UserError, match=r"clips.npz: expected split 'test', found train"):
        load_archive(path, ["train", "test"])


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        load_archive(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_archive_is_named(tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere.npz")


def test_an_archive_cut_off_anywhere_is_refused(splits, tmp_path):
    path = tmp_path / "clips.npz"
    save_archive(path, splits)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 3, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "expected an archive" in refused(path)


def test_flipped_bytes_are_noticed(splits, tmp_path):
    path = tmp_path / "clips.npz"
    save_archive(path, splits)
    whole = path.read_bytes()
    for split in splits:
        at = whole.index(splits[split].keypoints.tobytes()) + 5
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        refused(path)


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "foreign.npz"
    np.savez(path, positions_3d=np.zeros(3))
    refused(path)
    np.savez(path, meta=np.array(json.dumps({"format": "something else", "splits": {}})))
    assert "found 'something else'" in refused(path)
    for meta in ("[]", "not json", json.dumps({"format": "diffpose_jax clips 1", "splits": {"train": []}})):
        np.savez(path, meta=np.array(meta))
        refused(path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    refused(path.with_suffix(".npy"))
    path.write_text("hello")
    refused(path)


def rewritten(source, target, **arrays) -> None:
    """Copies an archive with some members replaced, as a foreign program might."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.removesuffix(".npy") in arrays:
                buffer = io.BytesIO()
                np.save(buffer, arrays[name.removesuffix(".npy")], allow_pickle=True)
                data = buffer.getvalue()
            new.writestr(name, data)


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_object_arrays_are_refused_and_nothing_in_them_runs(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_archive("clips.npz", splits)
    for member in ("meta", "train/keypoints", "valid/fps"):
        rewritten("clips.npz", "hostile.npz", **{member: np.array([Bomb()], object)})
        refused("hostile.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("member", "array"),
    [
        ("train/keypoints", np.zeros((6, 16, 2), np.float32)),
        ("train/keypoints", np.full((6, 17, 2), np.nan, np.float32)),
        ("train/poses", np.zeros((5, 17, 3), np.float32)),
        ("train/keypoints", np.full((6, 17, 2), "x")),
        ("train/clip_length", np.array([5, 2], np.int32)),
        ("train/clip_length", np.array([6, 0], np.int32)),
        ("train/clip_start", np.array([1, 0], np.int32)),
        ("train/fps", np.array([25.0], np.float32)),
        ("train/camera", np.array([0, 2], np.int32)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(splits, tmp_path, member, array):
    save_archive(tmp_path / "clips.npz", splits)
    rewritten(tmp_path / "clips.npz", tmp_path / "wrong.npz", **{member: array})
    refused(tmp_path / "wrong.npz")


def test_an_archive_that_cannot_be_written_is_named(splits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_archive(tmp_path / "file" / "clips.npz", splits)


def mixtures(frames: int, components: int = 3, joints: int = 17, seed: int = 0) -> np.ndarray:
    packed = np.random.default_rng(seed).uniform(0.1, 1, (frames, joints, components, 6)).astype(np.float16)
    packed[..., 0] /= packed[..., 0].sum(-1, keepdims=True)
    return packed


def test_mixtures_go_with_their_frames_through_selection_conversion_and_archive(splits, tmp_path):
    parts = [clip(5)._replace(mixture=mixtures(5)), clip(2, "S5", seed=1)._replace(mixture=mixtures(2, seed=1))]
    whole = ClipSet.build(parts, H36M_17, cameras())
    assert whole.mixture.dtype == np.float16
    np.testing.assert_array_equal(whole.select([1]).mixture, parts[1].mixture)
    np.testing.assert_array_equal(whole.converted(H36M_16).mixture, np.delete(whole.mixture, 9, axis=1))
    save_archive(tmp_path / "a.npz", {"train": whole, "valid": splits["valid"]})
    found = load_archive(tmp_path / "a.npz")
    assert_equal_sets(found["train"], whole)
    assert found["valid"].mixture is None


def test_a_clip_without_mixtures_leaves_the_set_without(tmp_path):
    assert ClipSet.build([clip(5)._replace(mixture=mixtures(5)), clip(2, "S5")], H36M_17).mixture is None


def test_mixtures_are_left_out_where_a_joint_is_made_of_several():
    coco = ClipSet.build([clip(3)._replace(mixture=mixtures(3), poses=None, root=None)], COCO_17)
    assert coco.converted(H36M_17).mixture is None


def test_mixtures_of_another_form_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected mixture of shape"):
        ClipSet.build([clip(3)._replace(mixture=mixtures(3)[..., :5])], H36M_17)
    parts = [clip(3)._replace(mixture=mixtures(3)), clip(3)._replace(mixture=mixtures(3, 2))]
    with pytest.raises(UserError, match="one number of components"):
        ClipSet.build(parts, H36M_17)
