"""Calibration finds the temperature on valid, keeps it beside the checkpoint, and what comes after uses it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from diffpose_jax import calibrate as program
from diffpose_jax import cli, train
from diffpose_jax.calibrate import calibrate
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.predict import predict
from diffpose_jax.training import loop
from diffpose_jax.training.checkpoints import restore_workdir

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = (
    "training.steps=60", "training.inner_steps=20", "training.warmup_steps=5", "training.batch_size=32",
    "training.validate_every=60", "training.checkpoint_every=60", "training.valid_frames=32", "lifter.width=32",
    "lifter.num_layers=1", "diffusion.sampling_steps=5", "training.learning_rate=0.003",
)  # fmt: skip
FEW = {"frames": 60, "hypotheses": 10}


def trained(path: Path, config: str) -> Path:
    values = flags.FlagValues()
    train.define_flags(values)
    overrides = [f"--config.{one}" for one in SMALL]
    cli.parse(
        ["train", "--config", f"{CONFIGS}/{config}.py:synthetic,small", "--workdir", str(path), *overrides], values
    )
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        loop.train(values.config, path)
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("calibrate") / "diffupose", "diffupose")


@pytest.fixture
def found(workdir):
    yield calibrate(workdir, **FEW)
    (workdir / "calibration.json").unlink(missing_ok=True)


def covered(workdir: Path) -> float:
    results = evaluate(workdir, split="valid", stride=60, hypotheses=10, figure=False)
    return sum(results["coverage"]["all"].values())


def test_the_truth_is_covered_as_it_should_be_afterwards(workdir, found):
    assert abs(found["coverage"]["0.5"] + found["coverage"]["0.9"] - 1.4) < 0.05
    assert json.loads((workdir / "calibration.json").read_text()) == found
    calibrated = covered(workdir)
    (workdir / "calibration.json").unlink()
    before = covered(workdir)
    assert abs(calibrated - 1.4) < abs(before - 1.4)
    assert abs(calibrated - 1.4) < 0.15


def test_the_temperature_reaches_every_sample(workdir, found):
    points = np.zeros((2, 17, 2), np.float32)
    assert restore_workdir(workdir).temperature == pytest.approx(found["temperature"])
    source = workdir / "points.json"
    joints = points.tolist()
    source.write_text(json.dumps({"layout": "h36m17", "image_size": [100, 100], "keypoints": joints}))
    with_it = predict(workdir, source, hypotheses=8)
    assert with_it.meta["temperature"] == pytest.approx(found["temperature"])
    (workdir / "calibration.json").unlink()
    without = predict(workdir, source, hypotheses=8)
    assert without.meta["temperature"] is None
    ratio = np.median(with_it.spread[:, 1:] / without.spread[:, 1:])
    assert (ratio > 1) == (found["temperature"] > 1)


def test_a_calibration_of_other_variables_is_not_used(workdir, found, caplog):
    path = workdir / "calibration.json"
    path.write_text(json.dumps(found | {"step": found["step"] + 20}))
    assert restore_workdir(workdir).temperature is None
    assert "calibrate again" in caplog.text
    path.write_text("{}")
    with pytest.raises(UserError, match=r"calibration\.json: expected a file written by calibrate"):
        restore_workdir(workdir)


def test_lifters_without_hypotheses_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected a lifter with hypotheses to calibrate, found modulated_gcn"):
        calibrate(trained(tmp_path / "supervised", "modulated_gcn"))


def test_the_program_says_what_it_found_and_where(workdir, capsys, monkeypatch):
    values = flags.FlagValues()
    program.define_flags(values)
    cli.parse(["calibrate", "--workdir", str(workdir), "--frames", "60", "--hypotheses", "10"], values)
    assert program.main(["calibrate"], values) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(" hold")[0] for line in out[:2]] == ["before: central 50%", "now: central 50%"]
    assert out[2].startswith("temperature ")
    assert out[2].endswith(str(workdir / "calibration.json"))
    (workdir / "calibration.json").unlink()
    jax.clear_caches()
