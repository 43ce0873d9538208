"""Every config, in its small size made smaller still, trains, is stopped and continued, evaluates and predicts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from diffpose_jax import cli, train
from diffpose_jax.data.clips import save_archive
from diffpose_jax.data.synthetic import load_synthetic
from diffpose_jax.evaluate import evaluate
from diffpose_jax.predict import predict
from diffpose_jax.training import loop

ROOT = Path(__file__).parents[1]
# The config whose work directory serves another one as context.
CONTEXT = {"diffpose_frame": "graformer", "diffpose_video": "mixste", "diffhpe_wrapper": "mixste"}
CONFIGS = sorted(path.stem for path in ROOT.glob("configs/*.py") if path.stem != "quickstart")
TEMPORAL = ("d3dp", "diff3dhpe_mixste", "diff3dhpe_poseformer", "diffhpe_2d", "diffhpe_wrapper", "mixste", "poseformer")
STEPS = 200


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> str:
    """A few clips of the embedded motion."""
    clips = {split: part.select(range(6)) for split, part in load_synthetic(seed=0).items()}
    path = tmp_path_factory.mktemp("data") / "synthetic.npz"
    save_archive(path, clips)
    return str(path)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, archive):
    """Trains a config once, with its context before it, and returns its work directory."""
    folder, done = tmp_path_factory.mktemp("runs"), {}

    def run(name: str) -> Path:
        if name not in done:
            done[name] = folder / name
            train_interrupted(config_of(name, archive, CONTEXT.get(name) and run(CONTEXT[name])), done[name])
        return done[name]

    return run


def config_of(name: str, archive: str, context: Path | None) -> ConfigDict:
    values = flags.FlagValues()
    train.define_flags(values)
    argument = f"synthetic,small{',9' if name in TEMPORAL else ''}"
    cli.parse(["train", "--config", f"{ROOT}/configs/{name}.py:{argument}", "--workdir", "unused"], values)
    config = values.config
    config.data.source = archive
    if context is not None:
        config.lifter.context = str(context)
    size = {"width": 32, "num_layers": 1, "num_heads": 4}
    config.lifter.update({key: value for key, value in size.items() if key in config.lifter})
    config.diffusion.sampling_steps = min(config.diffusion.sampling_steps or 2, 2)
    config.training.update(steps=STEPS, batch_size=16, validate_every=100, checkpoint_every=100, log_every=20)
    config.training.update(warmup_steps=20, valid_frames=64)
    config.evaluation.update(hypotheses=2, batch_size=16)
    return config


def train_interrupted(config: ConfigDict, workdir: Path) -> None:
    """Trains to the end in two runs, the first one ended by a signal at half of the steps."""
    read = loop.Meter.read

    def read_and_stop(meter: loop.Meter, step: int) -> dict[str, float]:
        if step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(meter, step)

    with jax.numpy_dtype_promotion("standard"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Meter, "read", read_and_stop)
            stopped = loop.train(config, workdir)
        assert stopped.stopped
        assert stopped.step == STEPS // 2
        ended = loop.train(config, workdir)
    assert ended.step == STEPS
    assert np.isfinite(ended.best_mpjpe)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_resumes_evaluates_and_predicts(name, run_of, archive):
    workdir = run_of(name)
    losses = np.array([line["loss"] for line in metrics(workdir) if "loss" in line])
    assert losses[-3:].mean() < losses[0]

    results = evaluate(workdir, stride=50, figure=False)
    rows = {row["name"]: row["frame_average"]["mpjpe"] for row in results["rows"]}
    assert np.isfinite(rows["first"])
    assert rows.get("oracle_best", rows["first"]) <= rows["first"] + 1e-3

    prediction = predict(workdir, ROOT / "experiments" / "data" / "wave.json", hypotheses=2)
    frames = prediction.hypotheses.shape[0]
    assert prediction.hypotheses.shape == (frames, 2, 17, 3)
    assert np.isfinite(prediction.poses).all()
    np.testing.assert_allclose(prediction.poses[:, 0], 0, atol=1e-6)


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
