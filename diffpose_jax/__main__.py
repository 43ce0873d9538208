"""The command `diffpose`: all programs as subcommands, as in `diffpose train --config diffupose:synthetic,small`.

`diffpose train` and `python -m diffpose_jax.train` are the same program. Listing the programs imports none of them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from diffpose_jax import __version__, cli

# Every program: the module of that name, and what it does.
PROGRAMS = {
    "lift": "find the people in a video and show them in 3D",
    "prepare": "turn motion or keypoint files into an archive to train on",
    "train": "train a lifter",
    "evaluate": "measure a trained lifter",
    "calibrate": "find the temperature at which hypotheses cover the truth as often as they should",
    "predict": "lift your own keypoints",
    "export": "write a trained lifter's sampler as a file that runs with jax alone",
    "convert": "turn published PyTorch weights into a work directory",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program that the first argument names with the remaining arguments, and exits.

    Without arguments, or with `--help`, prints the list of programs; with `--version` the version.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help", "help"):
        print("usage: diffpose PROGRAM [--flag ...]\n\nprograms:")
        print("\n".join(f"  {name:<10} {purpose}" for name, purpose in PROGRAMS.items()))
        print("\n`diffpose PROGRAM --help` describes a program and its flags.")
        sys.exit(0)
    if given[0] == "--version":
        print(f"diffpose_jax {__version__}")
        sys.exit(0)
    if given[0] not in PROGRAMS:
        cli.fail(f"expected a program, one of {', '.join(PROGRAMS)}, found {given[0]!r}")
    # As with `python -m`: methods of the user's own are imported from where the command is given.
    sys.path.insert(0, os.getcwd())
    try:
        program = importlib.import_module(f"diffpose_jax.{given[0]}")
    except KeyboardInterrupt:
        cli.leave(cli.INTERRUPTED)
    # Programs write their command line down in what they produce, and read it from sys.argv.
    sys.argv = [f"diffpose {given[0]}", *given[1:]]
    program.define_flags()
    cli.run(program.main)


if __name__ == "__main__":
    main()
