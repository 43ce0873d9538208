"""The summary of a job: one row for every aggregation of every unit, and the comparisons, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.intervals import format_interval
from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.scores import SCORES
from diffpose_jax.grid.checks import Planned
from diffpose_jax.grid.comparing import Row, compare, describe_row
from diffpose_jax.grid.store import OutputError, Store
from diffpose_jax.grid.units import FIELDS, Comparison
from diffpose_jax.grid.worker import Outcome
from diffpose_jax.provenance import describe_run
from diffpose_jax.records import write_record
from diffpose_jax.whole_files import write_text

_COLUMNS = ("mpjpe", "p_mpjpe", "pck", "velocity_error", "symmetry_gap", "segment_std")
_AVERAGES = ("frame_average", "action_average", "sequence_average")


def write_summary(
    store: Store, planned: Sequence[Planned], comparisons: Sequence[Comparison], outcome: Outcome
) -> dict[str, Any]:
    """Writes `summary.json`, `summary.csv` and `summary.md`, and returns what the first holds.

    Args:
        store: The output folder.
        planned: The units, in whose order the rows are.
        comparisons: What is compared.
        outcome: What became of the units.

    Raises:
        OutputError: The files cannot be written.
    """
    records = {one.unit.name: outcome.done[one.unit.name] for one in planned if one.unit.name in outcome.done}
    lines = [line for name, record in records.items() for line in _list_rows(name, record)]
    rows = [Row(line["unit"], line["fields"], line["stochastic"]) for line in lines]
    values: dict[str, Mapping[str, np.ndarray]] = {}

    def read_values(name: str) -> Mapping[str, np.ndarray]:
        if name not in values:
            values.clear()  # those of one unit at a time: a job may have thousands
            values[name] = store.read_values(name)
        return values[name]

    titles = {one.unit.name: one.unit.title for one in planned}
    summary = {
        "rows": lines,
        "comparisons": [found for one in comparisons for found in compare(one, rows, read_values)],
        "failed": {titles[name]: message for name, message in outcome.failed.items()},
        "open": [titles[name] for name in outcome.open],
        "other_results": store.list_strangers(titles),
        "commits": _list_commits({titles[name]: record for name, record in records.items()}),
    }
    try:
        write_record(store.folder / "summary.json", "job summary", {**summary, "made": describe_run()})
        write_text(store.folder / "summary.csv", format_csv(lines))
        write_text(store.folder / "summary.md", format_summary(summary))
    except UserError as error:
        raise OutputError(str(error)) from error
    return summary


def _list_rows(name: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a unit's result; what judges its hypotheses together is on the first."""
    found = []
    for one in record["rows"]:
        line = {
            "unit": name,
            "fields": describe_row(record["unit"], one["name"]),
            "stochastic": record["stochastic"],
            "label": one["label"],
            "oracle": one["oracle"],
            "frames": record["frames"],
            **{kind: one[kind] for kind in _AVERAGES if kind in one},
            "interval": one["interval"],
        }
        found.append(line)
    for own in record.get("distributions", [])[:1]:
        found[0] |= {key: own[key] for key in ("coverage", "scores", "scores_interval")}
    return found


def _list_commits(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """How many units each commit of the package measured, and the first of them, where there are several commits.

    A unit that is done stays as it is when the code changes under the same version: then it may not be comparable.
    """
    found: dict[str, list[str]] = {}
    for title, record in records.items():
        found.setdefault(str(record.get("made", {}).get("commit") or "no commit"), []).append(title)
    several = len(found) > 1
    return {commit: f"{len(named)} units, such as {named[0]}" for commit, named in found.items() if several}


def format_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV: fields, averages in printed units, ends of intervals, coverage and scores."""
    metrics = [name for name in METRICS if any(line["frame_average"].get(name) is not None for line in lines)]
    kinds = [kind for kind in _AVERAGES if any(kind in line for line in lines)]
    levels = next((list(line["coverage"]["all"]) for line in lines if "coverage" in line), [])
    header = [*FIELDS, "unit", "oracle", "frames"]
    header += [f"{name}_{kind}" for name in metrics for kind in (*kinds, "low", "high")]
    header += [f"coverage_{level}" for level in levels] + (["spread", *SCORES] if levels else [])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    for line in lines:
        cells = [*(line["fields"][name] for name in FIELDS), line["unit"], line["oracle"], line["frames"]]
        for name in metrics:
            cells += [line.get(kind, {}).get(name) for kind in kinds] + list(line["interval"].get(name) or (None, None))
        cells += [line.get("coverage", {}).get("all", {}).get(level) for level in levels]
        cells += [line.get("scores", {}).get(name) for name in ("spread", *SCORES)] if levels else []
        table.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def format_summary(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown: what all rows have in common, the rows averaged over seeds, and the comparisons."""
    lines = summary["rows"]
    parts = ["# Job"]
    if lines:
        several = {name for name in FIELDS if len({line["fields"][name] for line in lines}) > 1}
        varied = [name for name in FIELDS if name in several | {"aggregation"} and name != "seed"]
        common = [f"* {name}: {lines[0]['fields'][name]}" for name in FIELDS
                  if name not in (*varied, "seed") and lines[0]["fields"][name] is not None]  # fmt: skip
        parts += ["\n".join(common)] if common else []
        parts.append(_rows_table(lines, varied))
    if summary["comparisons"]:
        parts.append(_comparisons_table(summary["comparisons"]))
    for key, title in (
        ("failed", "Failed"),
        ("open", "Not finished yet"),
        ("other_results", "Results of other units"),
        ("commits", "Measured by several commits of the package"),
    ):
        if entries := summary[key]:
            found = [f"{one}: {entries[one]}" if isinstance(entries, Mapping) else one for one in entries]
            parts.append("\n".join([f"**{title}**", "", *(f"* {line}" for line in found)]))
    return "\n\n".join(parts) + "\n"


def _rows_table(lines: Sequence[Mapping[str, Any]], varied: Sequence[str]) -> str:
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(tuple(line["fields"][name] for name in FIELDS if name != "seed"), []).append(line)
    metrics = [name for name in _COLUMNS if any(line["frame_average"].get(name) is not None for line in lines)]
    levels = next((list(line["coverage"]["all"]) for line in lines if "coverage" in line), [])
    header = [*(name.replace("_", " ") for name in varied),
              *(f"{METRICS[name].label} ({METRICS[name].unit})" for name in metrics),
              *(f"coverage {float(level):.0%} (%)" for level in levels),
              *([f"{SCORES['energy_score'].label} (mm)"] if levels else [])]  # fmt: skip
    body = []
    for group in groups.values():
        cells = [_cell(group[0]["fields"][name]) for name in varied]
        if group[0]["oracle"]:
            cells[-1] += " *"
        for name in metrics:
            # The interval of one seed is none of the mean over several.
            interval = group[0]["interval"].get(name) if len(group) == 1 else None
            cells.append(_mean_cell([line["frame_average"].get(name) for line in group], interval))
        for level in levels:
            shares = [line.get("coverage", {}).get("all", {}).get(level) for line in group]
            cells.append(_mean_cell([None if share is None else 100 * share for share in shares]))
        if levels:
            cells.append(_mean_cell([line.get("scores", {}).get("energy_score") for line in group]))
        body.append(cells)
    notes = ["Averages over all frames"]
    single = [group[0] for group in groups.values() if len(group) == 1]
    bracketed = any(line["interval"].get("mpjpe") for line in single)
    notes += ["in brackets the 95 % interval by a bootstrap over subjects"] if bracketed else []
    notes += ["± the standard deviation over seeds"] if any(len(group) > 1 for group in groups.values()) else []
    notes += ["* uses the ground truth"] if any(line["oracle"] for line in lines) else []
    return format_table(header, body) + "\n\n" + "; ".join(notes) + "."


def _comparisons_table(found: Sequence[Mapping[str, Any]]) -> str:
    shared = [name for name in FIELDS if len({one["shared"].get(name) for one in found if name in one["shared"]}) > 1]
    header = ["comparison", *shared, "metric", "first", "second", "difference", "95 % interval", "subjects"]
    body = []
    for one in found:
        metric = METRICS.get(one["metric"]) or SCORES[one["metric"]]
        cells = [one["title"], *(_cell(one["shared"].get(name)) for name in shared), f"{metric.label} ({metric.unit})"]
        if "left_out" in one:
            cells += ["-", "-", f"left out: {one['left_out']}", "-", "-"]
        else:
            interval = format_interval(one["interval"], 2).strip() or "-"
            cells += [f"{one['first']:.1f}", f"{one['second']:.1f}", f"{one['difference']:+.2f}", interval,
                      str(one["subjects"])]  # fmt: skip
        body.append(cells)
    note = "First minus second on the same frames; intervals by a bootstrap over subjects, paired."
    return "**Comparisons**\n\n" + format_table(header, body) + "\n\n" + note


def format_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(header)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *body)
    )


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _mean_cell(values: Sequence[float | None], interval: Sequence[float] | None = None) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    over_seeds = f" ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{np.mean(known):.1f}{over_seeds}{format_interval(interval)}"
