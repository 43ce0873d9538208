"""A job is measured once, whatever happens in between: restarts, damage, failing units, workers that die."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.workdirs import evaluate
from diffpose_jax.grid import measuring, worker
from diffpose_jax.grid.checks import plan_job
from diffpose_jax.grid.job_file import read_job
from diffpose_jax.grid.running import run_job
from diffpose_jax.grid.store import OutputError, Store, read_predictions
from diffpose_jax.records import read_record
from diffpose_jax.skeleton import H36M_17

from .jobs import job_text, make_clips, read_numbers

PROGRAM = importlib.import_module("diffpose_jax.evaluate")  # the package has a function of that name


def names(job) -> dict[tuple, str]:
    """The names of the job's units, by the folder of the lifter and the seed."""
    units = [one.unit for one in plan_job(read_job(job))]
    return {(unit.workdir.rpartition("/")[2], unit.seed): unit.name for unit in units}


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The names of units that are measured while a test runs."""
    found, measure = [], worker.measure_unit
    monkeypatch.setattr(
        worker, "measure_unit", lambda one, *rest: (found.append(one.unit.name), measure(one, *rest))[1]
    )
    return found


def test_a_unit_has_the_numbers_of_the_evaluation_that_it_stands_for(done, job, lifters, tmp_path):
    alone = evaluate(lifters["diffusion"], hypotheses=2, seed=1, aggregations=("first", "mean"), figure=False,
                     output=tmp_path)  # fmt: skip
    found = read_record(done / "units" / f"{names(job)['diffusion', 1]}.json", "unit")
    for one, other in zip(found["rows"], alone["rows"], strict=False):
        assert one["name"] == other["name"]
        for metric in ("mpjpe", "p_mpjpe", "velocity_error"):
            assert one["frame_average"][metric] == pytest.approx(other["frame_average"][metric], rel=1e-5)
    assert found["coverage"]["all"] == pytest.approx(alone["coverage"]["all"], abs=0.02)  # a rank may lie at the border
    assert not any((done / "frames").iterdir())  # nothing of units under way stays


def test_finished_units_are_skipped(copied, job, measured, lines):
    before = read_numbers(copied)
    assert run_job(job, copied, say=lines.append) == 0
    assert measured == []
    assert "3 of 3 units are done already" in lines
    assert read_numbers(copied) == before


def test_units_of_another_commit_are_kept_and_named(copied, job, lines, monkeypatch):
    """The code may change under the same version: what was measured before is then not comparable for certain."""
    folder = copied
    assert not read_record(folder / "summary.json", "job summary")["commits"]
    next(iter((folder / "units").glob("*.json"))).unlink()
    monkeypatch.setattr(measuring, "describe_run", lambda: {"commit": "another"})
    assert run_job(job, folder, say=lines.append) == 0
    commits = read_record(folder / "summary.json", "job summary")["commits"]
    assert commits["another"].startswith("1 units")
    assert len(commits) == 2
    assert any("different commits" in line for line in lines)
    assert "several commits" in (folder / "summary.md").read_text()


def test_damaged_and_foreign_results_are_named_and_redone(copied, done, job, measured, lines):
    units, name = copied / "units", names(job)
    text = (units / f"{name['diffusion', 0]}.json").read_text()
    (units / f"{name['diffusion', 0]}.json").write_text(text.replace('"frames": 19', '"frames": 18'))
    shutil.copy(units / f"{name['diffusion', 0]}.npz", units / f"{name['diffusion', 1]}.npz")
    other = json.loads((done / "units" / f"{name['diffusion', 0]}.json").read_text())
    (units / f"{name['supervised', None]}.json").write_text(json.dumps(other))
    (units / "left_over-0.json").write_text("{}")
    assert run_job(job, copied, say=lines.append) == 0
    assert sorted(measured) == sorted(name.values())
    said = "\n".join(lines)
    assert f"{name['diffusion', 0]}.json is damaged" in said
    assert f"{name['diffusion', 1]}.json names units/{name['diffusion', 1]}.npz, which is missing or damaged" in said
    assert f"{name['supervised', None]}.json is of another configuration" in said
    assert "results of units that are not in this job: left_over-0" in said
    (units / "left_over-0.json").unlink()
    assert read_numbers(copied) == read_numbers(done)


def test_a_lifter_that_was_trained_further_is_measured_again(copied, job, lifters, measured, lines, monkeypatch):
    from diffpose_jax.grid import checks

    monkeypatch.setattr(checks, "digest_leaves", lambda tree: {"leaf": "another"})
    assert run_job(job, copied, say=lines.append) == 0
    assert len(measured) == 3
    assert "is of another configuration: the work directory, the data or the version changed" in "\n".join(lines)


def test_weights_that_change_while_a_job_runs_are_not_measured_in_the_name_of_others(lifters, copied, job, lines):
    planned = plan_job(read_job(job))[-1]
    with pytest.raises(UserError, match="expected the weights that were checked, found others"):
        worker.measure_unit(planned._replace(lifter="of before"), Store(copied), lines.append)
    with pytest.raises(UserError, match="expected the data that were checked, found others"):
        worker.measure_unit(planned._replace(data="of before"), Store(copied), lines.append)


def test_a_unit_that_fails_leaves_the_others_and_is_told(job, lifters, tmp_path, lines, run_program):
    clips = make_clips()
    flat = ClipSet.build([clips.clip(i)._replace(poses=None, root=None) for i in range(3)], H36M_17)
    save_archive(tmp_path / "flat.npz", {"test": flat})
    path = tmp_path / "job.yaml"
    path.write_text(job_text(lifters, data=[str(tmp_path / "flat.npz"), None], seeds=[0],
                             workdirs=[str(lifters["supervised"])], comparisons=[]))  # fmt: skip
    code, said, _ = run_program(PROGRAM, "--job", path, "--output", tmp_path / "out")
    assert code == 1
    assert "1 of 2 units are done" in said
    assert "failed: " in said
    assert "expected 3D poses to compare with" in said
    summary = read_record(tmp_path / "out" / "summary.json", "job summary")
    assert len(summary["failed"]) == len(summary["rows"]) == 1
    assert "**Failed**" in (tmp_path / "out" / "summary.md").read_text()
    # A restart tries it again; with the data mended it is done.
    save_archive(tmp_path / "flat.npz", {"test": clips})
    assert run_job(path, tmp_path / "out", say=lines.append) == 0


def test_an_error_of_the_program_stops_its_unit_only_and_keeps_its_traceback(job, copied, lines, monkeypatch):
    name = names(job)["supervised", None]
    (copied / "units" / f"{name}.json").unlink()
    monkeypatch.setattr(worker, "measure_unit", lambda *_: 1 / 0)
    assert run_job(job, copied, say=lines.append) == 1
    failure = read_record(copied / "units" / f"{name}.failed.json", "failed unit")
    assert failure["message"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in failure["trace"]
    monkeypatch.setattr(worker, "measure_unit", lambda *_: bytearray(1 << 60))
    assert run_job(job, copied, say=lines.append) == 1
    assert "out of memory; try a smaller batch_size in the job, or fewer hypotheses" in lines[-2]


def test_a_lost_process_of_the_cluster_ends_the_worker_and_is_no_fault_of_the_unit(job, copied, monkeypatch):
    name = names(job)["supervised", None]
    (copied / "units" / f"{name}.json").unlink()

    def lose(*_):
        raise ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")

    monkeypatch.setattr(worker, "measure_unit", lose)
    monkeypatch.setattr("diffpose_jax.cluster.in_cluster", lambda: True)
    with pytest.raises(ValueError, match="Gloo"):
        run_job(job, copied, say=lambda line: None)
    assert {path.name for path in (copied / "units").glob(f"{name}*")} == {f"{name}.npz"}  # no failure, no claim


def test_the_unit_of_a_killed_worker_is_taken_over_where_it_stopped(copied, done, job, lines, monkeypatch):
    name, kept = names(job)["diffusion", 1], []
    (copied / "units" / f"{name}.json").unlink()
    write = Store.write
    # Everything is lifted, and before the result is written the worker is killed: its claim and its chunks stay.
    monkeypatch.setattr(Store, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_job(job, copied, say=kept.append)
    monkeypatch.setattr(Store, "write", write)
    (copied / "frames" / name / "000001.npz").write_bytes(b"half")
    killed = "import sys, os, signal; from pathlib import Path; from diffpose_jax.grid.claims import Claims\n"
    killed += "with Claims(Path(sys.argv[1])).claim(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", killed, str(copied / "units"), name], check=False)
    assert (copied / "units" / f"{name}.claim").exists()
    assert run_job(job, copied, say=lines.append) == 0
    assert any("goes on, 2 of 3 chunks were done" in line for line in lines)
    assert any("000001.npz: damaged or of another configuration; lifted again" in line for line in lines)
    assert read_numbers(copied) == read_numbers(done)
    assert not list((copied / "units").glob("*.claim"))


def test_without_waiting_units_of_others_are_left_to_them(copied, job, lines):
    name = names(job)["supervised", None]
    (copied / "units" / f"{name}.json").unlink()
    other = {"host": "another", "pid": 1, "token": "x", "renewed": 3}
    (copied / "units" / f"{name}.claim").write_text(json.dumps(other))
    assert run_job(job, copied, wait=False, say=lines.append) == 0
    assert "1 units are not finished: other workers have claimed them" in lines
    assert "**Not finished yet**" in (copied / "summary.md").read_text()
    # A worker that stays takes the unit over after the other gave no sign for so long.
    assert run_job(job, copied, lease_seconds=0.3, say=lines.append) == 0
    assert any("waiting for 1 units of other workers, such as another, pid 1" in line for line in lines)
    assert "3 of 3 units are done" in lines[-1]


def test_a_folder_that_cannot_be_written_ends_the_worker_and_nothing_is_lost(copied, done, job, monkeypatch):
    name = names(job)["supervised", None]
    (copied / "units" / f"{name}.json").unlink()
    before = {path.name: path.read_bytes() for path in (copied / "units").iterdir()}

    def refuse(path, *_):
        raise UserError(f"{path}: cannot be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("diffpose_jax.grid.store.write_record", refuse)
        with pytest.raises(OutputError, match="No space left"):
            run_job(job, copied, say=lambda line: None)
    assert {path.name: path.read_bytes() for path in (copied / "units").iterdir() if path.suffix == ".json"} == {
        file: content for file, content in before.items() if file.endswith(".json")
    }
    assert run_job(job, copied, say=lambda line: None) == 0
    assert read_numbers(copied) == read_numbers(done)


def test_predictions_are_archives_of_consecutive_frames(lifters, tmp_path, lines, measured):
    path, out = tmp_path / "job.yaml", tmp_path / "out"
    path.write_text(job_text(lifters, workdirs=[str(lifters["supervised"])], comparisons=[], predictions=True))
    assert run_job(path, out, say=lines.append) == 0
    (folder,) = (out / "frames").iterdir()
    shards = list(read_predictions(folder))
    assert [len(shard["first"]) for shard in shards] == [8, 8, 3]
    np.testing.assert_array_equal(np.concatenate([shard["frame"] for shard in shards]), np.arange(19))
    assert shards[1]["clip"].tolist() == [0, 1, 1, 1, 1, 2, 2, 2]
    assert shards[1]["frame_of_clip"].tolist() == [8, 0, 1, 2, 3, 0, 1, 2]
    errors = [np.linalg.norm(shard["first"] - make_clips().poses[shard["frame"]], axis=-1) for shard in shards]
    row = read_record(out / "summary.json", "job summary")["rows"][0]
    assert 1000 * np.concatenate(errors).mean() == pytest.approx(row["frame_average"]["mpjpe"], rel=1e-4)
    (folder / "000002.npz").unlink()
    assert run_job(path, out, say=lines.append) == 0
    assert len(measured) == 2
    assert len(list(read_predictions(folder))) == 3
