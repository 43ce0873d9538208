"""What the parts of the benchmark share: figures, and calls that are timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Seconds(NamedTuple):
    """What calls took: by the clock, and of processor time of this process over all its threads."""

    wall: float
    cpu: float


class Row(NamedTuple):
    """One figure.

    Attributes:
        section: The part of the benchmark.
        case: What was run.
        unit: What one call makes several of.
        work: How many of them one call makes.
        seconds: Of every call, by the clock.
        compile_seconds: Of compilation.
        ratio: This rate over that of the reference beside it, one per turn.
        cpu_seconds: Of every call, processor time.
        flops: Of the matrix products of one call: of all devices where processor time counts, else of one.
        traffic: Bytes of their operands and results.
        peak: Rate of a large matrix product beside it, FLOP/s in the time of `counted_seconds`.
        bandwidth: Rate of a large copy beside it, bytes/s likewise.
        memory: Bytes that the compiled program needs: arguments, outputs and what is between.
        swept: The value of the key that is swept.
    """

    section: str
    case: str
    unit: str
    work: int
    seconds: list[float]
    compile_seconds: float | None = None
    ratio: list[float] | None = None
    cpu_seconds: list[float] | None = None
    flops: float | None = None
    traffic: float | None = None
    peak: float | None = None
    bandwidth: float | None = None
    memory: int | None = None
    swept: float | None = None

    def rates(self) -> tuple[float, float, float]:
        """Median, lowest and highest amount of work per second."""
        return tuple(float(self.work / at) for at in (np.median(self.seconds), max(self.seconds), min(self.seconds)))

    def counted_seconds(self) -> list[float]:
        """The seconds of every call that count: of the processor where it computes, else by the clock."""
        return self.cpu_seconds if self.cpu_seconds and counts_cpu_time() else self.seconds

    def share_of_peak(self) -> float | None:
        """The FLOPs per second of the fastest half of the calls over those of a large matrix product."""
        return self.flops_per_second() / self.peak if self.flops and self.peak else None

    def flops_per_second(self) -> float:
        """The FLOPs per second of the fastest half of the calls."""
        return (self.flops or 0.0) / float(np.quantile(self.counted_seconds(), 0.25))


Report = Callable[[Row], None]


def counts_cpu_time() -> bool:
    """Whether processor time says what a call costs: where the processor computes, on a machine that others use too."""
    return jax.default_backend() == "cpu"


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, once it is there, and the seconds it took."""
    result, seconds = clocked(call)
    return result, seconds.wall


def clocked(call: Callable[[], Any]) -> tuple[Any, Seconds]:
    """The result of a call, once it is there, and its seconds by both clocks."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return result, Seconds(time.perf_counter() - begin, time.process_time() - begin_cpu)


def repeated(call: Callable[[], Any], repeats: int, budget: float = 20.0) -> list[Seconds]:
    """Seconds of `repeats` calls after one that is not counted; of a slow call at least two, within the budget."""
    timed(call)
    seconds: list[Seconds] = []
    while len(seconds) < min(2, repeats) or (len(seconds) < repeats and sum(one.wall for one in seconds) < budget):
        seconds.append(clocked(call)[1])
    return seconds


def both_clocks(seconds: list[Seconds]) -> dict[str, list[float]]:
    """The fields of a row that calls fill in."""
    return {"seconds": [one.wall for one in seconds], "cpu_seconds": [one.cpu for one in seconds]}


def interleaved(calls: dict[str, Callable[[], Any]], turns: int, calls_per_turn: int = 1) -> dict[str, np.ndarray]:
    """Seconds `[turns, calls_per_turn, 2]` of some calls that take turns, so that all see the same machine.

    The last axis is by the clock and of the processor. One call before each turn is not counted: it finds the memory as
    the other one left it.
    """
    seconds = {name: np.zeros((turns, calls_per_turn, 2)) for name in calls}
    for turn in range(turns):
        for name, call in calls.items():
            timed(call)
            seconds[name][turn] = [clocked(call)[1] for _ in range(calls_per_turn)]
    return seconds


def turn_clocks(seconds: np.ndarray) -> dict[str, list[float]]:
    """The fields of a row that calls in turns fill in, of their seconds `[turns, calls, 2]`."""
    return {"seconds": seconds[..., 0].ravel().tolist(), "cpu_seconds": seconds[..., 1].ravel().tolist()}
