"""What a run leaves to read: `metrics.jsonl` and TensorBoard events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricsLog:
    """Appends metrics to `metrics.jsonl` and to TensorBoard; a continued run first drops what lies beyond its step.

    Does nothing where `enabled` is False: in all processes but the first.
    """

    def __init__(self, workdir: str | os.PathLike, first_step: int, *, enabled: bool = True):
        self._enabled = enabled
        if not enabled:
            return
        self._path = Path(workdir) / "metrics.jsonl"
        self._drop_after(first_step)
        self._file = open(self._path, "a")  # noqa: SIM115 (closed by close)
        self._events = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=first_step + 1)

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):  # the last line of a run that was killed while writing it
                continue
        part = self._path.with_suffix(".part")
        part.write_text("".join(kept))
        part.replace(self._path)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line and one event per metric."""
        if not self._enabled:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes everything to disk."""
        if not self._enabled:
            return
        self._file.close()
        self._events.close()
