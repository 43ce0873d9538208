"""`diffpose lift`: files of what was found, and one line for every mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from diffpose_jax import lift
from diffpose_jax.errors import UserError
from diffpose_jax.exports.arrays import read_arrays
from diffpose_jax.lifted_video import LiftOptions, lift_people
from diffpose_jax.registry import config_for
from diffpose_jax.workdir import releases

from .cardboard import FOCAL, SIZE, CardboardModel, cut_out, film, walk

TIMES = np.arange(12) / 25
FILES = {"index.html", "poses.bvh", "poses.trc", "angles.mot", "poses.csv", "poses.npz", "poses.json"}


@pytest.fixture
def keypoint_file(tmp_path) -> Path:
    """Twelve frames of somebody of cardboard, as a file of keypoints."""
    (track,) = film(TIMES, np.arange(12)).tracks
    path = tmp_path / "walk.json"
    content = {"keypoints": track.keypoints.tolist(), "image_size": SIZE, "layout": "h36m17", "fps": 25}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def program(run_program) -> Callable[..., tuple[int, str, str]]:
    """Runs `lift` and returns exit code, standard output and standard error."""
    return partial(run_program, lift)


@pytest.fixture
def cardboard(monkeypatch) -> CardboardModel:
    """In place of every model that is loaded."""
    model = CardboardModel(spread=0.05)
    monkeypatch.setattr(lift, "load", lambda name: model)
    return model


# --- files


def test_a_keypoint_file_without_pictures_gives_a_page_and_files_without_film(
    cardboard, program, keypoint_file, tmp_path
):
    out = tmp_path / "out"
    code, said, error = program(keypoint_file, f"--output={out}", f"--focal={FOCAL}", "--hypotheses=3")
    assert (code, error) == (0, "")
    assert {path.name for path in out.iterdir()} == FILES
    assert "12 frames, 1 person" in said
    assert "4.0 m away" in said
    for name in FILES:
        assert str(out / name) in said
    arrays = read_arrays(out / "poses.npz")
    (person,) = arrays.people
    np.testing.assert_allclose(person.root, walk(TIMES), atol=5e-3)
    np.testing.assert_allclose(person.poses, np.tile(cut_out(), (12, 1, 1)), atol=1e-4)
    assert person.hypotheses.shape == (12, 3, 17, 3)


def test_only_the_asked_for_files_are_written(cardboard, program, keypoint_file, tmp_path):
    out = tmp_path / "out"
    code, *_ = program(keypoint_file, f"--output={out}", "--formats=csv,trc", "--nopage")
    assert code == 0
    assert {path.name for path in out.iterdir()} == {"poses.csv", "poses.trc"}


def test_without_output_the_files_are_beside_nothing_else(cardboard, program, keypoint_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program(keypoint_file, "--formats=csv")[0] == 0
    assert {path.name for path in (tmp_path / "lifted").iterdir()} == {"index.html", "poses.csv"}


def test_a_source_that_fails_does_not_stop_the_others(cardboard, program, keypoint_file, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "again" / keypoint_file.name
    copy.parent.mkdir()
    copy.write_text(keypoint_file.read_text())
    missing = tmp_path / "missing.mp4"
    code, said, error = program(keypoint_file, missing, copy, f"--output={out}", "--formats=csv", "--nopage")
    assert code == 2
    assert said.count("12 frames, 1 person") == 2
    first, second = error.strip().splitlines()
    assert str(missing) in first
    assert second == f"error: 1 of 3 sources could not be lifted: {missing}"
    # Two sources of one name do not replace each other's files.
    assert {path.name for path in out.iterdir()} == {"walk", "walk_2"}
    for folder in out.iterdir():
        assert [path.name for path in folder.iterdir()] == ["poses.csv"]


@pytest.mark.slow
def test_pictures_give_a_film_and_an_overlay(cardboard, program, tmp_path, monkeypatch):
    pytest.importorskip("av")
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        image.new("RGB", (SIZE[0] // 4, SIZE[1] // 4), (40 * number, 90, 60)).save(folder / f"{number:02}.png")
    (track,) = film(TIMES, np.arange(12)).tracks

    def detect(picture: np.ndarray, time: float) -> list[np.ndarray]:
        return [track.keypoints[round(25 * time)] / 4]

    detect.layout = "h36m17"
    module = ModuleType("cardboard_detector")
    module.detect = detect
    monkeypatch.setitem(sys.modules, "cardboard_detector", module)
    out = tmp_path / "out"
    code, said, _ = program(folder, f"--output={out}", "--detector=cardboard_detector.detect", "--formats=npz")
    assert code == 0
    assert {path.name for path in out.iterdir()} == {"index.html", "overlay.mp4", "poses.npz"}
    assert (out / "overlay.mp4").stat().st_size > 500
    assert "4 frames, 1 person" in said
    code, said, _ = program(
        folder, f"--output={out}", "--detector=cardboard_detector.detect", "--nooverlay", "--nopage"
    )
    assert code == 0


@pytest.mark.slow
def test_a_lifter_of_sequences_with_random_weights_gives_finite_people(untrained, program, keypoint_file, tmp_path):
    config = config_for("diff3dhpe")
    config.lifter.update(backbone="frames", frames=9, width=32, num_layers=1)
    config.diffusion.update(sampling_steps=2, sampler="ddim")
    config.evaluation.update({"batch_size": 4, "flip": "none"})
    workdir = untrained(tmp_path / "workdir", config)
    content = json.loads(keypoint_file.read_text())
    content["keypoints"][5] = [[None, None]] * 17
    keypoint_file.write_text(json.dumps(content))
    out = tmp_path / "out"
    code, *_ = program(keypoint_file, f"--workdir={workdir}", f"--output={out}", "--hypotheses=2", "--smooth=all")
    assert code == 0
    assert {path.name for path in out.iterdir()} == FILES
    (person,) = read_arrays(out / "poses.npz").people
    assert person.frames.tolist() == [0, 1, 2, 3, 4, *range(6, 12)]
    for name in ("poses", "hypotheses", "spread", "root", "root_std"):
        assert np.isfinite(getattr(person, name)).all(), name


# --- mistakes


def refused(code: int, said: str, error: str) -> str:
    """The one line of a mistake."""
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a video: diffpose lift video.mp4"),
        (["walk.json", "--pretrained=huge"], "expected one of tiny, found 'huge'"),
        (["walk.json", "--pretrained=tiny", "--workdir=runs/a"], "expected --workdir or --pretrained, found both"),
        (["walk.json", "--workdir=nowhere"], "nowhere"),
        (["walk.json", "--up=sideways"], "up: expected camera, person or three numbers with commas"),
        (["walk.json", "--height=175"], "height: expected metres, 0.3 to 3, found 175"),
        (["walk.json", "--focal=-1"], "focal: expected a positive number of pixels"),
        (["walk.json", "--smooth=much"], "smooth"),
        (["walk.json", "--aggregation=oracle_best"], "aggregation"),
        (["walk.json", "--hypotheses=0"], "hypotheses"),
        (
            ["walk.json", "--formats=csv,fbx"],
            "--formats: expected some of bvh, trc, mot, csv, npz, json, c3d, found 'fbx'",
        ),
    ],
)
def test_a_mistake_in_the_command_is_one_line(program, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = tmp_path / "shipped" / "tiny"
    shipped.mkdir(parents=True)
    (shipped / releases.WEIGHTS).touch()
    monkeypatch.setattr(releases, "_SHIPPED", shipped.parent)
    assert message in refused(*program(*arguments))


@pytest.mark.parametrize(
    ("source", "message"),
    [("missing.json", "missing.json"), ("missing.mp4", "missing.mp4"), ("empty.json", "empty.json"), ("", "")],
)
def test_a_source_that_cannot_be_read_is_one_line(cardboard, program, source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.json").write_text("[]")
    assert message in refused(*program(source, "--output=out"))


def test_a_source_that_shows_nobody_is_one_line(cardboard, program, tmp_path, keypoint_file):
    content = json.loads(keypoint_file.read_text())
    # Only the head, of which the lifter's layout can make nothing.
    unseen = [[*point, 0] for point in content["keypoints"][0]]
    content["keypoints"] = [[*unseen[:-1], [*content["keypoints"][0][-1], 0.05]]]
    keypoint_file.write_text(json.dumps(content))
    assert str(keypoint_file) in refused(*program(keypoint_file, f"--output={tmp_path / 'out'}"))


def test_nobody_is_nobody_for_the_function_too(keypoint_file, monkeypatch):
    for filmed in (film(TIMES), film(TIMES, np.zeros(0, int))):
        monkeypatch.setattr(lift, "find", lambda *arguments, filmed=filmed: filmed)
        with pytest.raises(UserError, match=r"clip\.mp4: expected people in 12 frames, found nobody"):
            lift.lift("clip.mp4", CardboardModel(), LiftOptions())


def test_the_people_are_described_in_a_line_each(cardboard):
    filmed = film(TIMES, np.arange(12), np.arange(3, 9))
    first, *people = lift.describe(lift_people(cardboard, filmed, LiftOptions(3, focal=FOCAL)))
    assert first == "cardboard.mp4: 12 frames, 2 people"
    assert [line.split(":")[0].strip() for line in people] == ["person 0", "person 1"]
    assert "12 frames" in people[0]
    assert "6 frames" in people[1]
    assert "0% of joints not seen" in people[0]
