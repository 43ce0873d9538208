"""A mistake of the user is one line and exit code 2; a bug keeps its traceback; `diffpose` runs the programs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from diffpose_jax import __main__ as command
from diffpose_jax import __version__, cli
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
        (["--config={config}", "--config.train.batchsize=8"], ["--config.train.batchsize", "mean 'batch_size'?"]),
        (["--config={config}", "--config.trian.batch_size=8"], ["--config.trian.batch_size", "mean 'train'?"]),
        (["--config={config}", "--config.seed.first=8"], ["--config.seed.first", "no such config key"]),
        (["--config={config}", "--config.train.batch_size=8.5"], ["--config.train.batch_size=8.5"]),
        (["--config={config}", "--config.train.lr=fast"], ["--config.train.lr=fast"]),
        (["--config.seed=8", "--config={config}"], ["--config.seed=8", "before"]),
        (["--config.seed=8"], ["config.seed"]),
        (["--config=nowhere"], ["path of a config file or one of", "d3dp", "mixste", "found 'nowhere'"]),
        (["--config", "nowhere:synthetic,small"], ["found 'nowhere'"]),
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


@pytest.mark.parametrize(
    "arguments",
    [["--workdir=a", "--workdir=b"], ["--workdir", "a", "--workdir", "a"], ["--workdir", "a", "-workdir=b"]],
)
def test_a_flag_that_is_given_twice_is_one_line(program, arguments):
    code, error = program(*arguments)
    assert (code, error) == (2, "error: --workdir: expected once, found 2 times\n")


def test_exit_code_of_main_is_the_programs(program):
    assert program(main=lambda _: 3)[0] == 3


def test_help_is_the_docstring_of_the_program_and_its_flags(capsys):
    values = flags.FlagValues()
    flags.DEFINE_boolean("flip", True, "Average with the mirrored input.", flag_values=values)
    with pytest.raises(SystemExit) as exit_:
        cli.run(cli.fail, ["program", "--help"], values)
    printed = capsys.readouterr().out
    assert exit_.value.code == 0
    assert printed.startswith("Command-line conventions of all programs")
    assert "--[no]flip: Average with the mirrored input. (default: True)" in printed


def run_diffpose(*arguments):
    """Exit code, standard output and standard error of `diffpose ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "diffpose_jax", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_diffpose_alone_lists_its_programs(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    printed = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "usage: diffpose PROGRAM" in printed
    assert all(f"  {name} " in printed for name in command.PROGRAMS)


def test_every_program_of_the_package_is_a_subcommand():
    package = Path(cli.__file__).parent
    programs = {path.stem for path in package.glob("*.py") if "cli.run(main)" in path.read_text()}
    assert programs == set(command.PROGRAMS)


def test_diffpose_prints_its_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(["--version"])
    assert (exit_.value.code, capsys.readouterr().out) == (0, f"diffpose_jax {__version__}\n")


def test_an_unknown_program_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(["trian", "--workdir=x"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "one of lift, prepare, train, evaluate, calibrate, predict, export, convert, found 'trian'" in error


def test_listing_the_programs_does_not_import_jax():
    names = "'jax', 'matplotlib'"
    code = f"import sys, diffpose_jax.__main__; print([name for name in ({names}) if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_program_as_a_subcommand_has_its_own_flags_and_help():
    code, printed, _ = run_diffpose("train", "--help")
    assert code == 0
    assert printed.startswith("Train a lifter")
    assert "--config:" in printed
    assert "--workdir:" in printed
    code, _, error = run_diffpose("train", "--config", "nowhere", "--workdir", "unused")
    assert code == 2
    assert error.startswith("error: --config: expected the path of a config file or one of d3dp")


def test_the_console_script_is_the_same_command():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"diffpose": "diffpose_jax.__main__:main"}


def test_configs_and_methods_of_the_users_own_are_imported_from_where_the_command_is_given(tmp_path):
    (tmp_path / "helper.py").write_text("message = 'helper was imported'\n")
    (tmp_path / "own.py").write_text(
        "import helper\nfrom diffpose_jax.errors import UserError\n\ndef get_config():\n"
        "    raise UserError(helper.message)\n"
    )
    # -P: without the current folder on the path, as the console script starts.
    code = "from diffpose_jax.__main__ import main; main(['train', '--config', 'own.py', '--workdir', 'unused'])"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: helper was imported\n")
