"""Any program beside ours, in turns: `--reference CMD`.

For every turn of every case of `train` and `sample` the command is run anew, with the case in the environment:
BENCHMARK_SECTION, BENCHMARK_CASE (as in the table), BENCHMARK_WORK (what one call of ours makes: frames, poses),
BENCHMARK_WINDOWS (of a batch), BENCHMARK_STEPS (training steps of one call; 1 where samples are drawn) and
BENCHMARK_CONFIG (the config in JSON). It builds the same network with the same batch, makes one call that does not
count, times some calls, and prints one JSON line as its last:

    {"calls": 5, "seconds": 1.93, "cpu_seconds": 1.91}

`seconds` are by the clock and `cpu_seconds` of the processor, for all calls together; without the latter the former
stands for both. `{"calls": 0}` says that the program does not have the case. Threads are the caller's to pin, the same
on both sides (`taskset -c 0 python experiments/benchmark.py ...` holds for the command too).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import NamedTuple

from timing import Seconds

from diffpose_jax.errors import UserError


class Asked(NamedTuple):
    """What a reference is asked for; see above."""

    section: str
    case: str
    work: int
    windows: int
    steps: int
    config: str

    def environment(self) -> dict[str, str]:
        """The variables that say it."""
        return {f"BENCHMARK_{name.upper()}": str(value) for name, value in self._asdict().items()}


class Reference(NamedTuple):
    """A command that measures another program; empty for none."""

    command: str = ""

    def run(self, asked: Asked) -> Seconds | None:
        """The seconds of one call of the reference, None where it does not have the case.

        Raises UserError where it fails or does not print what it should.
        """
        told = {**os.environ, **asked.environment()}
        try:
            done = subprocess.run(shlex.split(self.command), env=told, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
            raise UserError(f"--reference {self.command}: expected exit code 0, found: {said}") from error
        last = (done.stdout.strip().splitlines() or [""])[-1]
        try:
            found = json.loads(last)
            calls = int(found["calls"])
            if calls == 0:
                return None
            wall = float(found["seconds"]) / calls
            return Seconds(wall, float(found.get("cpu_seconds", found["seconds"])) / calls)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'--reference {self.command}: expected a last line {{"calls": ..., "seconds": ...}}, found {last!r}'
            ) from error
