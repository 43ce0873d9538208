"""What a call spends its time on, by JAX's own profiler: no TensorBoard, no TensorFlow."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

# What waits for others or holds them: their time is counted where it is spent.
_HOLDERS = re.compile(r"^(\$|while|call|conditional|Thunk|Threadpool|Pjit|Pjrt|Executable|.*::|end: )", re.IGNORECASE)


def largest_costs(call: Callable[[], Any], count: int = 3) -> list[tuple[str, float]]:
    """The kinds of operations that a call spends most time in, and their shares of the time in all operations.

    Operations are those of the compiled program, on an accelerator its kernels, without the numbers of their names.
    """
    jax.block_until_ready(call())  # compiled before, not while it is recorded
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        spent = Counter[str]()
        for path in Path(folder).rglob("*.xplane.pb"):
            for name, duration in _operations(jax.profiler.ProfileData.from_file(str(path))):
                spent[name] += duration
    total = sum(spent.values())
    return [(name, duration / total) for name, duration in spent.most_common(count)]


def _operations(profile: Any) -> Iterator[tuple[str, float]]:
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:") and any(True for _ in plane.lines)]
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            # Lines of a device with derived summaries would count everything twice.
            if line.name in ("Steps", "XLA Modules", "Framework Ops", "Framework Name Scope", "Source code"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                if (devices or "hlo_op" in stats) and not _HOLDERS.match(event.name):
                    yield re.sub(r"([._]\d+|\.clone|\.remat\d*)+$", "", event.name), event.duration_ns
