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

from diffpose_jax.command_line import parse
from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.detector.heatmap_clips import fit_quick_mixtures
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.evaluate import evaluate
from diffpose_jax.predict import predict
from diffpose_jax.train import define_flags
from diffpose_jax.training import loop
from diffpose_jax.workdir.trained import load_trained

ROOT = Path(__file__).parents[1]
# The config whose work directory serves another one as context.
CONTEXT = {"diffpose_frame": "graformer", "diffpose_video": "mixste", "diffhpe_wrapper": "mixste"}
# After a colon a word of the config's argument.
CONTEXT |= {"diffpose_frame:release": "graformer", "diffpose_frame:heatmaps": "residual_mlp"}
ELSEWHERE = ("quickstart", "method")  # tests/experiments and tests/docs
CONFIGS = sorted({path.stem for path in ROOT.glob("configs/[!_]*.py") if path.stem not in ELSEWHERE} | CONTEXT.keys())
TEMPORAL = (
    "d3dp",
    "diff3dhpe_frames",
    "diff3dhpe_mixste",
    "diff3dhpe_poseformer",
    "diffhpe_2d",
    "diffhpe_wrapper",
    "mixste",
    "poseformer",
)
STEPS = 40
FAST = ("residual_mlp",)  # The others are slow: each takes a quarter of a minute, most of it to compile.
# Another config of the same method, or the same kind of lifter, says as much.
REPEATS = (
    *("diffpose_frame", "diffpose_frame:release", "diffpose_video", "diffupose_unet", "diffhpe_2d", "diffhpe_wrapper"),
    *("diff3dhpe_mixste", "diff3dhpe_poseformer", "modulated_gcn", "d3dp", "diffupose", "poseformer", "mixste"),
    *("diffpose_frame:heatmaps", "graformer", "mixture_density", "diffupose_mlp", "diff3dhpe_frames"),
)

# No two configs have a compiled program in common.
pytestmark = pytest.mark.usefixtures("release_after_each")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def archive(folder) -> Path:
    """A few clips of the embedded motion."""
    path = folder / "synthetic.npz"
    save_archive(path, {split: part.select(range(4)) for split, part in load_synthetic(seed=0).items()})
    return path


@pytest.fixture(scope="module")
def heatmap_archive(archive) -> Path:
    """One of each split as simulated heatmaps show it, with mixtures."""
    path = archive.with_name("synthetic_heatmaps.npz")
    clips = {split: part.select([0]) for split, part in load_archive(archive).items()}
    save_archive(path, {split: fit_quick_mixtures(part) for split, part in clips.items()})
    return path


@pytest.fixture(scope="module")
def run_of(folder, request):
    """Trains a config once, with its context before it, and returns its work directory."""

    def run(name: str) -> Path:
        workdir = folder / name.replace(":", "_")
        if not workdir.exists():
            # Heatmaps take their time to simulate: only where a config needs them.
            data = request.getfixturevalue("heatmap_archive" if name.endswith(":heatmaps") else "archive")
            train_interrupted(config_of(name, data, CONTEXT.get(name) and run(CONTEXT[name])), workdir)
        return workdir

    return run


def config_of(name: str, archive: Path, context: Path | None) -> ConfigDict:
    values = flags.FlagValues()
    define_flags(values)
    name, _, recipe = name.partition(":")
    argument = f"synthetic,small{',9' if name in TEMPORAL else ''}{',' * bool(recipe)}{recipe}"
    parse(["train", "--config", f"{ROOT}/configs/{name}.py:{argument}", "--workdir", "unused"], values)
    config = values.config
    config.data.source = str(archive)
    if context is not None:
        config.lifter.context = str(context)
    # PoseFormer's width is that of a joint: its temporal tokens are 17 times as wide.
    size = {"width": 4 if "poseformer" in name else 32, "num_layers": 1, "num_heads": 4}
    config.lifter.update({key: value for key, value in size.items() if key in config.lifter})
    config.diffusion.sampling_steps = min(config.diffusion.sampling_steps or 2, 2)
    config.training.update(steps=STEPS, batch_size=16, inner_steps=5, warmup_steps=5, log_every=5)
    config.training.update(validate_every=STEPS, checkpoint_every=STEPS, valid_frames=64)
    config.evaluation.update(hypotheses=2, flip="none", batch_size=16)
    return config


def train_interrupted(config: ConfigDict, workdir: Path) -> None:
    """Trains to the end in two runs, the first one ended by a signal at half of the steps."""
    read = loop.MetricAverages.read

    def read_and_stop(averages: loop.MetricAverages, step: int) -> dict[str, float]:
        if step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(averages, step)

    with jax.numpy_dtype_promotion("standard"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.MetricAverages, "read", read_and_stop)
            stopped = loop.train(config, workdir)
        assert stopped.stopped
        assert stopped.step == STEPS // 2
        ended = loop.train(config, workdir)
    assert ended.step == STEPS
    assert np.isfinite(ended.best_mpjpe)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST) + [pytest.mark.repeats] * (name in REPEATS))
        for name in CONFIGS
    ],
)
def test_a_config_trains_resumes_evaluates_and_predicts(name, run_of):
    workdir = run_of(name)
    losses = np.array([line["loss"] for line in metrics(workdir) if "loss" in line])
    assert losses[-3:].mean() < losses[0]

    results = evaluate(workdir, stride=50, figure=False, aggregations=("first", "oracle_best"))
    rows = {row["name"]: row["frame_average"]["mpjpe"] for row in results["rows"]}
    assert np.isfinite(rows["first"])
    assert rows["oracle_best"] <= rows["first"] + 1e-3

    prediction = predict(workdir, ROOT / "experiments" / "data" / "wave.json", hypotheses=2)
    frames = prediction.hypotheses.shape[0]
    assert prediction.hypotheses.shape == (frames, prediction.settings["hypotheses"], 17, 3)
    assert np.isfinite(prediction.poses).all()
    np.testing.assert_allclose(prediction.poses[:, 0], 0, atol=1e-6)


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.repeats  # of the run of DiffPose above
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
