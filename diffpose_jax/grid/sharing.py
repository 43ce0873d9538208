"""The processes of a cluster share every chunk of a job: process 0 works at the job and names chunks to the others.

Process 0 alone reads and writes the output folder, claims units and decides what is lifted. The others wait for the
name of a chunk, lift their part of its windows, and forget it. A process by itself shares nothing and waits for nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from diffpose_jax import parallel
from diffpose_jax.errors import UserError
from diffpose_jax.grid.checks import Planned

_WIDTH = 256  # bytes of a message, the same for all


def name_chunk(unit: str, chunk: int) -> None:
    """Tells the other processes which chunk of a unit is lifted now.

    Raises:
        UserError: One of them cannot lift it.
    """
    if jax.process_count() > 1:
        _send({"unit": unit, "chunk": chunk})
        _agree(True)


def stay_idle() -> None:
    """Tells the other processes that there is nothing to do for the moment: connections may not be silent for long."""
    if jax.process_count() > 1:
        _send({})


def end_job(code: int) -> None:
    """Tells the other processes that the job has ended, with an exit code."""
    if jax.process_count() > 1:
        _send({"end": code})


def follow(planned: Sequence[Planned], lift: Callable[[Planned, int], Callable[[], Any]]) -> int:
    """Lifts the chunks that process 0 names, until it says that the job has ended; returns the exit code.

    Args:
        planned: The units, the same as those of process 0.
        lift: Prepares a chunk of a unit, and returns what lifts it together with the other processes.
    """
    units = {one.unit.name: one for one in planned}
    while "end" not in (message := _receive()):
        if not message:
            continue
        try:
            ready = lift(units[message["unit"]], message["chunk"])
        except Exception as error:  # whatever it is, the others must not wait for this process
            print(f"process {jax.process_index()}: {type(error).__name__}: {error}", flush=True)
            ready = None
        try:
            _agree(ready is not None)
        except UserError:
            continue
        assert ready is not None
        ready()
    return int(message["end"])


def _agree(able: bool) -> None:
    """Raises UserError on all processes where one of them is not able."""
    shares = parallel.gather_from_processes(bool(able))
    unable = [str(index) for index, one in enumerate(shares) if not one]
    if unable:
        raise UserError(f"process {', '.join(unable)} of the cluster cannot lift it; what it printed says why")


def _send(message: Mapping[str, Any]) -> None:
    parallel.broadcast_bytes(json.dumps(message).encode().ljust(_WIDTH))


def _receive() -> dict[str, Any]:
    return json.loads(parallel.broadcast_bytes(bytes(_WIDTH)))
