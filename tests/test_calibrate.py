"""Calibration finds the temperature on valid, keeps it beside the checkpoint, and evaluation and prediction use it."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from diffpose_jax import calibrate as program
from diffpose_jax import cli
from diffpose_jax.calibrate import calibrate
from diffpose_jax.config import Options
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.predict import predict
from diffpose_jax.registry import METHODS, config_for
from diffpose_jax.skeleton import H36M_17, Skeleton
from diffpose_jax.training import loop
from diffpose_jax.workdir.trained import load_trained

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = (
    "training.steps=40", "training.inner_steps=20", "training.warmup_steps=5", "training.batch_size=32",
    "training.validate_every=40", "training.checkpoint_every=40", "training.valid_frames=32", "lifter.width=16",
    "lifter.num_layers=1", "evaluation.flip=none",
)  # fmt: skip
FEW = {"frames": 120, "hypotheses": 10}
STD, NARROW = 0.05, 0.4


@dataclasses.dataclass(frozen=True)
class NarrowLifter(Lifter):
    """Hypotheses around a centre that misses the truth by noise of std `STD` m; theirs is NARROW times as large.

    At temperature 1 / NARROW the truth is one more draw of their distribution, so that coverage is nominal there.
    """

    options_type = Options
    skeleton: Skeleton

    @classmethod
    def build(cls, config, skeleton, context, axis_name):
        return cls(skeleton)

    def init(self, key, batch):
        return {"params": {"unused": jnp.zeros(1)}}

    def sample(self, variables, key, batch, sampling):
        def draw_noise(keys):
            noise = STD * sampling.draw_noise(keys, batch.poses.shape)
            return noise.at[..., self.skeleton.root, :].set(0)

        once = dataclasses.replace(sampling, hypotheses=1, temperature=1.0)
        misses = STD * once.draw_noise(example_keys(jax.random.fold_in(key, 1), batch.index), batch.poses.shape)
        centre = (batch.poses + misses).at[..., self.skeleton.root, :].set(0)
        return centre[None] + NARROW * draw_hypotheses(draw_noise, key, batch.index, sampling)


@pytest.fixture(scope="module", autouse=True)
def narrow_method():
    """The lifter has a name like any other method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "narrow", NarrowLifter)
        yield


def clipset(seed: int, frames: int) -> ClipSet:
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.3, (frames, 17, 3)).astype(np.float32)
    return ClipSet.build([Clip(poses[..., :2], poses - poses[:, :1], None, f"S{seed}", "walk")], H36M_17)


@pytest.fixture(scope="module")
def context(tmp_path_factory, untrained) -> Path:
    config = config_for("graformer")
    config.data.source = "synthetic"
    config.lifter.update({"width": 16, "num_layers": 1})
    return untrained(tmp_path_factory.mktemp("calibrate") / "context", config)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, untrained) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    save_archive(folder / "random.npz", {"train": clipset(0, 20), "valid": clipset(1, 150), "test": clipset(2, 20)})
    config = config_for("narrow")
    config.data.source = str(folder / "random.npz")
    config.diffusion.update(steps=5, sampling_steps=5)
    config.evaluation.update(flip="none", batch_size=20)
    return untrained(folder / "narrow", config)


@pytest.fixture
def found(workdir):
    yield calibrate(workdir, **FEW)
    (workdir / "calibration.json").unlink(missing_ok=True)


def covered(workdir: Path, **options) -> float:
    results = evaluate(workdir, split="valid", hypotheses=10, figure=False, aggregations=("mean",), **options)
    return sum(results["coverage"]["all"].values())


def check_coverage(workdir: Path, found: dict, **options) -> None:
    """Coverage is nominal at the temperature that was found, in calibration as in evaluation, and not without it."""
    assert abs(found["coverage"]["0.5"] + found["coverage"]["0.9"] - 1.4) < 0.05
    assert json.loads((workdir / "calibration.json").read_text()) == found
    calibrated = covered(workdir, **options)
    (workdir / "calibration.json").unlink()
    before = covered(workdir, **options)
    assert abs(calibrated - 1.4) < abs(before - 1.4)
    assert abs(calibrated - 1.4) < 0.15


def test_the_truth_is_covered_as_it_should_be_afterwards(workdir, found):
    assert found["temperature"] == pytest.approx(1 / NARROW, rel=0.08)
    assert found["uncalibrated"]["0.9"] < 0.6
    check_coverage(workdir, found)


@pytest.mark.slow
@pytest.mark.repeats
def test_a_trained_diffpose_covers_the_truth_as_it_should_afterwards(tmp_path, context):
    """One that has learned little: its hypotheses are what its context leaves open, narrowed by five steps."""
    values = flags.FlagValues()
    import_module("diffpose_jax.train").define_flags(values)
    overrides = [f"--config.{one}" for one in (*SMALL, f"lifter.context={context}")]
    config = f"{CONFIGS}/diffpose_frame.py:synthetic,small"
    workdir = tmp_path / "diffpose"
    cli.parse(["train", "--config", config, "--workdir", str(workdir), *overrides], values)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        loop.train(values.config, workdir)
    check_coverage(workdir, calibrate(workdir, **FEW), stride=60)


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
    np.testing.assert_allclose(with_it.spread[:, 1:] / without.spread[:, 1:], found["temperature"], rtol=1e-3)


def test_other_steps_than_were_calibrated_are_told(workdir, found):
    results = evaluate(workdir, split="valid", stride=50, hypotheses=2, figure=False, sampling_steps=3)
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
