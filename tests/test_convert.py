"""The program that converts published weights: files in, a work directory out that evaluate and predict accept."""

from __future__ import annotations

import functools
import importlib.util
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from diffpose_jax import cli
from diffpose_jax import convert as program
from diffpose_jax.convert import convert, parse_options
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Batch
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.formats.torch_checkpoint import read_checkpoint
from diffpose_jax.interop.systems import SYSTEMS
from diffpose_jax.interop.weights import find_weights
from diffpose_jax.lifters.sampling import Sampling
from diffpose_jax.predict import predict
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.workdir.trained import load_trained

from .published import PUBLISHED, checkpoint, recorded, weights
from .torch_files import save

CONTEXTS = {"diffpose_gcndiff": "diffpose_gcnpose", "diffpose_video": "mixste"}
# Checkpoints are converted from files that torch itself wrote, wherever it is installed.
WRITTEN = "torch zip" if importlib.util.find_spec("torch") else "zip"


def convert_published(folder: Path, system: str, context: Path | None = None, form: str = WRITTEN) -> Path:
    """Writes the checkpoint of a system and converts it; returns the work directory."""
    source, output = folder / f"{system}.pth", folder / system
    save(checkpoint(system), source, form)
    options = {key: str(value) for key, value in PUBLISHED[system].options.items()}
    convert(system, str(source), str(output), context=context and str(context), options=options)
    return output


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Callable[[str], Path]:
    """The work directory of a converted system; each is converted once."""
    folder = tmp_path_factory.mktemp("converted")

    @functools.cache
    def convert_once(system: str) -> Path:
        return convert_published(folder, system, convert_once(CONTEXTS[system]) if system in CONTEXTS else None)

    return convert_once


@pytest.mark.parametrize("form", ["zip", "legacy", "torch zip", "torch legacy"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_is_read_as_it_was_saved(tmp_path, system, form):
    save(checkpoint(system), tmp_path / "a.pth", form)
    jax.tree.map(np.testing.assert_array_equal, read_checkpoint(tmp_path / "a.pth"), checkpoint(system))


def check_variables(workdir: Path, system: str, context: Path | None) -> None:
    variables = dict(load_trained(workdir).variables)
    if context is not None:
        chex.assert_trees_all_equal(variables.pop("frozen"), load_trained(context).variables)
    found, _ = find_weights(checkpoint(system), system)
    expected = SYSTEMS[system].variables(found.entries)
    expected["params"].pop("step_unused", None)
    variables["params"] = {name: part for name, part in variables["params"].items() if name != "step_unused"}
    chex.assert_trees_all_equal(variables, expected)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_went_into_the_file_comes_out_of_the_work_directory(converted, system):
    check_variables(converted(system), system, converted(CONTEXTS[system]) if system in CONTEXTS else None)


@pytest.mark.parametrize("form", ["legacy", "torch legacy"])
def test_a_file_in_the_old_layout_is_converted_too(tmp_path, form):
    check_variables(convert_published(tmp_path, "d3dp", form=form), "d3dp", None)


@pytest.mark.parametrize(
    ("system", "given", "returned"),
    [("mixste", "pose_2d", "pred"), ("diffpose_gcnpose", "uv", "xyz"), ("modulated_gcn_benchmark", "x", "y")],
)
def test_the_converted_lifter_gives_the_poses_that_the_release_gave(converted, system, given, returned):
    vector, trained = recorded(system), load_trained(converted(system))
    keypoints = jnp.asarray(vector.inputs[given].reshape(-1, trained.lifter.frames, 17, 2))
    leading, index = keypoints.shape[:-1], jnp.arange(len(keypoints), dtype=jnp.int32)
    batch = Batch(keypoints, jnp.zeros((*leading, 3)), jnp.ones(leading), index)
    found = jax.jit(trained.lifter.sample)(trained.variables, jax.random.key(0), batch, Sampling())[0]
    expected = vector.outputs[returned].reshape(found.shape)
    np.testing.assert_allclose(found, expected - expected[..., :1, :], atol=2e-5)


def test_every_tensor_is_accounted_for(converted):
    path = converted("diffupose")
    report = json.loads((path / "conversion.json").read_text())
    assert report["weights"] == "moving average"
    assert report["counts"] == {"used": 66, "unused": 161, "missing": 0}
    assert len(report["used"]) == 66
    assert len(report["unused"]) == 161
    entry = report["used"]["ema/ema_model.module.denoise_fn.gconv_output.W"]
    assert entry == {"shape": [2, 64, 5], "becomes": ["params/output/weight"]}
    assert load_trained(path).step == 70


@pytest.fixture
def archive(tmp_path) -> Path:
    poses = np.random.default_rng(0).normal(size=(12, 17, 3)).astype(np.float32) * 0.2
    poses[:, 0] = 0
    clips = ClipSet.build([Clip(poses[..., :2], poses, None, "S9", "Walking")], H36M_17)
    save_archive(tmp_path / "data.npz", {"test": clips})
    return tmp_path / "data.npz"


@pytest.mark.slow
def test_evaluate_and_predict_accept_a_converted_work_directory(tmp_path, converted, archive):
    path = converted("diffpose_gcndiff")
    results = evaluate(path, data=str(archive), batch_size=12, figure=False, output=str(tmp_path / "results"))
    assert np.isfinite(list(results["rows"][0]["by_joint"].values())).all()
    assert results["setting"]["lifter"] == "diffpose_release"
    assert predict(path, archive, batch_size=12).poses.shape == (12, 17, 3)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["diffpose_video", "diffhpe_wrapper", "d3dp", "diff3dhpe"])
def test_sequences_with_hypotheses_are_predicted(converted, archive, system):
    poses = predict(converted(system), archive, hypotheses=2, batch_size=2).poses
    assert np.isfinite(poses).all()


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str]]:
    """Runs the program and returns its exit code and what it wrote to standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        values = flags.FlagValues()
        program.define_flags(values)
        with pytest.raises(SystemExit) as stopped:
            cli.run(lambda argv: program.main(argv, values), ["convert", *arguments], values)
        return stopped.value.code, capsys.readouterr().err

    return run


def test_the_program_prints_what_it_did_and_where(tmp_path, run):
    save(checkpoint("diffupose"), tmp_path / "a.pth", "zip")
    given = ["--system", "diffupose", "--input", str(tmp_path / "a.pth"), "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "diffpose_jax.convert", *given, "--noema"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "used        66 tensors" in done.stdout
    assert re.search(r"unused     161 tensors \(\d+ another copy, 20 counter, 9 schedule buffer\)", done.stdout)
    assert "missing      0 variables" in done.stdout
    assert str(tmp_path / "out" / "conversion.json") in done.stdout
    assert "as trained" in done.stdout
    code, said = run(*given)
    assert code == 2
    assert said.startswith(f"error: --output {tmp_path / 'out'}: expected a new or empty directory")


def hostile(path: Path) -> None:
    class Order:
        def __reduce__(self):
            import os

            return os.mkdir, (str(path.parent / "touched"),)

    head = [0x1950A86A20F9469CFC6C, 1001, {}, {"model_pos": Order()}, []]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head))


def truncated(path: Path) -> None:
    save(checkpoint("mixste"), path, "legacy")
    path.write_bytes(path.read_bytes()[:-1000])


REFUSED = {
    "hostile": ("mixste", hostile, r"a\.pth: refused: its pickle holds the forbidden global '(posix|nt)\.mkdir'"),
    "truncated": ("mixste", truncated, r"a\.pth: expected a PyTorch checkpoint, found a damaged or truncated one"),
    "another system": (
        "mixste", lambda path: save(checkpoint("d3dp"), path, "zip"),
        r"a\.pth: expected weights of mixste, found a checkpoint that looks like d3dp",
    ),
    "another shape": (
        "poseformer",
        lambda path: save({**weights("poseformer"), "head.1.bias": np.zeros(50, np.float32)}, path, "zip"),
        r"a\.pth: state_dict: entry 'head\.1\.bias': expected shape \(51,\), found \(50,\)",
    ),
    "no file": ("mixste", lambda path: None, r"a\.pth: expected a PyTorch checkpoint, found no such file"),
    "no system": ("mixst", hostile, "--system: expected one of mixste, .*, found 'mixst'"),
    "no context": ("diffpose_video", hostile, "--context: required for diffpose_video"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(tmp_path, run, case):
    system, write, message = REFUSED[case]
    write(tmp_path / "a.pth")
    before = sorted(tmp_path.iterdir())
    code, said = run("--system", system, "--input", str(tmp_path / "a.pth"), "--output", str(tmp_path / "out"))
    assert code == 2
    assert said.count("\n") == 1
    assert "error: " in said
    assert re.search(message, said)
    assert sorted(tmp_path.iterdir()) == before


def test_flags_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="--context: has no meaning for mixste, only for diffpose_gcndiff, diffpose_vid"
    ):
        convert("mixste", "a.pth", str(tmp_path / "out"), context="runs/other")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a directory, found a file"):
        convert("mixste", "a.pth", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"--options lifter\.num_heads: expected key=value"):
        parse_options(["lifter.num_heads"])
    save(checkpoint("mixste"), tmp_path / "a.pth", "zip")
    with pytest.raises(UserError, match=r"config\.lifter\.width: expected a multiple of num_heads=5"):
        convert("mixste", str(tmp_path / "a.pth"), str(tmp_path / "out"), options={"lifter.num_heads": "5"})


def test_a_context_of_another_layout_is_refused(tmp_path, converted):
    context = converted("modulated_gcn_gt")
    save(checkpoint("diffpose_gcndiff"), tmp_path / "a.pth", "zip")
    with pytest.raises(UserError, match="expected a lifter of layout h36m17, found h36m16"):
        convert("diffpose_gcndiff", str(tmp_path / "a.pth"), str(tmp_path / "out"), context=str(context))
    assert not (tmp_path / "out").exists()
