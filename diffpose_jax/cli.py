"""How every program starts and ends: flags in, one call down, one line and exit code 2 for a mistake of the user."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags
from ml_collections.config_flags.config_flags import is_config_flag

from diffpose_jax.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130

# What a person, not the code, has to mend: permissions, a full disk, a path that is not what it should be.
_ENVIRONMENT = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def run(
    main: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Parses the absl flags, calls `main(positional arguments, program name first)` and exits with its return value.

    Whatever the user caused (a flag, a config key or value, a config file, `UserError`, a path that may not be
    written) becomes one line `error: ...` on stderr and exit code 2; an interrupt exits with 130; anything else is a
    bug and keeps its traceback. Define config flags without a default: a default is parsed before this function runs.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        positional = parse(argv, flag_values)
        status = main(positional)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in _ENVIRONMENT or error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    sys.exit(status or 0)


def require(argv: Sequence[str], given: flags.FlagValues, *names: str) -> None:
    """Raises UserError for an argument that is no flag, and for the first of the named flags that was not given."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    for name in names:
        if given[name].value is None:
            raise UserError(f"--{name}: required, found none")


def fail(message: str) -> None:
    """Prints `error: message` as one line, after all output so far, and exits with code 2."""
    sys.stdout.flush()
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses `argv` into `flag_values` and returns the positional arguments, program name first.

    Raises UserError for anything that flags or config files can get wrong; a config that could not be loaded is
    reported here, not at its first use. `--help` prints the flags and exits with code 0.
    """
    if any(re.fullmatch(r"--?(help|helpfull|helpshort|h|\?)", arg) for arg in argv[1:]):
        app.usage(shorthelp=not any("full" in arg for arg in argv), writeto_stdout=True)
        sys.exit(0)
    outer, sys.argv = (
        sys.argv,
        list(argv),
    )  # config_flags looks for overrides in sys.argv only
    try:
        positional = flag_values(list(argv))
        for name in flag_values:
            if is_config_flag(flag_values[name]) and flag_values[name].value is not None:
                _loaded(flag_values[name].value)
        return positional
    except UserError:
        raise
    except flags.Error as error:
        raise UserError(_flag_message(error)) from error
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(error, argv)) from error
    except Exception as error:  # a config file is the user's own program: whatever it raises is theirs to mend
        raise UserError(_config_message(error, argv)) from error
    finally:
        sys.argv = outer


def _loaded(config: object) -> None:
    # A missing config file yields an object that raises OSError at any attribute, its cause attached.
    try:
        config.lock  # noqa: B018
    except OSError as error:
        raise error.__cause__ or error from None


def _flag_message(error: flags.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Error whilst parsing config file:" in str(error):  # followed by a whole traceback
        return f"config file: {lines[-1]}"
    return " ".join(lines).split(" Currently supported types are")[0]


def _unknown_key(error: Exception, argv: Sequence[str]) -> str:
    text = str(error)
    for arg in argv:
        override = re.match(r"--?(?:no)?(\w+\.[^=\s]+)", arg)
        if override and set(override.group(1).split(".")[1:]) & set(re.findall(r"\w+", text)):
            hint = re.search(r'Did you mean "(\w+)"', text)
            return f"--{override.group(1)}: no such config key" + (f"; did you mean '{hint.group(1)}'?" if hint else "")
    return _config_message(error, argv)


def _config_message(error: Exception, argv: Sequence[str]) -> str:
    path = _config_path(argv)
    if isinstance(error, OSError) and "Failed loading config file" in str(error):
        return f"{path}: expected a config file, found no such file"
    if isinstance(error, OSError):
        return f"{error.filename or path}: {error.strerror or error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"{path}, line {frames[-1].lineno}" if frames else path
    return f"{where}: {type(error).__name__}: {error}"


def _config_path(argv: Sequence[str]) -> str:
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        if found := re.match(r"--?config(?:=(.*)|$)", arg):
            return (found.group(1) or following).split(":", 1)[0] or "--config"
    return "--config"
