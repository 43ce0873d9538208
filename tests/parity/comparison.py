"""The outputs that this project computes for a recorded vector beside the recorded ones, without pytest."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from .systems.base import System
from .vectors import Vector


class Compared(NamedTuple):
    """An output as it was recorded and as it was found, and how near both must be.

    Attributes:
        name: Its name in the vector.
        expected: As recorded.
        found: As computed here.
        absolute: The difference that is allowed anywhere.
        relative: The difference that is allowed beside it, as a share of the recorded number.
    """

    name: str
    expected: np.ndarray
    found: np.ndarray
    absolute: float
    relative: float

    def share(self) -> float:
        """The largest difference as a share of what is allowed; infinite where the shapes differ."""
        if self.found.shape != self.expected.shape:
            return float("inf")
        allowed = self.absolute + self.relative * np.abs(self.expected.astype(np.float64))
        difference = np.abs(self.found.astype(np.float64) - self.expected.astype(np.float64))
        equal = (self.found == self.expected) | (np.isnan(self.found) & np.isnan(self.expected))
        shares = np.where(equal, 0.0, difference / allowed)
        return float(np.max(np.where(np.isnan(shares), np.inf, shares), initial=0.0))


def compute_outputs(vector: Vector, system: System) -> dict[str, np.ndarray]:
    """What the adapter of a system computes for a vector, with products of full float32 precision.

    GPUs and TPUs multiply float32 numbers with 10 or 8 bits of mantissa unless they are told otherwise, which is far
    from what the published code computed on a processor.
    """
    with jax.default_matmul_precision("highest"):
        return system.adapter(vector)


def compare_outputs(vector: Vector, system: System) -> list[Compared]:
    """Every recorded output beside the one computed here. Raises KeyError for an output that nobody computes."""
    found = compute_outputs(vector, system)
    tolerances = system.absolute, system.relative
    return [
        Compared(name, np.asarray(expected), np.asarray(found[name]), *tolerances)
        for name, expected in vector.outputs.items()
    ]
