"""Reading a torch state_dict, already parsed into numpy arrays, entry by entry and without leftovers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError

Variables = dict[str, Any]


class StateDict:
    """The entries of a state_dict, each to be taken exactly once.

    A 'module.' prefix (of torch's DataParallel) and the counters `num_batches_tracked` are dropped. `take` names a
    missing entry or a wrong shape in a UserError; `finish` names entries that nobody took.
    """

    def __init__(self, entries: Mapping[str, np.ndarray]) -> None:
        named = {key.removeprefix("module."): np.asarray(value) for key, value in entries.items()}
        self._entries = {key: value for key, value in named.items() if not key.endswith("num_batches_tracked")}
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def count(self, pattern: str) -> int:
        """Return how many of the keys `pattern.format(0)`, `pattern.format(1)`, ... are there without a gap."""
        number = 0
        while pattern.format(number) in self._entries:
            number += 1
        return number

    def take(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Return entry `key` as float32; None in `shape` stands for any size."""
        if key not in self._entries:
            raise UserError(f"state_dict: entry '{key}' is missing (found {len(self._entries)} other entries)")
        value = self._entries[key]
        fits = len(shape) == value.ndim and all(
            size in (None, found) for size, found in zip(shape, value.shape, strict=True)
        )
        if not fits:
            expected = tuple("any" if size is None else size for size in shape)
            raise UserError(f"state_dict: entry '{key}': expected shape {expected}, found {value.shape}")
        self._taken.add(key)
        return value.astype(np.float32)

    def finish(self) -> None:
        """Raise a UserError if an entry was not taken."""
        left = sorted(set(self._entries) - self._taken)
        if left:
            raise UserError(f"state_dict: {len(left)} entries not understood, the first is '{left[0]}'")
