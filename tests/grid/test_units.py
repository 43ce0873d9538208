"""What a job file says: the units of a grid, and the mistakes that it can have."""

from __future__ import annotations

import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.grid.job_file import read_job
from diffpose_jax.grid.units import Comparison, Grid, Unit

PYTHON = """
from diffpose_jax.grid.units import Comparison, Grid

def get_job():
    sides = {"workdir": "a"}, {"workdir": "b"}
    return Grid(workdirs=["a", "b"], inputs=["exact", 0.5], hypotheses=[1, 5], comparisons=[Comparison(*sides)])
"""
YAML = """
workdirs: [a, b]
inputs: [exact, 0.5]
hypotheses: [1, 5]
comparisons:
  - {first: {workdir: a}, second: {workdir: b}}
"""


def test_a_grid_has_a_unit_for_every_combination():
    grid = Grid(["a"], data=["x.npz", None], occlusions=["none", ("random", 0.3)], seeds=[0, 1], inputs=["exact"])
    units = grid.list_units()
    assert len(units) == 8
    assert units[0] == Unit("a", "x.npz", input=0.0, occlusion="none", seed=0)
    assert units[3] == Unit("a", "x.npz", input=0.0, occlusion="random", occlusion_rate=0.3, seed=1)
    assert len({unit.name for unit in units}) == 8
    assert units[3].title == "a, data x.npz, input 0.0, occlusion random, occlusion_rate 0.3, seed 1"


def test_a_units_name_is_that_of_its_choices():
    assert Unit("runs/a b/").name == Unit("runs/a b/").name
    assert Unit("runs/a b/").name.startswith("a_b-")
    assert Unit("pretrained:frame", seed=0).name != Unit("pretrained:frame", seed=1).name


def test_python_and_yaml_say_the_same(tmp_path):
    (tmp_path / "job.py").write_text(PYTHON)
    (tmp_path / "job.yaml").write_text(YAML)
    one, other = read_job(tmp_path / "job.py"), read_job(tmp_path / "job.yaml")
    assert list(one.units) == list(other.units)
    assert list(one.comparisons) == list(other.comparisons) == [Comparison({"workdir": "a"}, {"workdir": "b"})]


def test_several_grids_are_one_job_and_their_common_units_are_measured_once(tmp_path):
    (tmp_path / "job.yaml").write_text("- {workdirs: [a], seeds: [0, 1]}\n- {workdirs: [a, b], seeds: [0]}\n")
    units = list(read_job(tmp_path / "job.yaml").units)
    assert [(unit.workdir, unit.seed) for unit in units] == [("a", 0), ("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.py", "def get_job():\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        ("job.py", "get = 1\n", "expected a function get_job"),
        ("job.py", "def get_job():\n    return 'a'\n", "expected a Grid or a list of them, found str"),
        ("job.yaml", "workdirs: [a\n", "expected YAML"),
        ("job.yaml", "!!python/object/apply:os.getcwd []\n", "expected YAML"),
        ("job.yaml", "a\n", "expected the fields of a grid, found str"),
        ("job.yaml", "workdir: [a]\n", "expected fields of aggregations, .*found 'workdir'"),
        ("job.yaml", "seeds: [1]\n", "expected the field workdirs"),
        ("job.yaml", "workdirs: a\n", "workdirs: expected a list, found 'a'"),
        ("job.yaml", "workdirs: []\n", "workdirs: expected at least one"),
        (
            "job.yaml",
            "{workdirs: [a], hypotheses: [0]}\n",
            "hypotheses: expected a whole number of at least 1, found 0",
        ),
        ("job.yaml", "{workdirs: [a], seeds: [yes]}\n", "seeds: expected a whole number"),
        ("job.yaml", "{workdirs: [a], inputs: [cpn]}\n", "inputs: expected 'exact' or the strength"),
        ("job.yaml", "{workdirs: [a], occlusions: [[leg, 2]]}\n", "occlusions: expected a pattern"),
        ("job.yaml", "{workdirs: [a], aggregations: mean}\n", "aggregations: expected a list"),
        ("job.yaml", "{workdirs: [a], comparisons: [{first: {}}]}\n", "comparison: expected first"),
        ("job.yaml", "{workdirs: [a], comparisons: [{first: {x: 1}, second: {seed: 0}}]}\n", "found 'x'"),
        ("job.yaml", "{workdirs: [a], comparisons: [{first: {seed: 1}, second: {seed: 0}, metric: m}]}\n", "found 'm'"),
        ("job.txt", "", r"ends in \.py, \.yaml or \.yml"),
    ],
)
def test_mistakes_name_the_file_and_what_was_expected(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_job(tmp_path / name)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="found no such file"):
        read_job(tmp_path / "job.py")
