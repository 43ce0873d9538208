"""The evaluation of a work directory, end to end: a tiny network with random variables on a tiny archive."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.evaluation.calibration import coverage, mahalanobis_rank
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.distributions import coverage_by_visibility, distribution_row, measure_hypotheses
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.geometry import Camera, project
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.registry import config_for
from diffpose_jax.skeleton import MPI_INF_3DHP_17, convert_layout, get_skeleton
from diffpose_jax.workdir.trained import load_trained

SKELETON = get_skeleton("h36m17")


def clipset(seed: int, with_cameras: bool = True) -> ClipSet:
    rng = np.random.default_rng(seed)
    lens = ([2.3, 2.3], [0, 0], [0] * 3, [0] * 2, [1, 0, 0, 0], [0] * 3, [1000, 1000])
    camera = Camera(*(np.array([values], np.float32) for values in lens))
    clips = []
    for number, (subject, action, length) in enumerate(
        [("S9", "Walking 1", 9), ("S11", "Sitting", 4), ("S9", "Walking", 5)]
    ):
        poses = (rng.normal(size=(1, 17, 3)) * 0.3 + rng.normal(size=(length, 17, 3)) * 0.02).astype(np.float32)
        poses[:, 0] = 0
        root = np.tile(np.array([0.1, 0.1 * number, 5.0], np.float32), (length, 1))
        seen = np.asarray(project(jnp.asarray(poses + root[:, None]), Camera(*(field[0] for field in camera))))
        clips.append(Clip(seen, poses, root, subject, action, 0 if with_cameras else -1))
    return ClipSet.build(clips, SKELETON, camera if with_cameras else None)


def tiny_config(archive: Path, name: str, variant: str) -> ConfigDict:
    config = config_for(name)
    config.data.source = str(archive)
    config.lifter.update({"variant": variant, "width": 32, "num_layers": 1})
    config.diffusion.steps = 3
    config.evaluation.update({"hypotheses": 3, "batch_size": 4})
    return config


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    save_archive(path, {"train": clipset(0), "test": clipset(1)})
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, archive, untrained) -> Path:
    return untrained(tmp_path_factory.mktemp("runs") / "diffusion", tiny_config(archive, "diffupose", "gcn"))


@pytest.fixture(scope="module")
def supervised_workdir(tmp_path_factory, archive, untrained) -> Path:
    return untrained(tmp_path_factory.mktemp("runs") / "lifter", tiny_config(archive, "modulated_gcn", "gt"))


@pytest.fixture(scope="module")
def results(workdir, supervised_workdir) -> dict:
    return evaluate(workdir, flip="none", baseline_workdirs=[str(supervised_workdir)])


def row(results: dict, name: str) -> dict:
    return next(one for one in results["rows"] if one["name"] == name)


def test_all_aggregations_and_baselines_are_measured_on_the_same_frames(results, supervised_workdir):
    names = [one["name"] for one in results["rows"]]
    assert names == [*AGGREGATES, "mean_pose", "nearest_neighbour", str(supervised_workdir)]
    for one in results["rows"]:
        assert set(one["by_action"]) == {"Walking", "Sitting"}
        assert set(one["by_subject"]) == {"S9", "S11"}
        frames = {"Walking": 14, "Sitting": 4}
        weighted = sum(frames[action] * one["by_action"][action]["mpjpe"] for action in frames) / 18
        assert one["frame_average"]["mpjpe"] == pytest.approx(weighted, rel=1e-5)


def test_the_mean_pose_row_is_what_numpy_says(results):
    train, test = clipset(0), clipset(1)
    errors = np.linalg.norm(test.poses - train.poses.mean(axis=0), axis=-1).mean(axis=-1)
    assert row(results, "mean_pose")["frame_average"]["mpjpe"] == pytest.approx(1000 * errors.mean(), rel=1e-4)


def test_the_oracle_is_marked_and_never_behind_a_single_hypothesis(results):
    best = row(results, "oracle_best")
    assert best["oracle"]
    assert "uses ground truth" in best["label"]
    assert best["frame_average"]["mpjpe"] <= row(results, "first")["frame_average"]["mpjpe"]
    assert row(results, "oracle_best_joint")["frame_average"]["mpjpe"] <= best["frame_average"]["mpjpe"]


def test_coverage_is_that_of_all_hypotheses_that_were_measured(results, workdir):
    trained, clips = load_trained(workdir), clipset(1)
    job, frames = Job(Sampling(3), ("all",)), np.arange(clips.num_frames)
    poses = predict_frames("test", trained.lifter, trained.variables, clips, frames, job)
    ranks = np.asarray(mahalanobis_rank(jnp.moveaxis(jnp.asarray(poses["all"]), 1, 0), jnp.asarray(clips.poses)))
    shares = {str(level): share for level, share in coverage(ranks[:, 1:]).items()}
    assert set(results["coverage"]) == {"all"}
    assert results["coverage"]["all"] == pytest.approx(shares, abs=0.01)
    for name in ("results.md", "results.html"):
        assert "coverage of all joints: 50% region holds" in (workdir / name).read_text()
    assert evaluate(workdir, flip="none", hypotheses=1, figure=False, output=workdir / "one")["coverage"] == {}


def test_coverage_is_told_apart_by_what_the_heatmaps_showed(workdir):
    clips = clipset(1)
    visibility = np.zeros(clips.keypoints.shape[:2], np.uint8)
    visibility[:5, 3], visibility[5:, 3] = 1, 2
    measured = Measured.of(dataclasses.replace(clips, visibility=visibility), 1, "standard")
    low = np.full(visibility.shape, 0.95)
    low[:5, 3], low[5:, 3], low[:, 0] = 0.4, 0.7, 0.0
    found, intervals = coverage_by_visibility(measured, np.stack([low, low + 0.05], axis=-1))
    assert found["occluded"] == {"0.5": 1.0, "0.9": 1.0}
    assert found["confused"] == {"0.5": 0.0, "0.9": 1.0}
    assert found["visible"] == {"0.5": 0.0, "0.9": 0.0}
    assert found["all"]["0.9"] == pytest.approx(1 / 16)
    # Of the 18 frames S11 has 4; in 5 of them, of S9, joint 3 is occluded: S9 alone has such joints.
    assert intervals["occluded"] == {"0.5": None, "0.9": None}
    assert intervals["all"]["0.9"] == pytest.approx([1 / 16, 1 / 16])


def test_scores_of_the_distribution_are_those_of_its_hypotheses(results, workdir):
    trained, clips = load_trained(workdir), clipset(1)
    job, frames = Job(Sampling(3), ("all",)), np.arange(clips.num_frames)
    drawn = predict_frames("test", trained.lifter, trained.variables, clips, frames, job)["all"]
    measured = Measured.of(clips, 1, "standard")
    expected = distribution_row(measured, "x", "x", measure_hypotheses(measured, [drawn]))
    row = results["distributions"][0]
    assert len(results["distributions"]) == 1  # the supervised baseline has no hypotheses
    for name, value in expected["scores"].items():
        assert row["scores"][name] == pytest.approx(value, rel=2e-3), name
    pairs = [(0, 1), (0, 2), (1, 2)]
    near = np.linalg.norm((drawn - clips.poses[:, None]).reshape(18, 3, -1), axis=-1).mean(axis=1)
    apart = np.mean([np.linalg.norm((drawn[:, i] - drawn[:, k]).reshape(18, -1), axis=-1) for i, k in pairs], axis=0)
    assert row["scores"]["energy_score"] == pytest.approx(1000 * np.mean(near - apart / 2), rel=2e-3)
    table = (workdir / "results.md").read_text()
    assert "energy score (mm)" in table
    assert "95 % intervals of the frame average (bootstrap over 2 subjects)" in table


def test_intervals_are_there_where_there_are_two_subjects(results):
    row = results["rows"][0]
    by_subject = [values["mpjpe"] for values in row["by_subject"].values()]
    assert row["interval"]["mpjpe"] == pytest.approx([min(by_subject), max(by_subject)])
    low, high = results["coverage_interval"]["all"]["0.9"]
    assert low <= results["coverage"]["all"]["0.9"] <= high


def test_the_files_say_how_it_was_measured(results, workdir):
    written = json.loads((workdir / "results.json").read_text())
    assert {name: written[name] for name in results} == results
    assert {"version", "commit", "device"} <= set(written["made"])
    table = (workdir / "results.md").read_text()
    for text in ("protocol standard", "no flips", "3 hypotheses", "18 frames (every frame), 3 clips",
                 "2 subjects (S11, S9)", "mean of 3", "split test"):  # fmt: skip
        assert text in table
    assert (workdir / "figures" / "test.png").stat().st_size > 1000


def test_averages_over_flips_enter_the_mean_and_nothing_about_the_distribution(workdir, tmp_path):
    half, average = (
        evaluate(workdir, flip=flip, hypotheses=2, aggregations=("first", "mean"), output=tmp_path, figure=False)
        for flip in ("half", True)  # True, as it was called before, is 'average'
    )
    assert average["setting"]["flip_text"] == "flip averaging"
    assert "samples before averaging over flips" in " ".join(average["notes"])
    assert "averaging" not in " ".join(half["notes"])
    # The straight samples are hypotheses 0 and 2 of those of which every second one is mirrored.
    assert row(average, "first") == row(half, "first")
    assert row(average, "mean") != row(half, "mean")


def test_another_protocol_is_printed_with_its_name_and_stride_flip_and_noise_are_told(workdir, tmp_path, archive):
    found = evaluate(workdir, protocol="backprojection_release", stride=2, flip="average", noise="clip",
                     aggregations=("mean",), hypotheses=2, output=tmp_path, figure=False)  # fmt: skip
    table = (tmp_path / "results.md").read_text()
    assert "protocol backprojection_release" in table
    assert "GROUND-TRUTH" in table
    assert "flip averaging; DDPM, 3 of 3 steps, one noise per clip" in table
    assert "frames (one frame in 2, from a drawn one of each clip)" in table
    assert row(found, "mean")["frame_average"]["velocity_error"] is None


def test_without_cameras_reprojection_is_left_out_with_a_line(workdir, tmp_path):
    save_archive(tmp_path / "blind.npz", {"test": clipset(1, with_cameras=False)})
    found = evaluate(workdir, data=str(tmp_path / "blind.npz"), aggregations=("first", "reprojection"), hypotheses=2,
                     flip="none", output=tmp_path, figure=False)  # fmt: skip
    assert "reprojection" not in {one["name"] for one in found["rows"]}
    assert "cameras of this data are not known" in (tmp_path / "results.md").read_text()
    assert found["data"]["source"] == str(tmp_path / "blind.npz")
    with pytest.raises(UserError, match="root positions and known cameras"):
        evaluate(workdir, data=str(tmp_path / "blind.npz"), protocol="backprojection_release", output=tmp_path)


def test_data_of_another_laboratory_are_measured_by_their_own_protocol(workdir, tmp_path):
    """Joints are mapped to the lifter's, and the poses back to those that the benchmark's protocol measures."""
    skeleton = MPI_INF_3DHP_17
    parts = [clipset(1).clip(i) for i in range(3)]
    native = [
        part._replace(
            **{name: convert_layout(getattr(part, name), SKELETON, skeleton) for name in ("keypoints", "poses")},
            subject=f"TS{number + 1}",
            valid_frame=np.arange(len(part.poses)) != 1,
        )
        for number, part in enumerate(parts)
    ]
    clips = ClipSet.build(native, skeleton, clipset(1).cameras)
    save_archive(tmp_path / "other.npz", {"test": clips})
    found = evaluate(workdir, data=tmp_path / "other.npz", aggregations=("first",), hypotheses=1, flip="none",
                     output=tmp_path, figure=True)  # fmt: skip
    assert found["protocol"]["name"] == "mpi_inf_3dhp"
    assert set(row(found, "first")["by_sequence"]) == {"TS1", "TS2", "TS3"}
    trained, frames = load_trained(workdir), np.flatnonzero(clips.valid_frame)
    poses = predict_frames("x", trained.lifter, trained.variables, clips.to_layout(SKELETON), frames,
                           Job(Sampling(), ("first",)))["first"]  # fmt: skip
    errors = np.linalg.norm(convert_layout(poses, SKELETON, skeleton) - clips.poses[frames], axis=-1).mean(axis=-1)
    assert row(found, "first")["frame_average"]["mpjpe"] == pytest.approx(1000 * errors.mean(), rel=1e-4)
    table = (tmp_path / "results.md").read_text()
    for text in ("layout h36m17, mapped from mpi_inf_3dhp17: thorax = neck, neck_nose = head",
                 "poses are mapped to mpi_inf_3dhp17", "neck = thorax, head = neck_nose"):  # fmt: skip
        assert text in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "validation"),
        ({"protocol": "strict"}, "expected one of standard"),
        ({"aggregations": ("best",)}, "found 'best'"),
        ({"hypotheses": 0}, "hypotheses"),
        ({"data": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluate(workdir, output=tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_data_without_poses_points_to_predict(workdir, tmp_path):
    clips = clipset(1)
    flat = ClipSet.build([clips.clip(i)._replace(poses=None, root=None, camera=-1) for i in range(3)], SKELETON)
    save_archive(tmp_path / "flat.npz", {"test": flat})
    with pytest.raises(UserError, match=r"diffpose_jax\.predict"):
        evaluate(workdir, data=str(tmp_path / "flat.npz"), output=tmp_path)


def test_the_program_ends_with_one_line_and_exit_code_two_for_a_mistake(tmp_path):
    command = [sys.executable, "-m", "diffpose_jax.evaluate", "--workdir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert "config.json" in ended.stderr
