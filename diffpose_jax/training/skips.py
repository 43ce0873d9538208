"""Steps whose loss or gradient is not finite: the compiled step does nothing then, and here they are counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.shuffling import permute_index
from diffpose_jax.data.windows import Windows
from diffpose_jax.errors import UserError
from diffpose_jax.sections import TrainingOptions

ADVICE = "try a smaller --config.training.learning_rate or --config.training.clip_norm=1 in the same --workdir"


class Skips(NamedTuple):
    """What a dispatch of S steps says of those it skipped, int32 scalars on the device.

    Attributes:
        total: How many.
        last: How many at its end, one after the other.
        first: The index of the first, S where there is none.
    """

    total: jax.Array
    last: jax.Array
    first: jax.Array


def count_skips(finite: jax.Array) -> Skips:
    """The counts of a dispatch from whether loss and gradient of its steps were finite, `[S]` bool."""
    steps = len(finite)
    order = jnp.arange(steps, dtype=jnp.int32)
    # What follows the last finite step; all S steps where none was.
    last = steps - 1 - jnp.max(jnp.where(finite, order, -1))
    first = jnp.min(jnp.where(finite, steps, order))
    return Skips(*(part.astype(jnp.int32) for part in (jnp.sum(~finite), last, first)))


def mean_of_finite(values: jax.Array, finite: jax.Array) -> jax.Array:
    """The mean of a metric `[S]` over the steps that were not skipped; over all of them where none was, NaN for all."""
    kept = jnp.sum(jnp.where(finite, values, jnp.zeros_like(values))) / jnp.sum(finite.astype(values.dtype))
    return jnp.where(finite.all(), jnp.mean(values), kept)


class BatchOrder(NamedTuple):
    """The training split and the order of its windows, to name the clips of a batch."""

    clips: ClipSet
    windows: Windows
    seed: int

    def name_extreme_clip(self, epoch: np.ndarray, position: np.ndarray) -> str:
        """The clip with the largest values among those of a batch's examples `[B]`."""
        count = len(self.windows.start)
        ids = permute_index(jnp.asarray(position), jnp.asarray(epoch), count, self.seed)
        frames = np.asarray(self.windows.low)[np.asarray(ids)]
        found = np.unique(np.searchsorted(self.clips.clip_start, frames, side="right") - 1)
        largest = [self._largest(clip) for clip in found]
        clip = int(found[int(np.argmax(largest))])
        name = f"{self.clips.subject[clip]} {self.clips.action[clip]}"
        return f"clip {name!r} has the largest values of its batch, up to {max(largest):.3g}"

    def _largest(self, clip: int) -> float:
        start = self.clips.clip_start[clip]
        frames = slice(start, start + self.clips.clip_length[clip])
        arrays = (self.clips.keypoints, self.clips.poses)
        return max(float(np.abs(array[frames]).max()) for array in arrays if array is not None)


class SkippedSteps:
    """Counts the skipped steps of a run, and ends it where they do not stop.

    What a dispatch says is read after the next one was given to the device, which therefore never waits.

    Args:
        training: What is done with such steps.
        order: To name the clips of a batch.
    """

    def __init__(self, training: TrainingOptions, order: BatchOrder):
        self._training, self._order = training, order
        self._pending: tuple[int, Skips, Mapping[str, np.ndarray]] | None = None
        self.total, self.in_a_row = 0, 0

    def add(self, done: int, skips: Skips, epoch: np.ndarray, position: np.ndarray) -> None:
        """Takes what the dispatch that ended at step `done` says, and reads the one before.

        Args:
            done: The step that the dispatch ended at.
            skips: What it says of the steps that it skipped, scalars on the device.
            epoch: The epochs of its examples, `[S, B]`.
            position: Their places in these epochs, `[S, B]`.

        Raises:
            UserError: as `settle`.
        """
        self.settle()
        self._pending = done, skips, {"epoch": epoch, "position": position}

    def text(self) -> str:
        """How many were skipped, for a progress report; empty where none was."""
        return f", {self.total} steps skipped: not finite" if self.total else ""

    def settle(self) -> None:
        """Reads what is left to read. Raises `Diverged` where training must end."""
        if self._pending is None:
            return
        done, skips, examples = self._pending
        self._pending = None
        total, last, first = (int(part) for part in skips)
        steps = self._training.inner_steps
        self.total += total
        self.in_a_row = self.in_a_row + steps if last == steps else last
        if total and self._training.non_finite == "stop":
            clip = self._order.name_extreme_clip(**{name: part[first] for name, part in examples.items()})
            raise Diverged(done - steps + first + 1, done - steps + first, f"the loss or its gradient is not finite; "
                           f"{clip}")  # fmt: skip
        if self.in_a_row >= self._training.skips_in_a_row:
            reason = f"the loss or its gradient was not finite in {self.in_a_row} steps one after the other"
            raise Diverged(done, done - self.in_a_row, reason)


class Diverged(UserError):
    """Training cannot go on.

    Attributes:
        suspect: The step after which the state gave no finite loss: checkpoints from it on are of no use.
    """

    def __init__(self, step: int, suspect: int, reason: str):
        super().__init__(f"step {step}: {reason}; the last checkpoint with a finite loss is kept; {ADVICE}")
        self.suspect = suspect
