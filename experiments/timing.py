"""What the parts of the benchmark share: figures, and calls that are timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Row(NamedTuple):
    """One figure: what was run, how much work one call is, the seconds of every call, and compilation in seconds."""

    section: str
    case: str
    unit: str
    work: int
    seconds: list[float]
    compile_seconds: float | None = None
    ratio: list[float] | None = None  # this rate over that of the reference beside it, one per turn

    def rates(self) -> tuple[float, float, float]:
        """Median, lowest and highest amount of work per second."""
        return tuple(float(self.work / at) for at in (np.median(self.seconds), max(self.seconds), min(self.seconds)))


Report = Callable[[Row], None]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, once it is there, and the seconds it took."""
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - begin


def repeated(call: Callable[[], Any], repeats: int, budget: float = 20.0) -> list[float]:
    """Seconds of `repeats` calls after one that is not counted; of a slow call at least two, within the budget."""
    timed(call)
    seconds: list[float] = []
    while len(seconds) < min(2, repeats) or (len(seconds) < repeats and sum(seconds) < budget):
        seconds.append(timed(call)[1])
    return seconds


def interleaved(calls: dict[str, Callable[[], Any]], turns: int, calls_per_turn: int = 1) -> dict[str, np.ndarray]:
    """Seconds `[turns, calls_per_turn]` of each of some calls that take turns, so that all see the same machine.

    One call before each turn is not counted: it finds the memory as the other one left it.
    """
    seconds = {name: np.zeros((turns, calls_per_turn)) for name in calls}
    for turn in range(turns):
        for name, call in calls.items():
            timed(call)
            seconds[name][turn] = [timed(call)[1] for _ in range(calls_per_turn)]
    return seconds
