"""What users mistype and what damaged files hold ends in one line and exit code 2, at every place that once did not."""

from __future__ import annotations

import errno
import json
import struct
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import diffpose_jax as dp
from diffpose_jax import calibrate, cli, predict, prepare
from diffpose_jax.config import load_config
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.training.logging import MetricsLog
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.sheet import draw_sample_sheet

# At the front door `evaluate` is the function.
evaluate = import_module("diffpose_jax.evaluate")


def make_clips(subject: str = "S1", frames: int = 6) -> ClipSet:
    rng = np.random.default_rng(0)
    poses = 0.3 * rng.standard_normal((frames, 17, 3)).astype(np.float32)
    poses -= poses[:, :1]
    camera = Camera(*(np.zeros((1, n), np.float32) for n in (2, 2, 3, 2)), np.eye(4, dtype=np.float32)[:1],
                    np.zeros((1, 3), np.float32), np.ones((1, 2), np.float32))  # fmt: skip
    root = np.full((frames, 3), 4, np.float32)
    return ClipSet.build([Clip(poses[..., :2] / 4, poses, root, subject, "walk", 0)], H36M_17, camera)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips.npz"
    save_archive(path, {"test": make_clips()})
    return path


def rewritten(archive: Path, path: Path, **members: np.ndarray) -> Path:
    """A copy of an archive with other members."""
    with np.load(archive) as found:
        np.savez(path, **{**found, **members})
    return path


@pytest.mark.parametrize("program", [evaluate, predict])
def test_a_split_that_is_not_there(program, run_program, diffupose_workdir, archive, tmp_path):
    source = "data" if program is evaluate else "input"
    code, _, error = run_program(program, "--workdir", diffupose_workdir, f"--{source}", archive, "--split", "val",
                                 "--output", tmp_path)  # fmt: skip
    assert code == 2
    assert error.splitlines()[-1].startswith("error: ")
    assert "expected split" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("size", ["-1", "0"])
@pytest.mark.parametrize("program", [evaluate, predict, calibrate])
def test_a_batch_size_below_one(program, size, run_program, tmp_path):
    code, _, error = run_program(program, "--workdir", tmp_path, "--batch_size", size)
    assert (code, error.count("\n")) == (2, 1)
    assert "batch_size" in error


def test_a_batch_size_of_0_is_not_the_default(diffupose_workdir, archive, tmp_path):
    with pytest.raises(UserError, match=r"batch_size: expected at least 1, found 0"):
        dp.evaluate(diffupose_workdir, data=str(archive), batch_size=0, output=tmp_path)
    with pytest.raises(UserError, match=r"batch_size: expected at least 1, found 0"):
        predict.predict(diffupose_workdir, archive, batch_size=0)


def test_a_seed_below_0(run_program, tmp_path):
    code, _, error = run_program(prepare, "--seed", "-1", "--output", tmp_path / "a.npz")
    assert (code, error.count("\n")) == (2, 1)
    assert "--seed" in error


def test_one_flag_given_twice(run_program, tmp_path):
    code, _, error = run_program(evaluate, "--workdir", "a", "--workdir", "b", "--output", tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "--workdir: expected once, found 2 times" in error


def test_a_baseline_that_cannot_be_loaded_is_found_before_work(diffupose_workdir, archive, tmp_path, monkeypatch):
    monkeypatch.setattr("diffpose_jax.evaluation.workdirs.predict_measured", lambda *_: pytest.fail("lifted"))
    with pytest.raises(UserError, match="nowhere"):
        dp.evaluate(
            diffupose_workdir, data=str(archive), baseline_workdirs=[str(tmp_path / "nowhere")], output=tmp_path
        )


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_keypoints_of_1e30(run_program, diffupose_workdir, tmp_path, suffix):
    path, pixels = tmp_path / f"points{suffix}", np.full((3, 17, 2), 1e30)
    pixels[:, :5] = 100
    if suffix == ".json":
        path.write_text(json.dumps({"keypoints": pixels.tolist(), "image_size": [1000, 1000], "layout": "h36m17"}))
    else:
        np.savez(path, keypoints=pixels, image_size=[1000, 1000], layout="h36m17")
    code, _, error = run_program(predict, "--workdir", diffupose_workdir, "--input", path, "--output", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "expected keypoints within the image" in error
    assert not list((tmp_path / "out").iterdir())


def test_poses_of_1e30_in_an_archive(archive, tmp_path):
    path = rewritten(archive, tmp_path / "a.npz", **{"test/poses": np.full((6, 17, 3), 1e30, np.float32)})
    with pytest.raises(UserError, match=r"poses of 1e\+30"):
        load_archive(path)


def test_names_that_are_no_formulas(tmp_path):
    clips = make_clips("$\\frac{")
    figure = draw_sample_sheet(clips.keypoints[:1], clips.poses[:1], ["$\\frac{"], H36M_17, title="$\\frac{")
    save_figure(figure, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_an_npz_header_that_is_no_python(tmp_path):
    header = b"{'descr': [".ljust(117) + b"\n"
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", member)
    with pytest.raises(UserError, match="member 'a'"):
        read_npz(tmp_path / "a.npz")


def test_a_damaged_directory_of_a_zip_file(archive, run_program, diffupose_workdir, tmp_path):
    content = bytearray(archive.read_bytes())
    begin = content.rindex(b"PK\x01\x02")
    content[begin : begin + 46] = b"\xff" * 46
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    code, _, error = run_program(predict, "--workdir", diffupose_workdir, "--input", path, "--output", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "damaged" in error


@pytest.mark.parametrize(
    "member",
    [
        {"test/camera": np.array([5], np.int32)},
        {"test/camera": np.array([-7], np.int32)},
        {"test/camera": np.array([0.5])},
        {"test/camera_focal": np.zeros((0, 2), np.float32)},
        {"test/camera_focal": np.float32(1)},
        {"test/camera_rotation": np.full((1, 4), np.nan, np.float32)},
        {"test/camera_size": np.zeros((1, 2), "U3")},
        {"test/clip_start": np.zeros(1)},
    ],
)
def test_cameras_of_an_archive(archive, tmp_path, member):
    with pytest.raises(UserError):
        load_archive(rewritten(archive, tmp_path / "a.npz", **member))


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"null", b"[" * 100_000, b"3", b'{"step": "x"}'])
def test_lines_of_metrics_that_are_none(tmp_path, line):
    good = b'{"step": 1, "loss": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n" + good + line)
    MetricsLog(tmp_path, 5).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == good


@pytest.mark.parametrize(
    "content", [b'{"a":' * 100_000, b'{"lifter.name": "x"}', b'{"lifter": {"a.b": {"c.d": 1}}}', b"\xff\xfe", b"null"]
)
def test_a_config_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: expected"):
        load_config(tmp_path / "config.json")


class TooLarge(RuntimeError):
    """What JAX raises where the device's memory does not suffice."""


@pytest.mark.parametrize(
    "raised", [TooLarge("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."), MemoryError()]
)
def test_too_little_memory_names_the_batch_size_to_try(raised, capsys):
    values = flags.FlagValues()
    predict.define_flags(values)

    def main(_):
        raise raised

    with pytest.raises(SystemExit) as ended:
        cli.run(main, ["predict", "--batch_size", "64"], values)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "out of memory" in error
    assert "--batch_size=32" in error


def test_a_full_disk_without_the_name_of_a_file(capsys):
    def main(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SystemExit) as ended:
        cli.run(main, ["program"], flags.FlagValues())
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: No space left on device\n"
