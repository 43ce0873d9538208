"""Where the recorded numbers of the published releases are read from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def parity() -> Callable[[str], dict[str, np.ndarray]]:
    """Read a parity file by name, from DIFFPOSE_PARITY_DIR or the copies beside the tests."""
    folder = Path(os.environ.get("DIFFPOSE_PARITY_DIR", Path(__file__).parents[1] / "parity" / "data"))

    def read(name: str) -> dict[str, np.ndarray]:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in {folder}")
        with np.load(folder / name, allow_pickle=False) as file:
            return dict(file)

    return read
