"""Running a job file as one of any number of workers that share its output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from diffpose_jax.errors import UserError
from diffpose_jax.grid import sharing
from diffpose_jax.grid.checks import plan_job
from diffpose_jax.grid.comparing import check_comparisons
from diffpose_jax.grid.job_file import read_job
from diffpose_jax.grid.measuring import prepare_chunk
from diffpose_jax.grid.store import Store
from diffpose_jax.grid.summary import write_summary
from diffpose_jax.grid.worker import Worker

FAILED = 1


def run_job(
    path: str | os.PathLike,
    output: str | os.PathLike,
    *,
    only_check: bool = False,
    wait: bool = True,
    lease_seconds: float = 60.0,
    say: Callable[[str], None] = partial(print, flush=True),  # noqa: B008
) -> int:
    """Checks a job, works at its units until all are done, and writes the summary.

    The processes of a cluster are one worker: all have to call it, and process 0 alone writes and says something.

    Args:
        path: The job file.
        output: The folder that all workers of the job share.
        only_check: End after the checks, with the list of units.
        wait: Stay until other workers are done, and finish the units of those that died.
        lease_seconds: After how long without a sign a worker counts as dead.
        say: Called with lines for the user.

    Returns:
        The exit code: 0, or 1 where units failed.

    Raises:
        UserError: A mistake in the job, found before any work, or a folder that cannot be written.
    """
    job = read_job(path)
    planned = plan_job(job)
    check_comparisons(job.comparisons, planned)
    leading = jax.process_index() == 0
    if only_check and leading:
        say("\n".join([f"{len(planned)} units:", *(f"  {one.unit.name}  {one.unit.title}" for one in planned)]))
    if only_check:
        return 0
    if not lease_seconds > 0:
        raise UserError(f"--lease_seconds: expected more than 0, found {lease_seconds}")
    if not leading:
        return sharing.follow(planned, prepare_chunk)
    store = Store(output)
    say(f"{Path(path).name}: {len(planned)} units, {len(job.comparisons)} comparisons; results in {store.folder}")
    outcome = Worker(planned, store, say, wait, lease_seconds).run()
    summary = write_summary(store, planned, job.comparisons, outcome)
    for title, message in summary["failed"].items():
        say(f"failed: {title}: {message}")
    if summary["open"]:
        say(f"{len(summary['open'])} units are not finished: other workers have claimed them")
    if summary["other_results"]:
        say(f"results of units that are not in this job: {', '.join(summary['other_results'])}")
    if summary["commits"]:
        say(
            f"units were measured by different commits of the package, {', '.join(summary['commits'])}, and may not be "
            "comparable: delete the files of the older ones in units/ to measure them again"
        )
    say(f"{len(outcome.done)} of {len(planned)} units are done; summary: {store.folder / 'summary.md'}")
    code = FAILED if outcome.failed else 0
    sharing.end_job(code)
    return code
