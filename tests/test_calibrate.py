"""Calibration finds temperature or scales on valid, with conformal regions, and evaluation and prediction use them."""

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
from diffpose_jax.calibrate import Calibrating, calibrate
from diffpose_jax.command_line import parse
from diffpose_jax.config import Options
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.evaluation.spread_fit import search_temperature
from diffpose_jax.evaluation.timed_lifting import TimedLifting
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.predict import predict
from diffpose_jax.records import read_record
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
    follows = True

    @classmethod
    def build(cls, config, skeleton, context, axis_name):
        return cls(skeleton)

    def init(self, key, batch):
        return {"params": {"unused": jnp.zeros(1)}}

    def sample(self, variables, key, batch, sampling):
        scale = 1.0 if self.follows else 1 / sampling.temperature

        def draw_noise(keys):
            noise = STD * scale * sampling.draw_noise(keys, batch.poses.shape)
            return noise.at[..., self.skeleton.root, :].set(0)

        once = dataclasses.replace(sampling, hypotheses=1, temperature=1.0)
        misses = STD * once.draw_noise(example_keys(jax.random.fold_in(key, 1), batch.index), batch.poses.shape)
        centre = (batch.poses + misses).at[..., self.skeleton.root, :].set(0)
        return centre[None] + NARROW * draw_hypotheses(draw_noise, key, batch.index, sampling)


@dataclasses.dataclass(frozen=True)
class DeafLifter(NarrowLifter):
    """The same with noise of its own size, whatever the temperature is."""

    follows = False


@pytest.fixture(scope="module", autouse=True)
def narrow_method():
    """The lifters have names like any other method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "narrow", NarrowLifter)
        patch.setitem(METHODS, "deaf", DeafLifter)
        yield


def clipset(seed: int, frames: int) -> ClipSet:
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.3, (frames, 17, 3)).astype(np.float32)
    return ClipSet.build([Clip(poses[..., :2], poses - poses[:, :1], None, f"S{seed}", "walk")], H36M_17)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("calibrate") / "random.npz"
    save_archive(path, {"train": clipset(0, 20), "valid": clipset(1, 150), "test": clipset(2, 20)})
    return path


@pytest.fixture(scope="module")
def context(archive, untrained) -> Path:
    config = config_for("graformer")
    config.data.source = str(archive)
    config.lifter.update({"width": 16, "num_layers": 1})
    config.evaluation.batch_size = 20
    return untrained(archive.parent / "context", config)


def make_workdir(archive: Path, untrained, name: str) -> Path:
    config = config_for(name)
    config.data.source = str(archive)
    config.diffusion.update(steps=5, sampling_steps=5)
    config.evaluation.update(flip="none", batch_size=20)
    return untrained(archive.parent / name, config)


@pytest.fixture(scope="module")
def workdir(archive, untrained) -> Path:
    return make_workdir(archive, untrained, "narrow")


@pytest.fixture(scope="module")
def deaf(archive, untrained) -> Path:
    return make_workdir(archive, untrained, "deaf")


@pytest.fixture
def found(workdir):
    yield calibrate(workdir, **FEW)
    (workdir / "calibration.json").unlink(missing_ok=True)


def covered(workdir: Path, **options) -> float:
    results = evaluate(workdir, split="valid", hypotheses=10, figure=False, aggregations=("mean",), **options)
    return sum(results["coverage"]["all"].values())


def check_coverage(workdir: Path, found: dict, **options) -> None:
    """Coverage is nominal at what was found, in calibration as in evaluation, and not without it."""
    assert abs(found["coverage"]["0.5"] + found["coverage"]["0.9"] - 1.4) < 0.05
    assert read_record(workdir / "calibration.json", "calibration") == json.loads(json.dumps(found))
    calibrated = covered(workdir, **options)
    (workdir / "calibration.json").unlink()
    before = covered(workdir, **options)
    assert abs(calibrated - 1.4) < abs(before - 1.4)
    assert abs(calibrated - 1.4) < 0.15


def test_the_truth_is_covered_as_it_should_be_afterwards(workdir, found):
    assert found["temperature"] == pytest.approx(1 / NARROW, rel=0.08)
    assert found["scales"] is None
    assert found["uncalibrated"]["0.9"] < 0.6
    check_coverage(workdir, found)


def test_where_the_sampler_does_not_follow_the_temperature_the_spread_is_scaled(deaf, monkeypatch):
    asked = []
    lift = TimedLifting.lift

    def counted(self, temperature, calls, label=""):
        asked.append(temperature)
        return lift(self, temperature, calls, label)

    monkeypatch.setattr(TimedLifting, "lift", counted)
    found = calibrate(deaf, **FEW)
    assert len(asked) == 3  # a few frames at two temperatures, which says enough, then all of them once
    assert found["temperature"] == 1
    assert "does not follow" in found["why"]
    np.testing.assert_allclose(np.delete(found["scales"]["joints"], 0), 1 / NARROW, rtol=0.25)
    source = write_points(deaf)
    with_it = predict(deaf, source, hypotheses=8)
    check_coverage(deaf, found)
    without = predict(deaf, source, hypotheses=8)
    np.testing.assert_allclose(with_it.poses, without.poses, atol=1e-6)
    expected = np.broadcast_to(found["scales"]["joints"][1:], (4, 16))
    np.testing.assert_allclose(with_it.spread[:, 1:] / without.spread[:, 1:], expected, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.repeats
def test_a_trained_diffpose_covers_the_truth_as_it_should_afterwards(tmp_path, untrained):
    """One that has learned little: its hypotheses are what its context leaves open, narrowed by five steps."""
    config = config_for("graformer")
    config.data.source = "synthetic"
    config.lifter.update({"width": 16, "num_layers": 1})
    context = untrained(tmp_path / "context", config)
    values = flags.FlagValues()
    import_module("diffpose_jax.train").define_flags(values)
    overrides = [f"--config.{one}" for one in (*SMALL, f"lifter.context={context}")]
    config = f"{CONFIGS}/diffpose_frame.py:synthetic,small"
    workdir = tmp_path / "diffpose"
    parse(["train", "--config", config, "--workdir", str(workdir), *overrides], values)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        loop.train(values.config, workdir)
    check_coverage(workdir, calibrate(workdir, **FEW), stride=60)


def write_points(folder: Path) -> Path:
    """A keypoint file of four frames."""
    points = np.random.default_rng(0).uniform(10, 90, (4, 17, 2)).tolist()
    path = folder / "points.json"
    path.write_text(json.dumps({"layout": "h36m17", "image_size": [100, 100], "keypoints": points}))
    return path


def test_the_temperature_and_the_radii_reach_every_sample(workdir, found):
    source = write_points(workdir)
    assert load_trained(workdir).temperature == pytest.approx(found["temperature"])
    with_it = predict(workdir, source, hypotheses=8)
    assert with_it.settings["temperature"] == pytest.approx(found["temperature"])
    factors = found["regions"]["factors"]
    for level, radius in (("0.5", with_it.radius_50), ("0.9", with_it.radius_90)):
        np.testing.assert_allclose(radius, np.array(factors[level]) * (with_it.spread + 0.01), rtol=1e-4)
    np.testing.assert_array_equal(with_it.radius_90[:, 0], 0)
    (workdir / "calibration.json").unlink()
    without = predict(workdir, source, hypotheses=8)
    assert without.settings["temperature"] is None
    assert without.radius_90 is None
    np.testing.assert_allclose(with_it.spread[:, 1:] / without.spread[:, 1:], found["temperature"], rtol=1e-3)


def test_conformal_regions_hold_the_truth_and_say_what_they_guarantee(workdir, found):
    assert found["regions"]["guarantee"] == "most_subjects"
    results = evaluate(workdir, split="valid", hypotheses=10, figure=False, aggregations=("first",), uncalibrated=True)
    assert results["regions"]["all"]["0.5"] == pytest.approx(0.5, abs=0.05)
    assert results["regions"]["all"]["0.9"] == pytest.approx(0.9, abs=0.03)
    assert results["uncalibrated"]["all"]["0.9"] < 0.6
    distribution, gaussian = results["distributions"]
    assert gaussian["name"] == "error_gaussian"
    # Wide as the errors are where the distribution is, which is calibrated, and not made of people.
    assert gaussian["scores"]["spread"] == pytest.approx(distribution["scores"]["spread"], rel=0.2)
    table = (workdir / "results.md").read_text()
    assert "Gaussian around the mean of the hypotheses, no diffusion" in table
    assert "conformal regions of all joints: 50% region holds" in table
    assert "not calibrated, coverage of all joints: 50% region holds" in table


def test_a_deterministic_lifter_gets_regions_alone(context):
    found = calibrate(context, frames=64)
    assert "coverage" not in found
    result = predict(context, write_points(context))
    assert result.hypotheses.shape[1] == 1
    np.testing.assert_allclose(result.radius_90, np.tile(result.radius_90[:1], (4, 1)), rtol=1e-5)
    results = evaluate(context, split="valid", figure=False)
    assert results["regions"]["all"]["0.9"] == pytest.approx(0.9, abs=0.05)
    assert results["coverage"] == {}


def test_a_model_for_detectors_of_every_quality_is_calibrated_on_exact_keypoints_too(archive, untrained, tmp_path):
    config = config_for("narrow")
    config.data.update(source=str(archive), cameras="random", detector_strength=1.0)
    clips, _ = Calibrating(untrained(tmp_path / "run", config))._prepare(load_trained(tmp_path / "run"))
    assert clips.num_frames == 300
    np.testing.assert_array_equal(clips.poses[:150], clips.poses[150:])
    np.testing.assert_array_equal(clips.scores[:150], 1)
    assert (clips.scores[150:] < 1).any()


def test_other_steps_than_were_calibrated_are_told(workdir, found):
    results = evaluate(workdir, split="valid", stride=50, hypotheses=2, figure=False, sampling_steps=3)
    assert "the spread was calibrated for the steps of the config, not for 3" in results["notes"]


def test_a_model_that_is_too_slow_for_the_time_is_one_line(workdir, monkeypatch):
    monkeypatch.setattr(TimedLifting, "_expected_seconds", lambda self, evaluations: 1e9)
    monkeypatch.setattr(TimedLifting, "_time", lambda self, job, hypotheses: 1.0 * hypotheses)
    with pytest.raises(UserError, match=r"calibrate: expected to lift .* in 0 s, found about .* give fewer") as caught:
        calibrate(workdir, minutes=1e-6, **FEW)
    assert "\n" not in str(caught.value)


def test_where_there_are_too_few_frames_for_regions_the_rest_is_kept(context, monkeypatch):
    monkeypatch.setattr("diffpose_jax.evaluation.timed_lifting._WINDOWS_PER_SUBJECT", 4)
    found = calibrate(context, frames=6)
    assert found["regions"] is None
    assert "regions: none, for of each subject they need 9 frames, where 6 of" in "\n".join(program.describe(found))
    assert predict(context, write_points(context)).radius_90 is None


def test_what_a_call_takes_whatever_it_lifts_is_not_counted_for_every_hypothesis(workdir, monkeypatch):
    monkeypatch.setattr(TimedLifting, "_expected_seconds", lambda self, evaluations: 1e9)
    # A call takes 0.4 s and hardly more for more hypotheses: those of 64 frames are far from 64 times as slow.
    monkeypatch.setattr(TimedLifting, "_time", lambda self, job, hypotheses: 0.4 + 2e-6 * hypotheses)
    assert calibrate(workdir, **FEW)["coverage"]


@pytest.mark.parametrize(
    ("response", "truth", "found"),
    [(1.0, 2.5, 2.5), (0.7, 0.4, 0.4), (1.3, 1.0, 1.0), (0.1, 3.0, None), (1.0, 20.0, None)],
)
def test_the_temperature_is_where_no_spread_is_missing(response, truth, found):
    search = search_temperature(lambda one: response * (np.log(truth) - np.log(one)), 1.03)
    if found is None:
        assert search.temperature is None
        assert search.why
    else:
        assert search.temperature == pytest.approx(found, rel=0.04)


def test_the_program_says_what_it_found_and_where(workdir, capsys):
    values = flags.FlagValues()
    program.define_flags(values)
    parse(["calibrate", "--workdir", str(workdir), "--frames", "120", "--hypotheses", "10"], values)
    assert program.main(["calibrate"], values) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(" holds")[0] for line in out[:2]] == [
        f"{when}, valid split: 50% region" for when in ("before", "now")
    ]
    assert out[2].startswith("temperature ")
    assert out[3].endswith("of new subjects they hold for at least 1 in 2, and a guarantee for any needs 9")
    assert str(workdir / "calibration.json") in out[4]
    (workdir / "calibration.json").unlink()
