"""The front door: a model in memory is loaded, lifts keypoints, and says what is wrong in one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import diffpose_jax as dp
from diffpose_jax.command_line import parse
from diffpose_jax.lifters.diffupose import DiffuPose

FRAMES = 6
SIZE = (1000, 800)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Keypoints of one clip in the layout of COCO, `[FRAMES, 17, 2]`."""
    return np.random.default_rng(0).uniform(100, 700, size=(FRAMES, 17, 2))


@pytest.fixture(scope="module")
def result(diffupose_workdir, pixels) -> dp.Result:
    return dp.load(diffupose_workdir).lift(pixels, layout="coco17", image_size=SIZE, hypotheses=4, focal=2.3)


@pytest.fixture(scope="module")
def keypoint_file(tmp_path_factory, pixels) -> Path:
    path = tmp_path_factory.mktemp("data") / "points.json"
    path.write_text(json.dumps({"keypoints": pixels.tolist(), "image_size": SIZE, "layout": "coco17"}))
    return path


def test_the_fields_of_a_result_have_their_shapes_and_units(result):
    assert result.poses.shape == (FRAMES, 17, 3)
    assert result.hypotheses.shape == (FRAMES, 4, 17, 3)
    assert result.spread.shape == (FRAMES, 17)
    assert result.root.shape == (FRAMES, 3)
    assert result.clips.keypoints.shape == (FRAMES, 17, 2)
    assert result.skeleton == dp.get_skeleton("h36m17")
    np.testing.assert_allclose(result.poses, result.hypotheses.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(result.poses[:, 0], 0)
    squares = np.sum((result.hypotheses - result.poses[:, None]) ** 2, axis=-1)
    np.testing.assert_allclose(result.spread, np.sqrt(squares.mean(axis=1)), rtol=1e-4, atol=1e-6)  # metres
    assert result.settings["hypotheses"] == 4
    assert result.settings["step"] == 7


def test_the_program_gives_the_same_poses_as_the_four_lines(result, diffupose_workdir, keypoint_file, tmp_path, capsys):
    program, values = import_module("diffpose_jax.predict"), flags.FlagValues()
    program.define_flags(values)
    arguments = ["--workdir", diffupose_workdir, "--input", keypoint_file, "--output", tmp_path, "--nojson"]
    parse(["predict", *map(str, arguments), "--hypotheses=4", "--focal=2.3"], values)
    assert program.main(["predict"], values) == 0
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as found:
        for name in ("poses", "hypotheses", "root"):
            np.testing.assert_array_equal(found[name], getattr(result, name))
        np.testing.assert_array_equal(found["spread_mm"], 1000 * result.spread)
    assert "6 frames, 4 hypotheses each" in capsys.readouterr().out


def test_clips_that_were_read_from_a_file_are_lifted_like_their_pixels(result, diffupose_workdir, keypoint_file):
    clips = dp.read_keypoints(keypoint_file)
    found = dp.load(diffupose_workdir).lift(clips, hypotheses=4)
    np.testing.assert_array_equal(found.hypotheses, result.hypotheses)
    assert found.root is None


def test_the_seed_is_the_only_source_of_randomness(result, diffupose_workdir, pixels):
    model = dp.load(diffupose_workdir)
    same, other = (model.lift(pixels, layout="coco17", image_size=SIZE, hypotheses=4, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(same.hypotheses, result.hypotheses)
    assert np.abs(other.hypotheses - result.hypotheses).max() > 1e-3


def test_equal_keypoints_of_a_clip_give_equal_poses(result, diffupose_workdir, pixels):
    still, model = np.repeat(pixels[:1], FRAMES, axis=0), dp.load(diffupose_workdir)
    found = model.lift(still, layout="coco17", image_size=SIZE, hypotheses=4, focal=2.3)
    np.testing.assert_allclose(np.diff(found.hypotheses, axis=0), 0, atol=1e-6)
    assert found.settings["noise"] == result.settings["noise"] == "clip"
    # The noise is that of the clip: its first frame is as it was.
    np.testing.assert_allclose(found.hypotheses[0], result.hypotheses[0], atol=1e-6)


@pytest.mark.slow
def test_the_spread_is_that_of_samples_also_where_the_pose_is_made_of_averages(diffupose_workdir, pixels):
    half, average = (
        dp.load(diffupose_workdir, flip=flip).lift(pixels, layout="coco17", image_size=SIZE, hypotheses=count)
        for count, flip in ((8, "half"), (4, "average"))
    )
    np.testing.assert_allclose(average.hypotheses, half.hypotheses[:, ::2], atol=1e-6)
    np.testing.assert_allclose(average.poses, half.poses, atol=1e-6)


def test_loading_and_lifting_twice_compiles_once(diffupose_workdir, pixels, monkeypatch):
    traced = []
    sample = DiffuPose.sample

    def counted(self, variables, key, batch, sampling):
        traced.append(sampling.hypotheses)
        return sample(self, variables, key, batch, sampling)

    monkeypatch.setattr(DiffuPose, "sample", counted)
    for _ in range(2):
        model = dp.load(diffupose_workdir)
        for _ in range(2):
            model.lift(pixels, layout="coco17", image_size=SIZE, hypotheses=2)
    assert traced == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "coco18"}, "coco18"),
        ({"layout": ""}, "name of a layout"),
        ({"layout": "humaneva15"}, "expected 15 joints"),
        ({"image_size": None}, "image_size"),
        ({"image_size": (0, 800)}, "image_size"),
        ({"hypotheses": 0}, "hypotheses: expected at least 1, found 0"),
        ({"aggregation": "oracle_best"}, "no ground truth"),
        ({"aggregation": "best"}, "found 'best'"),
        ({"aggregation": "reprojection"}, "known camera"),
        ({"focal": 0.0}, "focal: expected a positive number"),
    ],
)
def test_a_mistake_is_one_line(diffupose_workdir, pixels, options, message):
    with pytest.raises(dp.UserError, match=message) as caught:
        dp.load(diffupose_workdir).lift(pixels, **({"layout": "coco17", "image_size": SIZE} | options))
    assert "\n" not in str(caught.value)


def test_pixels_that_are_no_keypoints_are_one_line(diffupose_workdir, pixels):
    model = dp.load(diffupose_workdir)
    for wrong in (pixels[0, 0], pixels[..., :1], np.where(pixels > 600, np.inf, pixels), "points.json"):
        with pytest.raises(dp.UserError, match="keypoints") as caught:
            model.lift(wrong, layout="coco17", image_size=SIZE)
        assert "\n" not in str(caught.value)


def lift_without_a_leg(workdir, pixels, stand_in, score=None):
    """A result whose left knee and ankle were not seen, said by a stand-in for the keypoint or by the score."""
    keypoints = np.concatenate([pixels, np.ones((FRAMES, 17, 1))], axis=-1)
    keypoints[:, [13, 15], :2] = stand_in
    keypoints[:, [13, 15], 2] = 1 if score is None else score
    return dp.load(workdir).lift(keypoints, layout="coco17", image_size=SIZE, hypotheses=4)


def test_a_keypoint_at_the_origin_with_score_zero_changes_nothing_that_nan_would_not(
    result, diffupose_workdir, pixels, caplog
):
    with caplog.at_level("WARNING", logger="absl"):
        found = lift_without_a_leg(diffupose_workdir, pixels, np.nan)
    assert "24 of 102 joints" not in caplog.text
    assert "12 of 102 joints (11.8%) were not seen (left_knee, left_ankle)" in caplog.text
    for stand_in, score in (((0, 0), 0), ((640, 123), 0), ((640, 123), 0.05)):
        same = lift_without_a_leg(diffupose_workdir, pixels, stand_in, score)
        np.testing.assert_array_equal(same.hypotheses, found.hypotheses)
        np.testing.assert_array_equal(same.seen, found.seen)
    leg = [result.skeleton.joints.index(name) for name in ("left_knee", "left_ankle")]
    assert np.flatnonzero(~found.seen.all(axis=0)).tolist() == leg
    # The model cannot be told; the spread of what was not seen grows nevertheless.
    assert (found.spread[:, leg].mean(axis=0) > 1.05 * result.spread[:, leg].mean(axis=0)).all()


def test_a_missing_work_directory_is_one_line(tmp_path):
    with pytest.raises(dp.UserError, match="nowhere") as caught:
        dp.load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_importing_the_package_takes_less_than_half_a_second_and_does_not_import_jax():
    program = (
        "import sys, time; start = time.perf_counter(); import diffpose_jax; seconds = time.perf_counter() - start; "
        "print(seconds, sorted({'jax', 'numpy', 'flax', 'absl'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, imported = ended.stdout.split(maxsplit=1)
    assert float(seconds) < 0.5
    assert imported.strip() == "[]"


def test_every_name_of_the_front_door_can_be_used():
    assert len(dp.__all__) == len(set(dp.__all__))
    assert set(dp.__all__) <= set(dir(dp))
    for name in dp.__all__:
        assert getattr(dp, name) is not None
    stub = ast.parse((Path(dp.__file__).parent / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert {name.asname for node in imports for name in node.names} == set(dp.__all__)
    with pytest.raises(AttributeError, match="attribute levitate"):
        dp.levitate  # noqa: B018


def test_train_and_evaluate_stay_functions_after_their_programs_are_imported():
    for name in ("train", "evaluate"):
        program = import_module(f"diffpose_jax.{name}")
        assert callable(program.main)
        assert callable(getattr(dp, name))
