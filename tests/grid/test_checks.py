"""A mistake in a job is found before anything is measured."""

from __future__ import annotations

import importlib

import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.grid.checks import plan_job
from diffpose_jax.grid.job_file import read_job
from diffpose_jax.grid.running import run_job

from .jobs import job_text

PROGRAM = importlib.import_module("diffpose_jax.evaluate")  # the package has a function of that name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workdirs": ["nowhere"]}, r"nowhere.*config\.json"),
        ({"workdirs": ["pretrained:nobody"]}, "pretrained:nobody: expected one of"),
        ({"data": ["nowhere.npz"]}, r"data nowhere\.npz.*found no such file"),
        ({"split": "validation"}, "expected split 'validation', found train, test"),
        ({"aggregations": ["best"]}, "found 'best'"),
        ({"occlusions": ["knees"]}, "knees"),
        ({"steps": [4]}, "sampling_steps"),
        ({"protocol": "strict"}, "expected one of standard"),
        ({"hypotheses": [10**9]}, "memory of the host: expected at least .* GB"),
        ({"comparisons": [{"first": {"workdir": "x"}, "second": {"seed": 0}}]}, "on, found workdir x"),
    ],
)
def test_mistakes_are_one_line_before_any_work(lifters, tmp_path, fields, message):
    path = tmp_path / "job.yaml"
    fields = {"workdirs": [str(lifters["diffusion"])], "comparisons": []} | fields
    path.write_text(job_text(lifters, **fields))
    with pytest.raises(UserError, match=message) as caught:
        run_job(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_supervised_lifter_is_measured_once_and_its_seeds_only_matter_to_what_is_hidden(lifters, tmp_path):
    path = tmp_path / "job.yaml"
    fields = {"workdirs": [str(lifters["supervised"])], "comparisons": [], "hypotheses": [1, 5]}
    path.write_text(job_text(lifters, occlusions=["none", ["random", 0.1]], **fields))
    units = [one.unit for one in plan_job(read_job(path))]
    assert [(unit.occlusion, unit.seed) for unit in units] == [("none", None), ("random", 0), ("random", 1)]


def test_checking_alone_lists_the_units_and_writes_nothing(job, tmp_path, run_program):
    code, said, _ = run_program(PROGRAM, "--job", job, "--check")
    assert code == 0
    assert said.startswith("3 units:")
    code, _, error = run_program(PROGRAM, "--job", job, "--hypotheses", 5, "--output", tmp_path)
    assert code == 2
    assert error == "error: --hypotheses: expected in the job file, found beside --job\n"
    assert run_program(PROGRAM, "--job", job)[2] == "error: --output: required, found none\n"
