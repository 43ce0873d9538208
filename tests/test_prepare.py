"""`prepare` turns sources into archives, says what it found, and refuses what it cannot use in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from diffpose_jax.data.archives import load_archive

PNG = b"\x89PNG"


@pytest.fixture
def keypoints(tmp_path):
    path = tmp_path / "walk.npz"
    pixels = np.random.default_rng(0).uniform(100, 900, (6, 17, 2))
    np.savez(path, keypoints=pixels, image_size=[1920, 1080], layout="coco17", fps=25)
    return path


SYNTHETIC = ("synthetic", "--subjects=5", "--frames=60", "--cameras_per_clip=1", "--samples=3")


def test_embedded_motion_becomes_an_archive_with_a_sheet(prepare_program, tmp_path):
    output = tmp_path / "new" / "synthetic.npz"
    code, said, _ = prepare_program(*SYNTHETIC, f"--output={output}")
    assert code == 0
    splits = load_archive(output)
    assert list(splits) == ["train", "valid", "test"]
    for clips in splits.values():
        assert f"{clips.num_frames:,}" in said
    for word in ("subjects", "walk", "h36m17", "depth of the root", "bones (mm)", str(output), "synthetic.png"):
        assert word in said
    assert output.with_suffix(".png").read_bytes()[:4] == PNG


def test_simulated_detections_change_only_the_keypoints(prepare_program, tmp_path):
    exact, noisy = tmp_path / "exact.npz", tmp_path / "noisy.npz"
    assert prepare_program(*SYNTHETIC, f"--output={exact}")[0] == 0
    code, said, _ = prepare_program(*SYNTHETIC, f"--output={noisy}", "--simulate_detector", "--strength=2")
    assert code == 0
    assert "strength 2" in said
    before, after = load_archive(exact)["test"], load_archive(noisy)["test"]
    np.testing.assert_array_equal(before.poses, after.poses)
    error = np.linalg.norm(before.keypoints - after.keypoints, axis=-1).mean() * 500
    assert 4 < error < 25
    assert after.scores.shape == after.keypoints.shape[:2]


def test_keypoints_without_3d_are_prepared_for_another_layout(prepare_program, keypoints, tmp_path):
    output = tmp_path / "out.npz"
    code, said, _ = prepare_program("keypoints", f"--source={keypoints}", f"--output={output}", "--target=h36m16")
    assert code == 0
    assert "no 3D" in said
    clips = load_archive(output)["test"]
    assert (clips.skeleton.name, clips.poses, clips.fps.tolist()) == ("h36m16", None, [25.0])
    assert output.with_suffix(".png").read_bytes()[:4] == PNG


def test_no_valid_split_is_made_where_it_is_to_have_no_subjects(prepare_program, tmp_path):
    positions = np.full((20, 17, 3), 500, np.int16) + np.arange(17, dtype=np.int16)[None, :, None] * 50
    clips = {name: {"subject": name, "activity": "stand", "frames": 20} for name in ("07", "49", "127", "1")}
    meta = {"fps": 50, "scale_to_metres": 0.001, "splits": {"train": list(clips)}, "clips": clips}
    np.savez(tmp_path / "motion.npz", meta=json.dumps(meta), **dict.fromkeys(clips, positions))
    given = ("cmu", f"--source={tmp_path / 'motion.npz'}", "--cameras_per_clip=1", "--samples=1")
    for flags, splits in (((), ["train", "valid"]), (("--valid_subjects=none",), ["train"])):
        code, _, error = prepare_program(*given, *flags, f"--output={tmp_path / 'a.npz'}")
        assert (code, error) == (0, "")
        assert list(load_archive(tmp_path / "a.npz")) == splits


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "humaneva, mpi_inf_3dhp, keypoints or mixtures as the source, found none"),
        (["totalcapture"], "found totalcapture"),
        (["synthetic"], "--output: required"),
        (["cmu", "--output={here}/a.npz"], "--source: required for cmu"),
        (["cmu", "--output={here}/a.npz", "--source={here}/none.npz"], "none.npz: expected the CMU archive"),
        (["mocap", "--output={here}/a.npz", "--source={here}/none"], "none: expected a folder"),
        (["mocap", "--output={here}/a.npz", "--source={here}", "--joint_names=Hips,Knee"], "expected 19 nodes"),
        (["cmu", "--output={here}/a.npz", "--source={here}"], "expected CMU's files, such as subjects/16/16.asf"),
        (["cmu", "--output={here}/a.npz", "--source={here}", "--joint_names=x"], "no meaning for cmu"),
        (["human36m", "--output={here}/a.npz", "--source={here}"], "data_3d_h36m.npz: expected VideoPose3D's"),
        (["humaneva", "--output={here}/a.npz", "--source={here}"], "data_3d_humaneva15.npz: expected VideoPose3D's"),
        (["humaneva", "--output={here}/a.npz", "--source={here}", "--valid_subjects=S1"], "no meaning for humaneva"),
        (["mpi_inf_3dhp", "--output={here}/a.npz", "--source={here}"], "annotation: expected annot3 or univ_annot3"),
        (
            ["mpi_inf_3dhp", "--output={here}/a.npz", "--source={here}", "--annotation=annot3"],
            "expected data_train_3dhp_ori.npz, data_test_3dhp_ori.npz or TS1/annot_data.mat",
        ),
        (["keypoints", "--output={here}/a.npz", "--source={here}/none.json"], "none.json: expected a keypoint file"),
        (["keypoints", "--output={here}/a.npz", "--source={here}/walk.npz", "--layout=h36m17"], "layout h36m17"),
        (["keypoints", "--output={here}/a.npz", "--source={here}/walk.npz", "--target=x"], "unknown joint layout 'x'"),
        (["keypoints", "--output={here}/a.npz", "--source={here}/walk.npz", "--simulate_detector"], "with 3D poses"),
        (["synthetic", "--output={here}/a.txt"], "ends in .npz"),
        (["synthetic", "--output={here}/walk.npz/a.npz"], "cannot be written"),
        (["synthetic", "--output={here}/a.npz", "--source=x"], "synthetic has none"),
        (["synthetic", "--output={here}/a.npz", "--detections=cpn"], "--detections: has no meaning for synthetic"),
        (["synthetic", "--output={here}/a.npz", "--strength=-1"], "--strength: expected 0 or more"),
        (["synthetic", "--output={here}/a.npz", "--sed=1"], "Unknown command line flag 'sed'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(prepare_program, keypoints, tmp_path, arguments, said):
    code, _, error = prepare_program(*(argument.format(here=tmp_path) for argument in arguments))
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert sorted(os.listdir(tmp_path)) == ["walk.npz"]


class Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


@pytest.mark.parametrize("kind", ["human36m", "humaneva", "mpi_inf_3dhp", "keypoints", "cmu"])
def test_hostile_files_are_refused_and_run_nothing(prepare_program, tmp_path, kind):
    sentinel = tmp_path / "sentinel"
    hostile = np.array({"S1": {"Walking": Command(f"touch {sentinel}")}}, dtype=object)
    for name in ("data_3d_h36m", "data_3d_humaneva15", "data_test_3dhp"):
        np.savez(tmp_path / f"{name}.npz", positions_3d=hostile, meta=hostile, keypoints=hostile, data=hostile)
    for name in ("data_2d_h36m_gt", "data_2d_humaneva15_gt"):
        np.savez(tmp_path / f"{name}.npz", positions_2d=hostile)
    source = tmp_path / "data_3d_h36m.npz" if kind in ("keypoints", "cmu") else tmp_path
    options = ["--annotation=univ_annot3"] if kind == "mpi_inf_3dhp" else []
    code, _, error = prepare_program(kind, f"--source={source}", f"--output={tmp_path / 'a.npz'}", *options)
    assert code == 2
    assert error.count("\n") == 1
    files = {"humaneva": "data_3d_humaneva15.npz", "mpi_inf_3dhp": "data_test_3dhp.npz"}
    assert files.get(kind, "data_3d_h36m.npz") in error
    assert not sentinel.exists()


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.6])
def test_an_interrupt_ends_it_without_a_word_and_leaves_nothing(tmp_path, pause):
    command = [sys.executable, "-m", "diffpose_jax.prepare", "synthetic", "--output", str(tmp_path / "a.npz"),
               "--subjects", "60"]  # fmt: skip
    # Where the tests run in the background, SIGINT may be ignored, and a new process inherits that.
    heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    assert run.stdout is not None
    assert "reading synthetic" in run.stdout.readline()
    time.sleep(pause)
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in error
    assert "Fatal" not in error
    assert not list(tmp_path.iterdir())
