"""From a keypoint file to a page in a process of its own: the first start of an installation, and the second one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import Report, Row

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "experiments" / "data" / "wave.json"


def benchmark_starts(report: Report, model: str = "frame") -> None:
    """Seconds of `diffpose lift` on the sample clip with a released model, until its files are written.

    The first start compiles everything, the second finds it on disk; the difference is the compilation of the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in ("first", "second"):
            command = [sys.executable, "-m", "diffpose_jax", "lift", str(SAMPLE), "--pretrained", model]
            rows.append(_run([*command, "--output", f"{folder}/{name}"], f"{folder}/cache", f"lift, {name} start"))
        compiling = rows[0].seconds[0] - rows[1].seconds[0]
        report(rows[0]._replace(compile_seconds=max(0.0, compiling)))
        report(rows[1])


def _run(command: list[str], cache: str, case: str) -> Row:
    environment = {**os.environ, "DIFFPOSE_JAX_CACHE": cache, "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begin, before = time.perf_counter(), _children()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = _children()
    wall, cpu = time.perf_counter() - begin, sum(after[:2]) - sum(before[:2])
    # The largest of all children so far, in KiB: the second start may be smaller than it says.
    return Row("start", case, "starts", 1, [wall], cpu_seconds=[cpu], memory=1024 * after[2])


def _children() -> tuple[float, float, int]:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime, usage.ru_stime, usage.ru_maxrss
