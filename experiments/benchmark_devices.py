"""Training with one, two and more devices: each number in a process of its own, which sees no others."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from timing import Report, Row

from diffpose_jax.errors import UserError

_MEMORY = "XLA_PYTHON_CLIENT_PREALLOCATE"


def leave_memory() -> None:
    """Keeps this process from taking a GPU's memory, which the others need; before JAX finds its devices."""
    os.environ[_MEMORY] = "false"


def sweep_devices(counts: Sequence[int], argv: Sequence[str], output: Path, report: Report) -> None:
    """Runs the benchmark of training with so many devices each and reports its figures.

    The batch is the same, shared by the devices. The files of each lie in OUTPUT/devices_N.

    Args:
        counts: How many devices.
        argv: The arguments of this benchmark.
        output: Where its results go.
        report: Takes each figure.

    Raises:
        UserError: A process that fails.
    """
    program = Path(__file__).with_name("benchmark.py")
    for count in counts:
        folder = output / f"devices_{count}"
        command = [sys.executable, str(program), *_select_arguments(argv), "--output", str(folder)]
        if subprocess.run(command, env=_make_environment(count), stdout=subprocess.DEVNULL, check=False).returncode:
            raise UserError(f"--sweep devices={count}: the benchmark with so many devices failed, see above")
        for figure in json.loads((folder / "benchmark.json").read_text())["figures"]:
            row = Row(**{name: figure[name] for name in Row._fields})
            lifter, size, shape = row.case.split(", ", 2)
            report(row._replace(case=f"{lifter}, {size}, devices {count}, {shape}", swept=count))


def _select_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments without those that are of this process alone."""
    own = argparse.ArgumentParser(add_help=False)
    for name in ("--sweep", "--output", "--check", "--baseline"):
        own.add_argument(name)
    return own.parse_known_args(argv)[1]


def _make_environment(count: int) -> dict[str, str]:
    """The environment of a process with so many devices: of the processor, XLA's host devices; else the first GPUs."""
    environment = {name: value for name, value in os.environ.items() if name != _MEMORY}
    if jax.default_backend() == "cpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
        # With fewer threads than devices their collective operations would wait for each other for ever.
        return environment | {"XLA_FLAGS": flags, "NPROC": str(max(2 * count, os.cpu_count() or 1))}
    known = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(one) for one in range(jax.local_device_count()))
    return environment | {"CUDA_VISIBLE_DEVICES": ",".join(known.split(",")[:count])}
