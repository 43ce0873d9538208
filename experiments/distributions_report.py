"""The tables of `distributions.py`, of the figures that it keeps beside trained models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.data.clip import VISIBILITY
from diffpose_jax.evaluation.intervals import format_interval, subject_interval

_COLUMNS = {
    "mpjpe": "mean of 20",
    "energy_score": "energy score",
    "crps": "CRPS",
    "limb_length_error": "limb lengths",
    "limb_direction_distance": "limb directions",
    "best_at_equal_spread": "best at 50 mm",
    "spread": "spread",
}
_WITH_INTERVAL = "energy_score"
_LEVELS = ("0.5", "0.9")

Rows = dict[str, dict[str, Mapping[str, Any]]]


def format_tables(output: Path, row_to_beat: str) -> str:
    """All tables: scores and coverage, differences of energy scores, intervals of coverage.

    Args:
        output: The folder with work directories NAME-SEED and a `distributions.json` in each.
        row_to_beat: The name of the row whose energy score the differences are to.
    """
    seeds: Rows = {}
    for path in sorted(output.glob("*/distributions.json")):
        rows = seeds.setdefault(path.parent.name.rpartition("-")[2], {})
        rows |= {row["name"]: row for row in json.loads(path.read_text())}
    return "\n".join([_format_scores(seeds), _format_differences(seeds, row_to_beat), _format_coverages(seeds)])


def _format_scores(seeds: Rows) -> str:
    """Mean and standard deviation over seeds of every row; the interval over subjects is of the first seed."""
    lines = _begin("", *_COLUMNS.values(), *VISIBILITY)
    for name in dict.fromkeys(name for rows in seeds.values() for name in rows):
        found = [rows[name] for rows in seeds.values() if name in rows]
        cells = [_format_score(found, column) for column in _COLUMNS]
        for kind in VISIBILITY:
            known = [row["coverage"][kind] for row in found if kind in row["coverage"]]
            shares = [np.mean([share[level] for share in known]) for level in _LEVELS] if known else []
            cells.append(" / ".join(f"{100 * share:.0f}" for share in shares))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _format_score(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    values = [row["scores"][column] for row in rows]
    if any(value is None for value in values):
        return ""
    std = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    interval = rows[0]["scores_interval"].get(column) if column == _WITH_INTERVAL else None
    return f"{np.mean(values):.1f}{std}{format_interval(interval, 0)}"


def _format_differences(seeds: Rows, row_to_beat: str) -> str:
    """Energy score of each method minus that of the Gaussians, of every seed, with the first one's interval."""
    lines = _begin("energy score, mm, minus that of", "the Gaussian of its own mean", "the residual MLP's Gaussian")
    for name in seeds["0"]:
        others = (f"{name}: Gaussian of that mean, joints together", row_to_beat)
        if not all(other in seeds["0"] for other in others):
            continue
        cells = []
        for other in others:
            found = [_difference(rows[name], rows[other]) for rows in seeds.values() if {name, other} <= rows.keys()]
            means = [f"{difference.mean():.1f}" for difference in found]
            # The interval of the first seed alone: those over the same eight subjects differ little.
            interval = subject_interval(found[0][:, None], seeds["0"][name]["subjects"])
            cells.append("; ".join([means[0] + format_interval(interval), *means[1:]]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(row: Mapping[str, Any], other: Mapping[str, Any]) -> np.ndarray:
    return np.array(row["energy"]) - np.array(other["energy"])


def _format_coverages(seeds: Rows) -> str:
    """Coverage of the hypotheses of every method, of the first seed, with its interval."""
    lines = _begin("50 / 90 % regions hold, %", *VISIBILITY)
    for name, row in seeds["0"].items():
        if f"{name}: Gaussian of that mean, joints together" in seeds["0"]:
            lines.append(f"| {name} | " + " | ".join(_format_coverage(row, kind) for kind in VISIBILITY) + " |")
    return "\n".join(lines) + "\n"


def _format_coverage(row: Mapping[str, Any], kind: str) -> str:
    cells = []
    for level in _LEVELS if kind in row["coverage"] else ():
        ends = row["coverage_interval"][kind][level]
        interval = None if ends is None else [100 * end for end in ends]
        cells.append(f"{100 * row['coverage'][kind][level]:.0f}{format_interval(interval, 0)}")
    return " / ".join(cells)


def _begin(*head: str) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
