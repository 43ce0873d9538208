"""Comparisons of a job: paired differences of two sides on the same frames, with bootstrap intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.intervals import subject_interval
from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.scores import SCORES
from diffpose_jax.grid.checks import Planned
from diffpose_jax.grid.units import DISTRIBUTION, FIELDS, Comparison

# What a supervised lifter has none of.
_DRAWN = ("hypotheses", "steps", "noise", "seed", "aggregation")

Values = Callable[[str], Mapping[str, np.ndarray]]


class Row(NamedTuple):
    """An aggregation of a unit, as comparisons and tables see it.

    Attributes:
        name: The unit's name.
        fields: Values of `FIELDS`.
        stochastic: Whether the lifter draws hypotheses.
    """

    name: str
    fields: dict[str, Any]
    stochastic: bool


class _Pair(NamedTuple):
    """Rows of both sides that differ in nothing but what the comparison names, and in seeds."""

    shared: dict[str, Any]
    first: list[Row]
    second: list[Row]


def describe_row(unit: Mapping[str, Any], aggregation: str) -> dict[str, Any]:
    """The `FIELDS` of an aggregation of a unit, whose description is given."""
    return {name: aggregation if name == "aggregation" else unit[name] for name in FIELDS}


def check_comparisons(comparisons: Iterable[Comparison], planned: Sequence[Planned]) -> None:
    """Raises UserError for a comparison of which one side is no unit of the job."""
    for comparison in comparisons:
        for side in (comparison.first, comparison.second):
            wanted = _read_side(side)
            fits = (
                all(_equal(one.unit.describe()[name], value) for name, value in wanted.items()
                    if name != "aggregation" and not (name in _DRAWN and not one.stochastic))
                and ("aggregation" not in wanted or not one.stochastic or one.unit.aggregations is None
                     or wanted["aggregation"] in one.unit.aggregations)
                for one in planned
            )  # fmt: skip
            if not any(fits):
                named = ", ".join(f"{name} {value}" for name, value in side.items())
                raise UserError(f"comparison: expected a side that units of the job are on, found {named}")


def compare(comparison: Comparison, rows: Sequence[Row], read_values: Values) -> list[dict[str, Any]]:
    """The paired differences of a comparison, first minus second: one for each setting that both sides share.

    Args:
        comparison: The comparison.
        rows: The rows of all units that are done.
        read_values: Reads the values of every frame of a unit.
    """
    distribution = comparison.metric in SCORES and comparison.metric not in METRICS
    first, second = (_find_side(one, rows, distribution) for one in (comparison.first, comparison.second))
    named = {*comparison.first, *comparison.second, "seed"} | ({"aggregation"} if distribution else set())
    found = []
    for pair in _pair_rows(first, second, [name for name in FIELDS if name not in named]):
        both = [
            _average_seeds(side, comparison.metric, distribution, read_values) for side in (pair.first, pair.second)
        ]
        found.append(_describe(comparison, pair, both))
    return found


def _read_side(side: Mapping[str, Any]) -> dict[str, Any]:
    return {name: 0.0 if (name, value) == ("input", "exact") else value for name, value in side.items()}


def _equal(value: Any, wanted: Any) -> bool:
    return (value is None) == (wanted is None) and value == wanted


def _find_side(side: Mapping[str, Any], rows: Sequence[Row], distribution: bool) -> list[Row]:
    wanted = _read_side(side)
    if distribution:  # the score is that of the unit, whatever its rows are
        wanted.pop("aggregation", None)
        rows = list({row.name: row for row in reversed(rows)}.values())[::-1]
    return [
        row
        for row in rows
        if all(_equal(row.fields[name], value) or (name in _DRAWN and not row.stochastic)
               for name, value in wanted.items())
    ]  # fmt: skip


def _pair_rows(first: Sequence[Row], second: Sequence[Row], shared: Sequence[str]) -> list[_Pair]:
    """Groups of rows that agree in the shared fields; a supervised lifter agrees in those that it does not have."""
    pairs: dict[tuple, _Pair] = {}
    for one in first:
        for other in second:
            both = one.stochastic and other.stochastic
            if any(one.fields[name] != other.fields[name] for name in shared if both or name not in _DRAWN):
                continue
            leader = one if one.stochastic else other
            key = tuple(leader.fields[name] for name in shared)
            pair = pairs.setdefault(key, _Pair(dict(zip(shared, key, strict=True)), [], []))
            for row, side in ((one, pair.first), (other, pair.second)):
                if row not in side:
                    side.append(row)
    return list(pairs.values())


def _average_seeds(
    rows: Sequence[Row], metric: str, distribution: bool, read_values: Values
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """Frames, subjects and values `[M]` of a side, averaged over its seeds; or why there are none."""
    for name in FIELDS:
        several = {row.fields[name] for row in rows}
        if len(several) > 1 and name != "seed" and not (distribution and name == "aggregation"):
            return f"one side has several values of {name}: {', '.join(map(str, several))}; name one"
    found = []
    for row in rows:
        values = read_values(row.name)
        name = f"{DISTRIBUTION if distribution else row.fields['aggregation']}/{metric}"
        if name not in values:
            return f"{row.name} has no {metric}"
        found.append((values["frame"], values["subject"], np.asarray(values[name], np.float64)))
    if any(not np.array_equal(found[0][0], one[0]) for one in found):
        return "seeds measure other frames"
    return found[0][0], found[0][1], np.mean([one[2] for one in found], axis=0)


def _describe(comparison: Comparison, pair: _Pair, both: Sequence[Any]) -> dict[str, Any]:
    scale = (METRICS.get(comparison.metric) or SCORES[comparison.metric]).scale
    found: dict[str, Any] = {
        "title": comparison.describe(),
        "metric": comparison.metric,
        "shared": pair.shared,
        "units": {"first": [row.name for row in pair.first], "second": [row.name for row in pair.second]},
    }
    for side in both:
        if isinstance(side, str):
            return {**found, "left_out": side}
    (frames, subjects, first), (others, _, second) = both
    if not np.array_equal(frames, others):
        return {**found, "left_out": "the sides measure different frames"}
    difference = scale * (first - second)
    known = ~np.isnan(difference)
    if not known.any():
        return {**found, "left_out": f"no frame has {comparison.metric}"}
    interval = subject_interval(difference, list(subjects))
    return {
        **found,
        "first": float(np.mean(scale * first[known])),
        "second": float(np.mean(scale * second[known])),
        "difference": float(np.mean(difference[known])),
        "interval": None if interval is None else list(interval),
        "frames": int(known.sum()),
        "subjects": len(np.unique(subjects[known])),
    }
