"""What an evaluation measures, settled before anything is lifted: frames, the job, aggregations and their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES, CENTRE, SPREAD, check_aggregates
from diffpose_jax.evaluation.distributions import OUTPUTS
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.evaluation.window_cameras import has_cameras
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.workdir.trained import Trained


class Prepared(NamedTuple):
    """An evaluation that is ready to be run.

    Attributes:
        measured: The frames and the protocol.
        job: How they are lifted, with all outputs that are needed.
        chosen: The aggregations that get rows.
        notes: Notes for the report.
        described: Protocol, data and setting, as results name them.
    """

    measured: Measured
    job: Job
    chosen: tuple[str, ...]
    notes: list[str]
    described: Mapping[str, Any]


def choose_aggregations(
    names: Sequence[str] | None, lifter: Lifter, clips: ClipSet
) -> tuple[tuple[str, ...], list[str]]:
    """The aggregations to report, by default all that the lifter and the data allow, and notes on those left out."""
    names = tuple(names or (AGGREGATES if lifter.stochastic else ("first",)))
    check_aggregates(names)
    kept = tuple(name for name in names if has_cameras(clips) or not AGGREGATES[name].needs_camera)
    if not kept:
        raise UserError(f"aggregation {', '.join(names)}: expected data with known cameras, found none")
    left_out = [name for name in names if name not in kept]
    return kept, [f"aggregation {name} left out: the cameras of this data are not known" for name in left_out]


def needed_outputs(chosen: Sequence[str], trained: Trained, hypotheses: int) -> tuple[str, ...]:
    """The aggregations, and what rows of distributions and conformal regions need."""
    more: tuple[str, ...] = OUTPUTS if hypotheses > 1 else ()
    calibration = trained.calibration
    if calibration is not None and calibration.regions is not None and (more or not trained.lifter.stochastic):
        more = (*more, SPREAD, CENTRE)
    return tuple(dict.fromkeys((*chosen, *more)))
