"""Reading a command line: flags, the configs that it names, and in one line what is wrong with either."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections.config_flags.config_flags import is_config_flag

from diffpose_jax.config import current_value
from diffpose_jax.errors import UserError


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line `argv` into `flag_values` and returns the positional arguments, program name first.

    `--config NAME:ARGUMENT` without a path means the config of that name that comes with the package. Raises UserError
    for anything that flags or config files can get wrong; a config that could not be loaded is reported here, not at
    its first use.
    """
    if "config" in flag_values and is_config_flag(flag_values["config"]):
        argv = _with_config_path(argv)
    argv = _with_flip_word(argv, flag_values)
    # config_flags looks for overrides of config keys in sys.argv only.
    outer, sys.argv = sys.argv, list(argv)
    try:
        before = {name: flag_values[name].present for name in flag_values}
        positional = flag_values(list(argv))
        for name in flag_values:
            _check_once(flag_values[name], before.get(name, 0))
            if is_config_flag(flag_values[name]) and flag_values[name].value is not None:
                _check_loaded(flag_values[name].value)
        return positional
    except UserError:
        raise
    except flags.Error as error:
        raise UserError(_flag_message(error)) from error
    except (AttributeError, KeyError) as error:
        raise UserError(_key_message(error, argv)) from error
    except Exception as error:  # A config file is the user's own program and can raise anything.
        raise UserError(_config_message(error, argv)) from error
    finally:
        sys.argv = outer


def shipped_configs() -> Mapping[str, Path]:
    """The config files that come with the package, `{name: path}`: its folder `configs`, in a checkout the one beside
    it, which the wheel contains as `diffpose_jax.configs`.
    """
    package = Path(__file__).parent
    folder = package / "configs"
    if not folder.is_dir():
        folder = package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def config_path(text: str) -> str:
    """The value of `--config` with the path of a shipped config in place of its name; a path stays as it is.

    A word without a slash and without the suffix `.py` is a name. Raises UserError, with all names, for an unknown one.
    """
    name, colon, argument = text.partition(":")
    if not name or name.startswith("-") or Path(name).name != name or name.endswith(".py"):
        return text
    shipped = shipped_configs()
    if name not in shipped:
        raise UserError(f"--config: expected the path of a config file or one of {', '.join(shipped)}, found {name!r}")
    return f"{shipped[name]}{colon}{argument}"


def _with_config_path(argv: Sequence[str]) -> list[str]:
    replaced = list(argv)
    for index, argument in enumerate(argv):
        if found := re.fullmatch(r"(--?config=)(.*)", argument):
            replaced[index] = found.group(1) + config_path(found.group(2))
        elif re.fullmatch(r"--?config", argument) and index + 1 < len(argv):
            replaced[index + 1] = config_path(argv[index + 1])
    return replaced


def _with_flip_word(argv: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
    """The arguments with the word that a flag of flips stands for now where it is given as the switch it was before."""
    if "flip" in flag_values and flag_values["flip"].boolean:  # a program's own
        return list(argv)
    replaced = list(argv)
    for index, (argument, following) in enumerate(zip(argv, [*argv[1:], "-"], strict=True)):
        found = re.fullmatch(r"(--?)(no)?((?:config\.evaluation\.)?flip)(?:=(\w+))?", argument)
        if not found:
            continue
        dashes, no, name, value = found.groups()
        # `--flip half` has its value in the next argument.
        if value is not None or no or following.startswith("-"):
            word = current_value("evaluation.flip", value if value is not None else "false" if no else "true")
            replaced[index] = f"{dashes}{name}={word}"
    return replaced


def _check_once(flag: flags.Flag, before: int) -> None:
    # absl takes the last value without a word. Config keys may be overridden again, as scripts with defaults do.
    times = flag.present - before
    if times > 1 and "." not in flag.name and not isinstance(flag, flags.MultiFlag):
        raise UserError(f"--{flag.name}: expected once, found {times} times")


def _check_loaded(config: Any) -> None:
    # For a file that it cannot load, config_flags yields an object that raises OSError, with its cause, at any access.
    try:
        config.lock  # noqa: B018
    except OSError as error:
        raise error.__cause__ or error from None


def _flag_message(error: flags.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Error whilst parsing config file:" in str(error):  # A traceback follows; its last line says what is wrong.
        return f"config file: {lines[-1]}"
    return " ".join(lines).split(" Currently supported types are")[0]


def _key_message(error: Exception, argv: Sequence[str]) -> str:
    text = str(error)
    for arg in argv:
        override = re.match(r"--?(?:no)?(\w+\.[^=\s]+)", arg)
        if override and set(override.group(1).split(".")[1:]) & set(re.findall(r"\w+", text)):
            hint = re.search(r'Did you mean "(\w+)"', text)
            return f"--{override.group(1)}: no such config key" + (f"; did you mean '{hint.group(1)}'?" if hint else "")
    return _config_message(error, argv)


def _config_message(error: Exception, argv: Sequence[str]) -> str:
    path = _given_config(argv)
    if isinstance(error, OSError) and "Failed loading config file" in str(error):
        return f"{path}: expected a config file, found no such file"
    if isinstance(error, OSError):
        return f"{error.filename or path}: {error.strerror or error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"{path}, line {frames[-1].lineno}" if frames else path
    return f"{where}: {type(error).__name__}: {error}"


def _given_config(argv: Sequence[str]) -> str:
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        if found := re.match(r"--?config(?:=(.*)|$)", arg):
            return (found.group(1) or following).split(":", 1)[0] or "--config"
    return "--config"
