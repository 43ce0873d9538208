"""Every config, in its small size made smaller still, trains, is stopped and continued, evaluates and predicts."""

from __future__ import annotations

import json
import os
import signal
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from diffpose_jax import cli
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.detector.heatmap_clips import fit_quick_mixtures
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.evaluate import evaluate
from diffpose_jax.predict import predict
from diffpose_jax.training import loop
from diffpose_jax.workdir.trained import load_trained

ROOT = Path(__file__).parents[1]
# The config whose work directory serves another one as context.
CONTEXT = {"diffpose_frame": "graformer", "diffpose_video": "mixste", "diffhpe_wrapper": "mixste"}
# After a colon a word of the config's argument.
CONTEXT |= {"diffpose_frame:release": "graformer", "diffpose_frame:heatmaps": "graformer"}
CONFIGS = sorted({path.stem for path in ROOT.glob("configs/[!_]*.py") if path.stem != "quickstart"} | CONTEXT.keys())
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
def heatmap_archive(tmp_path_factory, archive) -> str:
    """Some of them as simulated heatmaps show them, with mixtures."""
    clips = {split: part.select(range(2)) for split, part in load_archive(archive).items()}
    clips = {split: fit_quick_mixtures(part) for split, part in clips.items()}
    path = tmp_path_factory.mktemp("data") / "synthetic_heatmaps.npz"
    save_archive(path, clips)
    return str(path)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, archive, heatmap_archive):
    """Trains a config once, with its context before it, and returns its work directory."""
    folder, done = tmp_path_factory.mktemp("runs"), {}

    def run(name: str) -> Path:
        if name not in done:
            done[name] = folder / name
            data = heatmap_archive if name.endswith(":heatmaps") else archive
            train_interrupted(config_of(name, data, CONTEXT.get(name) and run(CONTEXT[name])), done[name])
        return done[name]

    return run


def config_of(name: str, archive: str, context: Path | None) -> ConfigDict:
    values = flags.FlagValues()
    import_module("diffpose_jax.train").define_flags(values)
    name, _, recipe = name.partition(":")
    argument = f"synthetic,small{',9' if name in TEMPORAL else ''}{',' * bool(recipe)}{recipe}"
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
    read = loop.MetricAverages.read

    def read_and_stop(meter: loop.MetricAverages, step: int) -> dict[str, float]:
        if step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(meter, step)

    with jax.numpy_dtype_promotion("standard"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.MetricAverages, "read", read_and_stop)
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
    assert prediction.hypotheses.shape == (frames, prediction.settings["hypotheses"], 17, 3)
    assert np.isfinite(prediction.poses).all()
    np.testing.assert_allclose(prediction.poses[:, 0], 0, atol=1e-6)


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_what_is_measured_before_training_survives_being_continued(run_of):
    """Measured once, at step 0; the second run took it from the checkpoint of the first."""
    context = load_trained(run_of("graformer"))
    frozen = load_trained(run_of("diffpose_frame")).variables["frozen"]
    jax.tree.map(np.testing.assert_array_equal, frozen["context"], context.variables)
    spread = np.asarray(frozen["spread"])
    np.testing.assert_allclose(spread[0], 0.005)  # the root
    assert 0.01 < np.median(spread) < 0.3
    assert len(np.unique(spread[1:4])) == 9
    np.testing.assert_array_equal(spread[1:4], spread[4:7])
