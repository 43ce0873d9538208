"""What a user gets wrong at the command line is one line and exit code 2; the rest is `tests/training`."""

from __future__ import annotations

import functools
from importlib import import_module
from pathlib import Path

import pytest
from absl import flags

from diffpose_jax import cli
from diffpose_jax.command_line import parse

# The package's own `train` is the function.
program = import_module("diffpose_jax.train")

CONFIG = """
from diffpose_jax.registry import config_for

def get_config():
    config = config_for("diffupose")
    config.data.source = "{source}"
    return config
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG.format(source=tmp_path / "nothing.npz"))
    return path


def run(*arguments: str) -> int:
    values = flags.FlagValues()
    program.define_flags(values)
    with pytest.raises(SystemExit) as ended:
        cli.run(functools.partial(program.main, given=values), ["train", *arguments], values)
    return ended.value.code


def check(capsys: pytest.CaptureFixture, code: int, *words: str) -> None:
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    for word in words:
        assert word in error


def test_a_missing_flag_is_named(capsys, config_file):
    check(capsys, run("--config", str(config_file)), "--workdir", "required")


def test_a_missing_config_file_is_named(capsys, tmp_path):
    check(capsys, run("--config", str(tmp_path / "absent.py"), "--workdir", str(tmp_path)), "absent.py")


def test_a_missing_dataset_is_named_with_the_command_that_makes_it(capsys, config_file, tmp_path):
    check(capsys, run("--config", str(config_file), "--workdir", str(tmp_path / "run")), "nothing.npz", "prepare")


def test_an_unknown_key_is_named(capsys, config_file, tmp_path):
    code = run("--config", str(config_file), "--workdir", str(tmp_path), "--config.training.batchsize=8")
    check(capsys, code, "batchsize", "batch_size")


def test_a_value_of_the_wrong_type_is_named(capsys, config_file, tmp_path):
    code = run("--config", str(config_file), "--workdir", str(tmp_path), "--config.training.batch_size=many")
    check(capsys, code, "batch_size", "many")


def test_a_value_that_makes_no_sense_is_named(capsys, config_file, tmp_path):
    code = run("--config", str(config_file), "--workdir", str(tmp_path), "--config.training.ema_decay=1.5")
    check(capsys, code, "config.training.ema_decay", "1.5")


@pytest.mark.parametrize(
    ("config", "key", "value", "expected"),
    [
        ("diff3dhpe_mixste:synthetic,small", "lifter.k_clip", "-5", "at least 0"),
        ("diffhpe_2d:synthetic,small", "lifter.p_uncond", "3", "at least 0 and at most 1"),
        ("diffhpe_2d:synthetic,small", "lifter.step_width", "0", "at least 4"),
        ("d3dp:synthetic,small", "lifter.signal_scale", "0", "above 0"),
        ("d3dp:synthetic,small", "lifter.compute_dtype", "float16", "one of float32, bfloat16"),
        ("d3dp:synthetic,small", "training.learning_rate", "nan", "above 0"),
    ],
)
def test_an_option_out_of_its_range_is_one_line(capsys, tmp_path, config, key, value, expected):
    code = run("--config", config, "--workdir", str(tmp_path), f"--config.{key}={value}")
    check(capsys, code, f"config.{key}: expected {expected}, found ")


def test_a_workdir_that_cannot_be_made_is_named(capsys, config_file):
    code = run("--config", str(config_file), "--workdir", str(config_file / "run"))
    check(capsys, code, "experiment.py/run", "directory that can be written")


def test_an_argument_without_dashes_is_refused(capsys, config_file, tmp_path):
    check(capsys, run("--config", str(config_file), "--workdir", str(tmp_path), "steps=3"), "steps=3")


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/[!_]*.py")), ids=lambda path: path.stem)
def test_every_config_is_valid_with_every_argument(path):
    from diffpose_jax.registry import validate

    words = ["synthetic", "cmu", "human36m,gt", "human36m,cpn", "mpi_inf_3dhp", "humaneva", "cmu,small"]
    method = "diffupose," if path.stem == "method" else ""
    arguments = {"quickstart": [""]}.get(path.stem, [f":{method}{word}" for word in words])
    for argument in arguments:
        values = flags.FlagValues()
        program.define_flags(values)
        parse(["train", "--config", f"{path}{argument}", "--workdir", "unused"], values)
        validate(values.config)
        assert path.name in Path(path).read_text()
        assert values.config.name.startswith(path.stem)
