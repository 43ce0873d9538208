"""Command-line conventions of all programs: parsing of flags and configs, messages for mistakes, exit codes.

Whatever the user can correct ends in one line `error: ...` on stderr and exit code 2. A bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from absl import flags
from ml_collections.config_flags.config_flags import is_config_flag

from diffpose_jax.cluster import ending_together
from diffpose_jax.config import current_value
from diffpose_jax.errors import UserError
from diffpose_jax.sections import EvaluationOptions, Flip

USER_ERROR = 2
INTERRUPTED, TERMINATED = 130, 143

# Operating system errors that the user corrects: permissions, a full disk, a path that is not what it should be.
_ENVIRONMENT = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def run(
    main: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Runs a program: parses its flags, calls `main`, and exits with its return value.

    Mistakes of the user (a flag, a config key or value, a config file, `UserError`, a path that may not be written)
    become one line `error: ...` on stderr and exit code 2, and so do a full disk and too little memory. SIGINT
    exits with 130 and SIGTERM with 143, after files that are not complete were removed. In a cluster the loss of
    another process is one line and 75. Any other exception keeps its traceback. Define config flags without a
    default: absl parses a default before this function runs.

    Args:
        main: called with the positional arguments, program name first; None as its result means 0. The docstring of
            its module is what `--help` prints above the flags.
        argv: the command line, program name first; None: that of the process.
        flag_values: where the flags are defined.
    """
    own_process = argv is None
    argv = list(sys.argv if argv is None else argv)
    with ending_together(leave):
        status = _run(main, argv, flag_values, own_process)
    sys.exit(status or 0)


def _run(
    main: Callable[[list[str]], int | None], argv: list[str], flag_values: flags.FlagValues, own_process: bool
) -> int | None:
    if any(re.fullmatch(r"--?(help|helpfull|helpshort|h|\?)", argument) for argument in argv[1:]):
        print_help(sys.modules[main.__module__].__doc__ or "", flag_values)
        sys.exit(0)
    try:
        with _terminable():
            positional = parse(argv, flag_values)
            _keep_compiled_programs()
            return main(positional)
    except UserError as error:
        fail(str(error))
    except _Terminated:
        leave(TERMINATED, own_process)
    except KeyboardInterrupt:
        leave(INTERRUPTED, own_process)
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    except MemoryError:
        fail(f"out of memory; {_smaller_batch(flag_values)}")
    except RuntimeError as error:  # JAX's, which is not imported for this
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(f"out of memory on the device; {_smaller_batch(flag_values)}")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as SIGINT does."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Raises `_Terminated` at SIGTERM while the block runs; outside the main thread it does nothing."""

    def raise_terminated(number: int, frame: Any) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, raise_terminated)
    except ValueError:  # only the main thread may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(status: int, own_process: bool = True) -> NoReturn:
    """Exits after an interrupt: a process of our own at once, as threads of libraries may not survive a normal end."""
    if not own_process:
        sys.exit(status)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _smaller_batch(flag_values: flags.FlagValues) -> str:
    """Which flag to give where memory did not suffice, with half of the batch size that was used."""
    if "config" in flag_values and is_config_flag(flag_values["config"]) and flag_values["config"].value is not None:
        size = flag_values["config"].value.get("training", {}).get("batch_size", 2)
        return f"try --config.training.batch_size={max(1, int(size) // 2)}"
    if "batch_size" in flag_values:
        size = flag_values["batch_size"].value or EvaluationOptions().batch_size
        return f"try --batch_size={max(1, size // 2)}" + (
            ", or fewer --hypotheses" if "hypotheses" in flag_values else ""
        )
    return "try a machine with more, or less data"


def _keep_compiled_programs() -> None:
    from diffpose_jax.compile_cache import keep_compiled_programs  # only now: this imports JAX

    keep_compiled_programs()


def require(argv: Sequence[str], given: flags.FlagValues, *names: str) -> None:
    """Raises UserError for a positional argument, and for the first of the flags `names` that was not given."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    for name in names:
        if given[name].value is None:
            raise UserError(f"--{name}: required, found none")


def fail(message: str) -> NoReturn:
    """Prints `error: message` as one line on stderr, after all output so far, and exits with code 2."""
    sys.stdout.flush()
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


def print_help(description: str, flag_values: flags.FlagValues) -> None:
    """Prints the description of a program and its flags with their defaults, without those of the absl library."""
    print(description.strip() + "\n\nflags:")
    for module, defined in sorted(flag_values.flags_by_module_dict().items()):
        for flag in defined if not module.startswith("absl.") else ():
            default = "" if flag.default is None else f" (default: {flag.default})"
            print(f"  --{'[no]' if flag.boolean else ''}{flag.name}: {flag.help}{default}")


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


def define_model(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the trained lifter: `--workdir`, or `--pretrained` for one that comes with the package."""
    flags.DEFINE_string("workdir", None, "Work directory of the trained lifter.", flag_values=flag_values)
    released = "A released model that comes with the package, in place of a work directory: its name."
    flags.DEFINE_string("pretrained", None, released, flag_values=flag_values)


def chosen_model(given: flags.FlagValues, default: str | None = None) -> str:
    """What `load_trained` takes for the flags of `define_model`. Raises UserError where both are given, or none is."""
    if given.workdir and given.pretrained:
        raise UserError("expected --workdir or --pretrained, found both")
    chosen: str | None = f"pretrained:{given.pretrained}" if given.pretrained else given.workdir or default
    if chosen is None:
        raise UserError("--workdir: required, or --pretrained, found none")
    return chosen


def define_flip(flag_values: flags.FlagValues) -> None:
    """Defines the flag of how the mirrored input enters; `--flip` alone and `--noflip`, its forms of before, too."""
    meaning = "Mirrored input: not used, every second hypothesis, or averaged as papers do; by the config if not given."
    flags.DEFINE_enum("flip", None, get_args(Flip), meaning, flag_values=flag_values)


def parse_image_size(text: str | None) -> tuple[float, float] | None:
    """The size that `--image_size 1920x1080` gives. Raises UserError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,6})\s*[x,* ]\s*(\d{1,6})\s*", text)
    if not found:
        raise UserError(f"--image_size: expected width and height in pixels such as 1920x1080, found {text!r}")
    return float(found.group(1)), float(found.group(2))


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
