"""Takes the entries of a torch state_dict, already parsed into numpy arrays, one by one and without leftovers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError

Variables = dict[str, Any]


class StateDict:
    """The entries of a state_dict, each to be taken exactly once.

    A 'module.' prefix (of torch's DataParallel) and the counters `num_batches_tracked` are dropped.
    """

    def __init__(self, entries: Mapping[str, np.ndarray]) -> None:
        named = {key.removeprefix("module."): np.asarray(value) for key, value in entries.items()}
        self._entries = {key: value for key, value in named.items() if not key.endswith("num_batches_tracked")}
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def count(self, pattern: str) -> int:
        """Counts the keys `pattern.format(0)`, `pattern.format(1)`, ... up to the first that is missing."""
        return next(index for index in itertools.count() if pattern.format(index) not in self._entries)

    def take(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Takes the entry `key` as float32; None in `shape` stands for any size.

        Raises UserError where the entry is missing or has another shape.
        """
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
        """Raises UserError where an entry was not taken."""
        left = sorted(set(self._entries) - self._taken)
        if left:
            raise UserError(f"state_dict: {len(left)} entries not understood, the first is '{left[0]}'")
