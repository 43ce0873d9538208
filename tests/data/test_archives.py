"""Archives give back what was saved; what is no archive, or a damaged one, is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest

from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, H36M_17

from .random_clips import cameras, clip, mixtures


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


def test_marks_and_note_survive_the_archive_and_older_archives_have_none(splits, tmp_path):
    marked = clip(3)._replace(valid_frame=np.array([True, False, True]), activity=np.array([2, 2, 7]), detected=True)
    original = ClipSet.build([marked], H36M_17, cameras(), "a note")
    save_archive(tmp_path / "a.npz", {"test": original, "train": splits["train"]})
    found = load_archive(tmp_path / "a.npz")
    assert_equal_sets(found["test"], original)
    assert (found["train"].note, found["train"].valid_frame) == ("", None)


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


def test_a_flipped_byte_is_noticed_by_the_checksum_of_its_member(splits, tmp_path):
    path = tmp_path / "clips.npz"
    save_archive(path, splits)
    whole = path.read_bytes()
    for split in splits:
        at = whole.index(splits[split].keypoints.tobytes()) + 5
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        assert f"BadZipFile: Bad CRC-32 for file '{split}/keypoints.npy'" in refused(path)


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
    ("member", "array", "said"),
    [
        ("train/keypoints", np.zeros((6, 16, 2), np.float32), "keypoints that is not (6, 17, 2) numbers"),
        ("train/keypoints", np.full((6, 17, 2), np.inf, np.float32), "keypoints with NaN or infinity"),
        ("train/poses", np.full((6, 17, 3), np.nan, np.float32), "poses with NaN or infinity"),
        ("train/poses", np.zeros((5, 17, 3), np.float32), "poses that is not (6, 17, 3) numbers"),
        ("train/keypoints", np.full((6, 17, 2), "x"), "keypoints that is not (6, 17, 2) numbers"),
        ("train/clip_length", np.array([5, 2], np.int32), "clips that do not add up to the frames"),
        ("train/clip_length", np.array([6, 0], np.int32), "clips that do not add up to the frames"),
        ("train/clip_start", np.array([1, 0], np.int32), "clips that do not add up to the frames"),
        ("train/fps", np.array([25.0], np.float32), "fps that is not (2,) numbers"),
        ("train/camera", np.array([0, 2], np.int32), "clips without an action or a camera"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(splits, tmp_path, member, array, said):
    save_archive(tmp_path / "clips.npz", splits)
    rewritten(tmp_path / "clips.npz", tmp_path / "wrong.npz", **{member: array})
    assert said in refused(tmp_path / "wrong.npz")


def test_an_archive_that_cannot_be_written_is_named(splits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_archive(tmp_path / "file" / "clips.npz", splits)


def test_mixtures_and_visibility_survive_the_archive(splits, tmp_path):
    codes = np.random.default_rng(0).integers(0, 3, (5, 17)).astype(np.uint8)
    whole = ClipSet.build([clip(5)._replace(mixture=mixtures(5), visibility=codes)], H36M_17, cameras())
    save_archive(tmp_path / "a.npz", {"train": whole, "valid": splits["valid"]})
    found = load_archive(tmp_path / "a.npz")
    assert_equal_sets(found["train"], whole)
    assert found["valid"].mixture is None
    assert found["valid"].visibility is None


def test_visibility_is_read_under_its_older_name_too(tmp_path):
    codes = np.ones((5, 17), np.uint8)
    save_archive(tmp_path / "a.npz", {"test": ClipSet.build([clip(5)._replace(visibility=codes)], H36M_17, cameras())})
    with np.load(tmp_path / "a.npz") as archive:
        arrays = {name.replace("visibility", "evidence"): array for name, array in archive.items()}
    assert "test/evidence" in arrays
    np.savez(tmp_path / "older.npz", **arrays)
    np.testing.assert_array_equal(load_archive(tmp_path / "older.npz")["test"].visibility, codes)


def test_a_code_of_no_visibility_is_refused(tmp_path):
    codes = np.full((3, 17), 3, np.uint8)
    save_archive(tmp_path / "odd.npz", {"test": ClipSet.build([clip(3)._replace(visibility=codes)], COCO_17)})
    assert "visibility other than 0 to 2" in refused(tmp_path / "odd.npz")


def test_a_keypoint_that_is_nan_was_not_seen(splits, tmp_path):
    save_archive(tmp_path / "clips.npz", splits)
    keypoints = splits["train"].keypoints.copy()
    keypoints[3, 5] = np.nan
    rewritten(tmp_path / "clips.npz", tmp_path / "holes.npz", **{"train/keypoints": keypoints})
    found = load_archive(tmp_path / "holes.npz")["train"]
    assert np.isfinite(found.keypoints).all()
    assert np.argwhere(~found.seen).tolist() == [[3, 5]]
    np.testing.assert_array_equal(found.keypoints[found.seen], keypoints[found.seen])


def test_a_description_with_characters_that_do_not_exist_is_one_line(tmp_path):
    text = np.frombuffer(np.uint32([0x7FFFFFFF]).tobytes(), "<U1").reshape(())
    np.savez(tmp_path / "a.npz", meta=text)
    with pytest.raises(UserError, match=r"a\.npz"):
        load_archive(tmp_path / "a.npz")
