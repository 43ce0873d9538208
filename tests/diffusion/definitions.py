"""Betas by their definitions in float64, for tests to compare with."""

from __future__ import annotations

import numpy as np


def defined_betas(name: str, steps: int) -> np.ndarray:
    """The betas `[K]` of a schedule with its default options."""
    if name == "cosine":
        cumulative = [np.cos((i / steps + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(steps + 1)]
        return np.array([min(1 - cumulative[i + 1] / cumulative[i], 0.999) for i in range(steps)])
    if name == "linear":
        return np.linspace(1e-4, 0.02, steps)
    return np.linspace(np.sqrt(1e-4), np.sqrt(0.5), steps) ** 2
