"""The log of a training run: averages of metrics, written to `metrics.jsonl` and as TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.utils import figure_to_image

from diffpose_jax.errors import UserError
from diffpose_jax.whole_files import write_text

_FIGURE_SECONDS = 20.0  # between two figures, so that drawing takes about a hundredth of the time


class MetricsLog:
    """Appends metrics to `metrics.jsonl` and to TensorBoard, and drops what an earlier run wrote beyond `first_step`.

    Args:
        workdir: The work directory.
        first_step: The step that the run starts from.
        enabled: False writes nothing, for all processes but the first.
    """

    def __init__(self, workdir: str | os.PathLike, first_step: int, *, enabled: bool = True):
        self._enabled = enabled
        if not enabled:
            return
        self._path = Path(workdir) / "metrics.jsonl"
        self._drop_after(first_step)
        self._file = open(self._path, "a")  # noqa: SIM115 (closed by close)
        self._drawn = -np.inf
        folder = Path(workdir) / "tensorboard"
        with self._named_errors():
            folder.mkdir(exist_ok=True)
            # Not tensorboardX's SummaryWriter, whose thread prints tracebacks where a disk is full.
            self._events = EventsWriter(str(folder / "events"))
            # TensorBoard hides what an earlier run wrote from this step on.
            self._write_event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        lines, strange = self._path.read_bytes().splitlines(), 0
        for number, line in enumerate(lines, 1):
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line.decode() + "\n")
            except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                # The last line may be that of a run that was killed while writing it.
                strange += number < len(lines)
        if strange:
            logging.warning("%s: %d lines are no metrics and are left out", self._path, strange)
        write_text(self._path, "".join(kept))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line, with the time in seconds since 1970, and one event per metric."""
        if not self._enabled:
            return
        with self._named_errors():
            self._file.write(json.dumps({"step": step, "time": round(time.time(), 1), **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._write_event(Event(step=step, summary=summary.scalar(name, value)))
            self._events.flush()

    def draw(self, step: int, name: str, draw: Callable[[int], Figure]) -> None:
        """Writes the figure that `draw` gives of the step to TensorBoard, if the last one is some time ago."""
        if self._enabled and time.monotonic() - self._drawn > _FIGURE_SECONDS:
            with self._named_errors():
                self._write_event(Event(step=step, summary=summary.image(name, figure_to_image(draw(step)))))
                self._events.flush()
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Closes the files, to which everything is flushed when it is written."""
        if not self._enabled:
            return
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):  # what could not be written has ended the run
                file.close()

    def _write_event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self._path.parent}: metrics cannot be written: {error.strerror or error}") from error


class MetricAverages:
    """Averages of the metrics of dispatches, and rates, since they were last read.

    Args:
        poses_per_step: Poses in a global batch.
        step: The step that the run starts from.
    """

    def __init__(self, poses_per_step: int, step: int):
        self._poses_per_step = poses_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Forgets what was added and starts the clock."""
        self._pending: list[dict[str, jax.Array]] = []
        self._step, self._time = step, time.monotonic()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of one dispatch, which may still be running."""
        self._pending.append(metrics)
        # With many dispatches in flight, virtual CPU devices can wait for each other for ever: each needs a thread.
        if jax.default_backend() == "cpu":
            jax.block_until_ready(metrics)

    def read(self, step: int) -> dict[str, float]:
        """The averages over the steps that were not skipped, steps/s and poses/s."""
        kept = [one for one in self._pending if np.isfinite(one["loss"])] or self._pending
        values = {name: float(np.mean([one[name] for one in kept])) for name in kept[0]}
        rate = (step - self._step) / max(time.monotonic() - self._time, 1e-9)
        self.restart(step)
        return {**values, "steps_per_second": rate, "poses_per_second": rate * self._poses_per_step}
