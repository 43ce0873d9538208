"""A mistake of the user is one line and exit code 2; a bug keeps its traceback."""

from __future__ import annotations

import pytest
from absl import flags
from ml_collections import config_flags

from diffpose_jax import cli
from diffpose_jax.errors import UserError

CONFIG = """
from ml_collections import ConfigDict
from diffpose_jax.errors import UserError

def get_config(argument=""):
    if argument == "broken":
        undefined_name
    if argument == "refused":
        raise UserError("config argument: expected synthetic or cmu, found refused")
    return ConfigDict({"seed": 1, "train": {"batch_size": 8, "lr": 1e-3}})
"""


@pytest.fixture
def program(tmp_path, capfd):
    """Runs `main` as a program would; `{config}` in an argument is a config file. Gives exit code and stderr."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)

    def call(*arguments, main=lambda argv: None):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=None)
        flags.DEFINE_string("workdir", None, "Where results go.", flag_values=values)
        flags.DEFINE_integer("hypotheses", 5, "How many.", flag_values=values)
        argv = ["program", *(argument.format(config=config) for argument in arguments)]
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda positional: main((positional, values)), argv, values)
        error = capfd.readouterr().err
        return exit_.value.code, error

    return call


def test_main_gets_positional_arguments_and_overridden_config(program):
    seen = []
    code, error = program("--config={config}", "synthetic", "--config.train.batch_size=3", main=seen.append)
    (positional, values), *_ = seen
    assert (code, error) == (0, "")
    assert positional == ["program", "synthetic"]
    assert values.config.train.batch_size == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wrkdir=x"], ["wrkdir", "workdir"]),
        (["--hypotheses=many"], ["--hypotheses=many"]),
        (["--config"], ["Missing value", "--config"]),
        (["--config=nowhere.py"], ["nowhere.py", "no such file"]),
        (["--config=nowhere.py", "--config.seed=1"], ["nowhere.py", "no such file"]),
        (["--config={config}:broken"], ["config.py, line 7", "undefined_name"]),
        (["--config={config}:refused"], ["expected synthetic or cmu, found refused"]),
        (
            ["--config={config}", "--config.train.batchsize=8"],
            ["--config.train.batchsize", "mean 'batch_size'?"],
        ),
        (["--config={config}", "--config.trian.batch_size=8"], ["--config.trian.batch_size", "mean 'train'?"]),
        (["--config={config}", "--config.seed.first=8"], ["--config.seed.first", "no such config key"]),
        (["--config={config}", "--config.train.batch_size=8.5"], ["--config.train.batch_size=8.5"]),
        (["--config={config}", "--config.train.lr=fast"], ["--config.train.lr=fast"]),
        (["--config.seed=8", "--config={config}"], ["--config.seed=8", "before"]),
        (["--config.seed=8"], ["config.seed"]),
    ],
)
def test_mistakes_in_flags_and_configs_are_one_line(program, arguments, said):
    code, error = program(*arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for words in said:
        assert words in error


@pytest.mark.parametrize(
    "raised",
    [UserError("data.npz: expected 17 joints,\nfound 16"), PermissionError(13, "Permission denied", "/results")],
)
def test_mistakes_found_by_main_are_one_line(program, raised):
    def main(_):
        raise raised

    code, error = program(main=main)
    assert code == 2
    assert error.count("\n") == 1
    assert ("found 16" in error) or ("/results: Permission denied" in error)


def test_interrupt_is_quiet(program):
    def main(_):
        raise KeyboardInterrupt

    assert program(main=main) == (130, "")


@pytest.mark.parametrize("bug", [ValueError("shapes differ"), AttributeError("x"), OSError("broken pipe of ours")])
def test_bugs_keep_their_traceback(bug):
    def main(_):
        raise bug

    with pytest.raises(type(bug)):
        cli.run(main, ["program"], flags.FlagValues())


def test_exit_code_of_main_is_the_programs(program):
    assert program(main=lambda _: 3)[0] == 3
