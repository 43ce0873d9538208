"""Passes lines from standard input to standard output, and one line in place of what JAX says of a lost process.

`python quiet_stderr.py` imports nothing but the standard library; `diffpose_jax.cluster` starts it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

LOST = (
    "another process of the cluster ended or cannot be reached, and this one ends with it; the same command goes on "
    "from what is saved, with as many processes as there are"
)
_OWN = b"error: "
# What JAX's threads log before they end the process; lines that follow belong to it.
_NATIVE = re.compile(rb"[EF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (coordination_service|client\.h)")


def filter_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that a user reads: all until JAX reports a lost process, then none but the first error of our own."""
    lost = said = False
    for line in lines:
        if line.startswith(_OWN):
            if not (lost and said):
                yield line
            said = True
            continue
        lost = lost or _NATIVE.match(line) is not None
        if not lost:
            yield line
    if lost and not said:
        yield _OWN + LOST.encode() + b"\n"


def main() -> None:
    """Filters standard input to its end."""
    try:
        for line in filter_lines(iter(sys.stdin.buffer.readline, b"")):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    except (OSError, KeyboardInterrupt):  # nobody reads any more
        pass


if __name__ == "__main__":
    main()
