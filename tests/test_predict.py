"""Prediction from a keypoint file, end to end: a tiny network with random variables."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.cli import parse_image_size
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.window_cameras import add_pinhole
from diffpose_jax.formats.tracks import Reading
from diffpose_jax.model import Lifting, Result
from diffpose_jax.predict import predict
from diffpose_jax.prediction_files import save_lifting, save_result
from diffpose_jax.skeleton import get_skeleton

SKELETON = get_skeleton("h36m17")
FRAMES = 6


@pytest.fixture(scope="module")
def keypoint_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "points.json"
    pixels = np.random.default_rng(0).uniform(100, 900, size=(FRAMES, 17, 2))
    document = {"keypoints": pixels.tolist(), "image_size": [1000, 1000], "layout": "h36m17", "fps": 25}
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def result(diffupose_workdir, keypoint_file) -> Result:
    return predict(diffupose_workdir, keypoint_file, hypotheses=4, focal=2.3)


def test_aggregate_and_spread_belong_to_the_hypotheses(result):
    assert result.hypotheses.shape == (FRAMES, 4, 17, 3)
    np.testing.assert_allclose(result.poses, result.hypotheses.mean(axis=1), atol=1e-6)
    deviation = result.hypotheses - result.hypotheses.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(result.spread, np.sqrt((deviation**2).sum(-1).mean(axis=1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.poses[:, 0], 0, atol=1e-6)


def test_the_files_hold_the_same_and_need_no_pickle(result, tmp_path):
    npz, text, figure = save_result(result, tmp_path / "out")
    with np.load(npz, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["hypotheses"], result.hypotheses)
        assert tuple(arrays["joints"]) == SKELETON.joints
        assert json.loads(str(arrays["meta"]))["units"]["spread_mm"] == "millimetres"
        root = arrays["root"]
    document = json.loads(text.read_text())
    frames = document["clips"][0]["frames"]
    assert document["clips"][0]["fps"] == 25
    assert len(frames) == FRAMES
    np.testing.assert_allclose([frame["pose"] for frame in frames], result.poses, atol=6e-5)
    np.testing.assert_allclose([frame["hypotheses"] for frame in frames], result.hypotheses, atol=6e-5)
    np.testing.assert_allclose([frame["spread_mm"] for frame in frames], 1000 * result.spread, atol=0.06)
    np.testing.assert_allclose([frame["root"] for frame in frames], root, atol=6e-5)
    assert document["parents"] == list(SKELETON.parents)
    assert figure.stat().st_size > 1000


def test_without_a_camera_there_is_no_root(result, tmp_path):
    blind = result._replace(root=None)
    npz, _ = save_result(blind, tmp_path, json_too=False)
    with np.load(npz, allow_pickle=False) as arrays:
        assert "root" not in arrays
    assert not (tmp_path / "predictions.json").exists()


def test_radii_are_in_the_files_where_there_are_any(result, tmp_path):
    assert result.radius_90 is None
    calibrated = result._replace(radius_50=result.spread, radius_90=2 * result.spread)
    npz, text, _ = save_result(calibrated, tmp_path)
    with np.load(npz, allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["radius_90_mm"], 2000 * result.spread, rtol=1e-6)
    document = json.loads(text.read_text())
    frames = document["clips"][0]["frames"]
    np.testing.assert_allclose([frame["radius_50_mm"] for frame in frames], 1000 * result.spread, atol=0.06)
    assert document["units"]["radius_50_mm"] == "millimetres"
    npz, *_ = save_result(result, tmp_path, json_too=False)
    with np.load(npz, allow_pickle=False) as arrays:
        assert "radius_90_mm" not in arrays


def _in_parts(result: Result, frames: int, hypotheses: int, size: int) -> Lifting:
    """A prediction of `frames` frames in parts of `size`: the first frame's, again and again."""
    clips = result.clips
    keypoints = np.repeat(clips.keypoints[:1], frames, axis=0)
    many = ClipSet.build([Clip(keypoints, None, None, "S1", "walk")], SKELETON)

    def parts():
        for first in range(0, frames, size):
            rows = np.zeros(min(size, frames - first), int)
            arrays = {name: values[rows] for name, values in result.arrays().items()}
            drawn = np.repeat(arrays["hypotheses"][:, :1], hypotheses, axis=1)
            yield result._replace(clips=many, **{**arrays, "hypotheses": drawn})

    return Lifting(many, hypotheses, result.settings, parts())


def test_what_is_written_in_parts_is_what_is_written_at_once(result, tmp_path):
    once, parts = tmp_path / "once", tmp_path / "parts"
    save_result(result, once)
    rows = (result.rows(slice(first, first + 4)) for first in (0, 4))
    saved = save_lifting(Lifting(result.clips, 4, result.settings, rows), parts)
    assert saved.has_json
    assert (parts / "predictions.json").read_text() == (once / "predictions.json").read_text()
    with np.load(once / "predictions.npz") as expected, np.load(parts / "predictions.npz") as found:
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(("json_too", "most"), [(False, 1000), (True, 70)])
def test_memory_of_writing_does_not_grow_with_the_hypotheses_of_all_frames(
    result, tmp_path, monkeypatch, json_too, most
):
    monkeypatch.setattr("diffpose_jax.prediction_files._draw", lambda frame, clips: None)
    monkeypatch.setattr("diffpose_jax.prediction_files.save_figure", lambda figure, path: None)

    def measure(frames: int) -> int:
        tracemalloc.start()
        save_lifting(_in_parts(result, frames, 25, 10), tmp_path, json_too)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = measure(20), measure(most)
    # The hypotheses of 50 frames are 0.25 MB as numbers, 0.5 MB as text and 2 MB as numbers of Python.
    assert many - few < 2e5 + 1e3 * most
    assert np.load(tmp_path / "predictions.npz")["hypotheses"].shape == (most, 25, 17, 3)


def test_a_large_json_file_is_only_written_where_it_is_asked_for(result, tmp_path, monkeypatch):
    monkeypatch.setattr("diffpose_jax.prediction_files.MAX_JSON_VALUES", 1000)
    saved = save_lifting(_in_parts(result, 5, 100, 5), tmp_path / "large")
    assert not saved.has_json
    assert not (tmp_path / "large" / "predictions.json").exists()


def test_a_prediction_that_fails_halfway_leaves_the_files_before(result, tmp_path):
    save_result(result, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail():
        yield result.rows(slice(0, 3))
        raise UserError("the second part cannot be lifted")

    with pytest.raises(UserError, match="second part"):
        save_lifting(Lifting(result.clips, 4, result.settings, fail()), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_archive_is_lifted_too_and_gives_the_same_as_its_keypoints(diffupose_workdir, result, tmp_path):
    clip = result.clips.clip(0)
    poses = np.zeros((FRAMES, 17, 3), np.float32)
    clips = ClipSet.build([Clip(clip.keypoints, poses, None, "S1", "walk", -1, 25.0)], SKELETON)
    save_archive(tmp_path / "archive.npz", {"valid": clips})
    found = predict(diffupose_workdir, tmp_path / "archive.npz", split="valid", hypotheses=4)
    np.testing.assert_allclose(found.hypotheses, result.hypotheses, atol=1e-6)
    assert found.root is None


def test_a_pinhole_looks_through_the_centre_of_the_image(result):
    camera = add_pinhole(result.clips, 1.5).frame_camera()
    np.testing.assert_array_equal(camera.focal, np.full((FRAMES, 2), 1.5))
    assert not camera.centre.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hypotheses": 0}, "at least 1, found 0"),
        ({"aggregation": "oracle_best"}, "no ground truth"),
        ({"aggregation": "best"}, "found 'best'"),
        ({"aggregation": "reprojection"}, "known camera"),
        ({"focal": -1.0}, "positive number"),
        ({"reading": Reading(layout="coco17")}, "coco17"),
    ],
)
def test_mistakes_are_one_line(diffupose_workdir, keypoint_file, options, message):
    with pytest.raises(UserError, match=message) as caught:
        predict(diffupose_workdir, keypoint_file, **options)
    assert "\n" not in str(caught.value)


def test_files_of_other_tools_are_lifted_person_by_person(diffupose_workdir, tmp_path):
    people = np.random.default_rng(1).uniform(300, 600, (4, 2, 17, 2))
    content = [{"image_id": f"{frame}.jpg", "keypoints": np.column_stack([person, np.ones(17)]).ravel().tolist(),
                "idx": index} for frame, pair in enumerate(people) for index, person in enumerate(pair)]  # fmt: skip
    (tmp_path / "alphapose-results.json").write_text(json.dumps(content))
    reading = Reading(image_size=parse_image_size("1000x800"), fps=25)
    result = predict(diffupose_workdir, tmp_path, hypotheses=2, reading=reading)
    assert result.clips.clip_length.tolist() == [4, 4]
    assert result.clips.subject == ("alphapose-results-0", "alphapose-results-1")
    assert result.clips.fps.tolist() == [25, 25]


@pytest.mark.parametrize("text", ["1000", "x", "1000x", "ax3", "10 000x10x3"])
def test_an_image_size_is_two_numbers(text):
    with pytest.raises(UserError, match="--image_size: expected width and height in pixels such as 1920x1080"):
        parse_image_size(text)


def test_a_missing_file_and_a_missing_workdir_are_named(diffupose_workdir, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json"):
        predict(diffupose_workdir, tmp_path / "nothing.json")
    with pytest.raises(UserError, match="nowhere"):
        predict(tmp_path / "nowhere", tmp_path / "nothing.json")


def test_the_program_ends_with_one_line_and_exit_code_two_for_a_mistake(tmp_path):
    command = [sys.executable, "-m", "diffpose_jax.predict", "--workdir", str(tmp_path),
               "--input", "x.json", "--output", str(tmp_path / "out")]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert "config.json" in ended.stderr
