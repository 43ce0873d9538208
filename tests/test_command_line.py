"""A command line names configs and flags, in the forms of before too."""

from __future__ import annotations

from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from diffpose_jax import cli, command_line
from diffpose_jax.errors import UserError

CONFIG = """
from ml_collections import ConfigDict

def get_config(argument=""):
    return ConfigDict({"seed": 1})
"""


def test_config_keys_may_be_overridden_again_and_flags_parsed_again(tmp_path):
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\nget_config = lambda: ConfigDict({'a': 1})\n"
    )
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    arguments = ["program", f"--config={tmp_path / 'config.py'}", "--config.a=2", "--config.a=3"]
    command_line.parse(arguments, values)
    assert values.config.a == 3
    for _ in range(2):
        command_line.parse(["program", "--workdir=a"], values)
    assert values.workdir == "a"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--flip", "half"], "half"), (["--flip=none"], "none"), ([], None),
        # As a switch, which it was before.
        (["--flip"], "average"), (["--flip", "--nofigure"], "average"), (["--noflip"], "none"),
        (["--flip=false"], "none"), (["-flip=True"], "average"),
    ],
)  # fmt: skip
def test_the_flag_of_flips_takes_a_word_or_is_a_switch(arguments, word):
    values = flags.FlagValues()
    cli.define_flip(values)
    flags.DEFINE_boolean("figure", True, "Draw.", flag_values=values)
    command_line.parse(["program", *arguments], values)
    assert values.flip == word
    assert values.figure == ("--nofigure" not in arguments)


def test_an_unknown_word_of_flips_is_named_with_the_known_ones():
    values = flags.FlagValues()
    cli.define_flip(values)
    with pytest.raises(UserError, match=r"flag --flip=both: value should be one of <none\|half\|average>"):
        command_line.parse(["program", "--flip", "both"], values)


@pytest.mark.parametrize(
    ("argument", "word"), [("--config.evaluation.flip=False", "none"), ("--config.evaluation.flip=half", "half")]
)
def test_the_config_key_of_flips_takes_what_it_took_before(tmp_path, argument, word):
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'evaluation': {'flip': 'average'}})\n"
    )
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=None)
    command_line.parse(["program", f"--config={tmp_path / 'config.py'}", argument], values)
    assert values.config.evaluation.flip == word


SHIPPED = command_line.shipped_configs()


def test_every_config_of_the_repository_has_a_name():
    paths = sorted((Path(__file__).parents[1] / "configs").glob("[!_]*.py"))
    assert {path.stem: path for path in paths} == SHIPPED


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("diffupose:synthetic,small", f"{SHIPPED['diffupose']}:synthetic,small"),
        ("quickstart", str(SHIPPED["quickstart"])),
        ("configs/diffupose.py:cmu", "configs/diffupose.py:cmu"),
        ("diffupose.py", "diffupose.py"),
        ("./diffupose", "./diffupose"),
    ],
)
def test_a_config_name_means_the_shipped_config_and_a_path_stays(given, meant):
    assert command_line.config_path(given) == meant


@pytest.mark.parametrize("arguments", [["--config=diffupose:synthetic,small"], ["--config", "diffupose"]])
def test_programs_take_the_name_of_a_config(arguments, monkeypatch, tmp_path):
    for name in SHIPPED:
        (tmp_path / f"{name}.py").write_text(CONFIG)
    monkeypatch.setattr(command_line, "shipped_configs", lambda: {name: tmp_path / f"{name}.py" for name in SHIPPED})
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    command_line.parse(["program", *arguments, "--config.seed=3"], values)
    assert values.config.seed == 3
