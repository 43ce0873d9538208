"""Every study measures its job, and writes its table and figure; verdicts are those of the intervals."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import jax
import pytest
import yaml

from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.registry import config_for

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "studies"))
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory, untrained) -> str:
    """A tiny supervised lifter and a tiny DiffuPose, by the names of released models, as `--models` takes them."""
    folder = tmp_path_factory.mktemp("models")
    for path, name in ((folder / "supervised", "residual_mlp"), (folder / "frame", "diffupose")):
        config = config_for(name)
        config.lifter.update({"width": 32, **({"num_layers": 1} if name == "diffupose" else {})})
        config.diffusion.steps = 3
        config.evaluation.update({"batch_size": 4, "flip": "none"})
        untrained(path, config)
    return f"{folder / 'supervised'},{folder / 'frame'}"


def run(name: str, output: Path, *arguments: str) -> str:
    """Runs a study in its quick form and returns its table."""
    study: ModuleType = importlib.import_module(name)
    assert study.main(["--quick", "--output", str(output), *arguments]) == 0
    return (output / f"{name}.md").read_text()


@pytest.mark.parametrize("name", ["occlusion", "noise", "steps", "calibration"])
def test_a_study_has_a_job_a_table_and_a_figure(name, models, tmp_path):
    table = run(name, tmp_path, "--models", models)
    assert "nan" not in table
    assert re.search(r"\| frame \|.*\d+\.\d", table)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert yaml.safe_load((tmp_path / "job.yaml").read_text())[0]["workdirs"] == models.split(",")
    before = (tmp_path / "units").stat().st_mtime_ns
    assert run(name, tmp_path, "--models", models) == table
    assert (tmp_path / "units").stat().st_mtime_ns == before  # measured already


def test_few_steps_stand_beside_the_whole_chain(models, tmp_path, capsys):
    archive = tmp_path / "motion.npz"
    save_archive(archive, {split: part.select(range(2)) for split, part in load_synthetic(seed=0).items()})
    model = models.split(",")[1]
    given = ["--data", str(archive), "--models", model, "--students", model, "--plans", "ddpm:3,ddim:1"]
    assert importlib.import_module("few_steps").main([*given, "--hypotheses", "3", "--stride", "50"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {row[0].strip("| "): row for row in rows}
    assert found["whole"][3].startswith("+0.00")
    assert found["ddpm:3"][3].startswith("+0.00")  # the whole chain of this model
    assert not found["ddim:1"][5].startswith("+0.00")
    assert found["student"][3].startswith("+0.00")  # this student is the model itself, with its own plan


def test_published_rows_are_filled_in_where_there_is_a_run(models, tmp_path):
    empty = run("tables", tmp_path / "empty", "--runs", str(tmp_path / "runs"))
    assert "| DiffuPose, width 384, N = 1 | 1 | 50.0 | - |" in empty
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "diffupose_hrnet").symlink_to(models.split(",")[1])
    filled = run("tables", tmp_path / "filled", "--runs", str(tmp_path / "runs"))
    assert re.search(r"\| DiffuPose, width 384, N = 1 \| 1 \| 50\.0 \| \d+\.\d \|", filled)
    assert "| GraFormer, one frame | 1 | 51.8 | - |" in filled


@pytest.mark.repeats  # of released models and trainings what the others say of measuring
def test_claims_are_trained_measured_and_judged(models, tmp_path):
    (tmp_path / "trained").mkdir()
    for name in ("DiffuPose", "DiffuPose_linear"):  # known already, which saves compiling each of them twice
        (tmp_path / "trained" / f"{name}.seconds_per_step").write_text("0.01")
    table = run("claims", tmp_path, "--models", models, "--seconds", "0.2")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| Diff")]
    assert len(rows) == 5
    assert all(re.match(r"[+-]\d+\.\d \[", row[4]) and "subjects" in row[6] for row in rows)
    assert {path.name for path in (tmp_path / "trained").glob("*-0")} == {"DiffuPose-0", "DiffuPose_linear-0"}


def test_a_verdict_is_that_of_the_interval():
    claims, study = importlib.import_module("claims"), importlib.import_module("study")

    def judge(low: float, high: float, more: bool = False) -> str:
        return claims.judge(study.Difference((low + high) / 2, (low, high), 8, 1), more)

    assert [judge(-3, -1), judge(1, 3), judge(-1, 3)] == ["confirmed", "refuted", "undecided at this budget"]
    assert [judge(-3, -1, more=True), judge(1, 3, more=True)] == ["refuted", "confirmed"]
    assert claims.judge(study.Difference(-1.0, None, 1, 1), False).startswith("undecided")


def test_recorded_means_have_welchs_interval():
    stats = pytest.importorskip("scipy.stats")
    claims = importlib.import_module("claims")
    first, second = (76.8, 0.3, 3), (77.5, 0.1, 3)
    found = claims.compare_recorded({"first": first, "second": second})
    freedom = (0.09 / 3 + 0.01 / 3) ** 2 / ((0.09 / 3) ** 2 / 2 + (0.01 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * (0.09 / 3 + 0.01 / 3) ** 0.5 + 0.1  # means are rounded
    assert found.interval == pytest.approx((-0.7 - half, -0.7 + half), abs=0.01)


def test_sides_of_claims_are_there():
    content = json.loads((EXPERIMENTS / "data" / "claims.json").read_text())
    for claim in content["claims"]:
        assert ("first" in claim and "second" in claim) or "recorded" in claim or "why" in claim
        for side in (claim.get("first", {}), claim.get("second", {})):
            assert "run" not in side or side["run"] in content["trainings"]
    for one in content["trainings"].values():
        assert (EXPERIMENTS.parent / "configs" / f"{one['config'].partition(':')[0]}.py").is_file()
        assert one.get("context", next(iter(content["trainings"]))) in content["trainings"]
