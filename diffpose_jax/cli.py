"""Command-line conventions of all programs: their common flags, messages for mistakes, exit codes.

Whatever the user can correct ends in one line `error: ...` on stderr and exit code 2. A bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, get_args

from absl import flags
from ml_collections.config_flags.config_flags import is_config_flag

from diffpose_jax.cluster import ending_together
from diffpose_jax.command_line import parse
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
