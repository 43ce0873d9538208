"""The program `lift` on keypoints of other tools: what their files do not say, who is lifted, where files go."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from diffpose_jax import cli
from diffpose_jax.lift import holds_keypoints, name_folders

# A person of 17 joints of COCO, standing, in pixels.
STANDING = np.array(
    [[500, 200], [510, 190], [490, 190], [525, 200], [475, 200], [560, 280], [440, 280], [590, 400], [410, 400],
     [600, 500], [400, 500], [535, 520], [465, 520], [540, 680], [460, 680], [545, 840], [455, 840]], float
)  # fmt: skip


def run(*arguments: str) -> int:
    """The exit code of the program."""
    values, program = flags.FlagValues(), importlib.import_module("diffpose_jax.lift")
    program.define_flags(values)
    with pytest.raises(SystemExit) as ended, jax.numpy_dtype_promotion("standard"):
        cli.run(lambda argv: program.main(argv, values), ["lift", *arguments], values)
    return ended.value.code


@pytest.fixture
def alphapose(tmp_path) -> Path:
    """Four frames of two people, the second half as large, as AlphaPose writes them: without size and frame rate."""
    people = [STANDING, 0.5 * STANDING + 40]
    content = [
        {"image_id": f"{frame}.jpg", "idx": index, "score": 2.5,
         "keypoints": np.column_stack([person + frame, np.full(17, 0.9)]).ravel().tolist()}
        for frame in range(4) for index, person in enumerate(people)
    ]  # fmt: skip
    path = tmp_path / "points" / "alphapose-results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_keypoints_of_another_tool_become_the_same_files_as_a_video(alphapose, diffupose_workdir, tmp_path, capsys):
    options = ("--workdir", str(diffupose_workdir), "--hypotheses=3", "--image_size=1000x1000", "--fps=25")
    assert run(str(alphapose.parent), *options, "--people=largest", "--output", str(tmp_path / "out")) == 0
    assert "4 frames, 1 person" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"index.html", *(f"poses.{kind}" for kind in ("bvh", "trc", "csv", "npz", "json")), "angles.mot"}
    with np.load(tmp_path / "out" / "poses.npz") as found:
        np.testing.assert_allclose(found["times"], np.arange(4) / 25)


def test_a_file_without_the_size_of_the_image_asks_for_it(alphapose, diffupose_workdir, tmp_path, capsys):
    assert run(str(alphapose), "--workdir", str(diffupose_workdir), "--output", str(tmp_path / "out")) == 2
    assert "image_size" in capsys.readouterr().err


def test_a_folder_of_keypoint_files_holds_keypoints_and_one_of_images_does_not(alphapose, tmp_path):
    assert holds_keypoints(alphapose)
    assert holds_keypoints(alphapose.parent)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"")
    assert not holds_keypoints(tmp_path / "images")
    assert not holds_keypoints("walk.mp4")
    assert not holds_keypoints("camera:0")


def test_several_sources_have_a_folder_each_also_those_of_one_name():
    assert name_folders(["a.mp4"], Path("out")) == [Path("out")]
    folders = name_folders(["a.mp4", "more/a.mp4", "b.mov"], Path("out"))
    assert folders == [Path("out/a"), Path("out/a_2"), Path("out/b")]
