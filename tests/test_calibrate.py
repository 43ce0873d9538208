"""Calibration finds the temperature on valid, keeps it beside the checkpoint, and what comes after uses it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from diffpose_jax import calibrate as program
from diffpose_jax import cli
from diffpose_jax.calibrate import calibrate
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.predict import predict
from diffpose_jax.registry import config_for
from diffpose_jax.training import loop
from diffpose_jax.workdir.trained import load_trained

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = (
    "training.steps=40", "training.inner_steps=20", "training.warmup_steps=5", "training.batch_size=32",
    "training.validate_every=40", "training.checkpoint_every=40", "training.valid_frames=32", "lifter.width=16",
    "lifter.num_layers=1", "evaluation.flip=False",
)  # fmt: skip
FEW = {"frames": 120, "hypotheses": 10}


@pytest.fixture(scope="module")
def context(tmp_path_factory, untrained) -> Path:
    config = config_for("graformer")
    config.data.source = "synthetic"
    config.lifter.update({"width": 16, "num_layers": 1})
    return untrained(tmp_path_factory.mktemp("calibrate") / "context", config)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, context) -> Path:
    """A DiffPose that has learned little: its hypotheses are what its context leaves open, narrowed by five steps."""
    path = tmp_path_factory.mktemp("calibrate") / "diffpose"
    values = flags.FlagValues()
    import_module("diffpose_jax.train").define_flags(values)
    overrides = [f"--config.{one}" for one in (*SMALL, f"lifter.context={context}")]
    config = f"{CONFIGS}/diffpose_frame.py:synthetic,small"
    cli.parse(["train", "--config", config, "--workdir", str(path), *overrides], values)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        loop.train(values.config, path)
    return path


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
    points = np.random.default_rng(0).uniform(10, 90, (4, 17, 2)).tolist()
    source = workdir / "points.json"
    source.write_text(json.dumps({"layout": "h36m17", "image_size": [100, 100], "keypoints": points}))
    assert load_trained(workdir).temperature == pytest.approx(found["temperature"])
    with_it = predict(workdir, source, hypotheses=8)
    assert with_it.settings["temperature"] == pytest.approx(found["temperature"])
    (workdir / "calibration.json").unlink()
    without = predict(workdir, source, hypotheses=8)
    assert without.settings["temperature"] is None
    ratio = np.median(with_it.spread[:, 1:] / without.spread[:, 1:])
    assert (ratio > 1) == (found["temperature"] > 1)


def test_other_steps_than_were_calibrated_are_told(workdir, found):
    results = evaluate(workdir, split="valid", stride=500, hypotheses=2, figure=False, sampling_steps=3)
    assert "the temperature was calibrated for the steps of the config, not for 3" in results["notes"]


def test_a_calibration_of_other_variables_is_not_used(workdir, found, caplog):
    path = workdir / "calibration.json"
    path.write_text(json.dumps(found | {"step": found["step"] + 20}))
    assert load_trained(workdir).temperature is None
    assert "calibrate again" in caplog.text
    path.write_text("{}")
    with pytest.raises(UserError, match=r"calibration\.json: expected a file written by calibrate"):
        load_trained(workdir)


def test_lifters_without_hypotheses_are_refused(context):
    with pytest.raises(UserError, match="expected a lifter with hypotheses to calibrate, found graformer"):
        calibrate(context)


def test_the_program_says_what_it_found_and_where(workdir, capsys, monkeypatch):
    values = flags.FlagValues()
    program.define_flags(values)
    cli.parse(["calibrate", "--workdir", str(workdir), "--frames", "120", "--hypotheses", "10"], values)
    assert program.main(["calibrate"], values) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(" holds")[0] for line in out[:2]] == ["before: 50% region", "now: 50% region"]
    assert out[2].startswith("temperature ")
    assert out[2].endswith(str(workdir / "calibration.json"))
    (workdir / "calibration.json").unlink()
    jax.clear_caches()
