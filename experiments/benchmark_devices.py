"""The benchmark with one, two and more devices: each number in a process of its own, which sees no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from timing import Report, Row

from diffpose_jax.errors import UserError


def sweep_devices(counts: Sequence[int], argv: Sequence[str], output: Path, report: Report) -> None:
    """Runs the benchmark with so many devices each and reports its figures; its files lie in OUTPUT/devices_N.

    Args:
        counts: How many devices.
        argv: The arguments of this benchmark.
        output: Where its results go.
        report: Takes each figure.

    Raises:
        UserError: A process that fails.
    """
    for count in counts:
        folder = output / f"devices_{count}"
        command = [sys.executable, sys.argv[0], *argv, "--sweep", "", "--output", str(folder)]
        if subprocess.run(command, env=_environment(count), stdout=subprocess.DEVNULL, check=False).returncode:
            raise UserError(f"--sweep devices={count}: the benchmark with so many devices failed, see above")
        for figure in json.loads((folder / "benchmark.json").read_text())["figures"]:
            row = Row(**{name: figure[name] for name in Row._fields})
            lifter, size, shape = row.case.split(", ", 2)
            report(row._replace(case=f"{lifter}, {size}, devices {count}, {shape}", swept=count))


def _environment(count: int) -> dict[str, str]:
    """The environment of a process with so many devices: of the processor, XLA's host devices; else the first GPUs."""
    if jax.default_backend() == "cpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
        return {**os.environ, "XLA_FLAGS": flags}
    known = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(one) for one in range(jax.local_device_count()))
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(known.split(",")[:count])}
