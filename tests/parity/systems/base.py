"""What a parity adapter is, and how near its numbers must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class System(NamedTuple):
    """How a vector's outputs are computed from the vector, and how near they must be."""

    adapter: Callable[[Any], dict[str, np.ndarray]]
    absolute: float = 1e-5
    relative: float = 1e-6
