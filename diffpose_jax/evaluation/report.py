"""The report of an evaluation: averages over frames, actions, sequences and subjects as JSON and Markdown.

Papers on Human3.6M report the action average: the mean over the actions of each action's mean over frames. The frame
average weighs long actions more. Both are given, each with its name. MPI-INF-3DHP averages over its sequences instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.evaluation.intervals import format_interval, subject_interval
from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.scores import DIRECTION_METRIC, DIRECTIONS, SCORES
from diffpose_jax.provenance import describe_run
from diffpose_jax.records import write_record
from diffpose_jax.whole_files import write_text
from diffpose_jax.workdir.directory import writable_directory

Averages = dict[str, float | None]
_Table = tuple[str, list[str], list[list[str]]]

ORACLE = "oracle: uses ground truth"


def strip_take(action: str) -> str:
    """The action without the number of the take: Human3.6M's 'Walking 1' and 'Walking' are one action."""
    return re.sub(r"[ _-]?\d+$", "", action) or action


def compute_averages(
    measured: Mapping[str, np.ndarray],
    actions: Sequence[str],
    subjects: Sequence[str],
    sequences: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All averages of per-frame values, in printed units (`METRICS`).

    Args:
        measured: `{metric: [M]}`, in m or shares; frames with NaN do not count.
        actions: The action of each frame.
        subjects: The subject of each frame.
        sequences: The sequence of each frame, where the benchmark averages over sequences.

    Returns:
        'frame_average' and its 'interval' by a bootstrap over subjects, 'action_average' (the mean over the actions of
        each action's mean over frames) and, with sequences, 'sequence_average': one number per metric, None where no
        frame has a value; 'by_action', 'by_subject' and 'by_sequence': such averages for each name.
    """
    by_action = _by_group(measured, np.array([strip_take(action) for action in actions]))
    found = {
        "action_average": _over_groups(by_action, measured),
        "frame_average": {name: _mean(_printed(name, values)) for name, values in measured.items()},
        "interval": {name: _interval(_printed(name, values), subjects) for name, values in measured.items()},
        "by_action": by_action,
        "by_subject": _by_group(measured, np.asarray(subjects)),
    }
    if sequences is not None:
        by_sequence = _by_group(measured, np.asarray(sequences))
        found |= {"sequence_average": _over_groups(by_sequence, measured), "by_sequence": by_sequence}
    return found


def _interval(values: np.ndarray, subjects: Sequence[str]) -> list[float] | None:
    interval = subject_interval(values, subjects)
    return None if interval is None else list(interval)


def _over_groups(groups: Mapping[str, Averages], names: Iterable[str]) -> Averages:
    return {name: _mean([group[name] for group in groups.values()]) for name in names}


def _by_group(measured: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, Averages]:
    names, group = np.unique(groups, return_inverse=True)
    # Sorted once: a search for the frames of each group would take as many passes over all frames as there are groups.
    order, ends = np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]
    parts = {name: np.split(_printed(name, values)[order], ends) for name, values in measured.items()}
    return {
        str(label): {name: _mean(split[place]) for name, split in parts.items()} for place, label in enumerate(names)
    }


def _printed(name: str, values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64) * METRICS[name].scale


def _mean(values: Sequence[float | None] | np.ndarray) -> float | None:
    # None, which becomes NaN here, and NaN are values that do not exist, such as the velocity of a clip's first frame:
    # they are not zero.
    known = np.array(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def make_row(name: str, label: str, measured: Mapping[str, np.ndarray], actions: Sequence[str], subjects: Sequence[str],
        *, sequences: Sequence[str] | None = None, kind: str = "aggregation", oracle: bool = False,
        ) -> dict[str, Any]:  # fmt: skip
    """A row of the report: one pose per frame, its name and its averages; an oracle's label says that it is one.

    Args:
        name: What `results.json` calls it.
        label: What the tables call it.
        measured: `{metric: [M]}`, in m or shares.
        actions: The action of each frame.
        subjects: The subject of each frame.
        sequences: The sequence of each frame, where the benchmark averages over sequences.
        kind: 'aggregation' or 'baseline'.
        oracle: Whether the ground truth chose the poses.
    """
    label = f"{label} ({ORACLE})" if oracle else label
    return {"name": name, "label": label, "kind": kind, "oracle": oracle,
            **compute_averages(measured, actions, subjects, sequences)}  # fmt: skip


def write_results(results: Mapping[str, Any], directory: str | os.PathLike) -> tuple[Path, Path]:
    """Writes `results.json` and `results.md`; returns their paths. Raises UserError where they cannot be written."""
    directory = writable_directory(directory)
    paths = directory / "results.json", directory / "results.md"
    # Both texts exist before the first file changes.
    record, page = {**results, "made": describe_run()}, format_markdown(results) + "\n"
    write_record(paths[0], "results", record, indent=2)
    write_text(paths[1], page)
    return paths


def format_markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown: what was measured, the main table, and MPJPE and P-MPJPE per action."""
    parts = [f"# {results['title']}", "\n".join(f"* {line}" for line in describe_conditions(results))]
    for title, header, lines in make_tables(results):
        rule = ["---", *["---:"] * (len(header) - 1)]
        parts.append(
            "\n".join([f"**{title}**", "", *("| " + " | ".join(line) + " |" for line in (header, rule, *lines))])
        )
    parts.append("Command:\n\n```\n" + results["command"] + "\n```")
    return "\n\n".join(parts)


def describe_conditions(results: Mapping[str, Any]) -> list[str]:
    """The conditions of the figures, one per line: protocol, data, 2D input, hypotheses, flips, occlusion, coverage."""
    data, setting = results["data"], results["setting"]
    stride = "every frame" if data["stride"] == 1 else f"one frame in {data['stride']}, from a drawn one of each clip"
    lines = [
        f"protocol {results['protocol']['name']}: {results['protocol']['description']}",
        f"data: {data['source']}, split {data['split']}: {data['frames']} frames ({stride}), {data['clips']} clips, "
        f"{len(data['subjects'])} subjects ({', '.join(data['subjects'])})",
        f"2D input: {data['keypoints']}",
        f"{setting['lifter']} of step {setting['step']}: {setting['hypotheses_text']}; "
        f"{setting['flip_text']}{setting['sampling_text']}",
    ]
    if setting.get("occlusion", "none") != "none":
        lines.append(f"joints hidden at test time: pattern {setting['occlusion']}")
    for name, title in (("coverage", "coverage"), ("uncalibrated", "not calibrated, coverage"),
                        ("regions", "conformal regions")):  # fmt: skip
        for kind, shares in results.get(name, {}).items():
            joints = "all joints" if kind == "all" else f"{kind} joints"
            found = _shares_text(shares, results.get(f"{name}_interval", {}).get(kind, {}))
            lines.append(f"{title} of {joints}: {found}")
    return lines + list(results["notes"])


def _shares_text(shares: Mapping[str, float], intervals: Mapping[str, Sequence[float] | None]) -> str:
    parts = []
    for level, share in shares.items():
        interval = intervals.get(level)
        percent = None if interval is None else [100 * end for end in interval]
        parts.append(f"{float(level):.0%} region holds {share:.0%}{format_interval(percent, 0)}")
    return ", ".join(parts)


def make_tables(results: Mapping[str, Any]) -> list[_Table]:
    """The tables as (title, header, lines): averages, errors per sequence, per action, per joint and coordinate."""
    rows = results["rows"]
    kinds = [
        ("action_average", "Action average (mean over actions; what papers report)"),
        ("frame_average", "Frame average (mean over all frames)"),
    ]
    groups: list[tuple[str, tuple[str, ...]]] = [("action", ("mpjpe", "p_mpjpe"))]
    if by_sequence := all("sequence_average" in one for one in rows):
        kinds[0] = "sequence_average", "Sequence average (unweighted mean over the sequences)"
        activities = [("action", ("mpjpe", "pck", "auc"))] if len(rows[0]["by_action"]) > 1 else []
        groups = [("sequence", ("mpjpe", "pck", "auc")), *activities]
    names = [name for name in METRICS if any(one["frame_average"].get(name) is not None for one in rows)]
    main = [name for name in names if not METRICS[name].detail]
    found = [_averages_table(title, rows, kind, main, units=True) for kind, title in kinds]
    for detail in dict.fromkeys(METRICS[name].detail for name in names if METRICS[name].detail):
        part = [name for name in names if METRICS[name].detail == detail]
        title = f"{detail} (%, {'sequence' if by_sequence else 'action'} average)"
        found.append(_averages_table(title, rows, kinds[0][0], part))
    for group, shown in groups:
        found += [_group_table(rows, group, name) for name in shown if name in names]
    tables = [_interval_table(rows, main), _distribution_table(results.get("distributions", []))]
    return found + [table for table in tables if table is not None] + _error_tables(rows)


def _interval_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> _Table | None:
    """The intervals of the frame average; None where there are too few subjects for any."""
    names = [name for name in names if any(one["interval"].get(name) is not None for one in rows)]
    if not names:
        return None
    lines = [[one["label"], *(format_interval(one["interval"].get(name)).strip() or "-" for name in names)]
             for one in rows]  # fmt: skip
    count = len(rows[0]["by_subject"])
    title = f"95 % intervals of the frame average (bootstrap over {count} subjects)"
    return title, ["", *(METRICS[name].label for name in names)], lines


def _distribution_table(rows: Sequence[Mapping[str, Any]]) -> _Table | None:
    """Coverage and scores of distributions with their intervals; None without any."""
    if not rows:
        return None
    metrics = {"spread": ("spread", "mm")} | {name: (one.label, one.unit) for name, one in SCORES.items()}
    metrics[DIRECTIONS] = DIRECTION_METRIC.label, DIRECTION_METRIC.unit
    levels = list(rows[0]["coverage"]["all"])
    header = ["", *(f"coverage {float(level):.0%} (%)" for level in levels)]
    lines = []
    for one in rows:
        line = [one["label"]]
        for level in levels:
            interval = one["coverage_interval"]["all"][level]
            percent = None if interval is None else [100 * end for end in interval]
            line.append(f"{100 * one['coverage']['all'][level]:.1f}{format_interval(percent, 0)}")
        line += [_text(one["scores"].get(name)) + format_interval(one["scores_interval"].get(name)) for name in metrics]
        lines.append(line)
    title = "Distributions (mean over all frames, all joints but the root); best of N uses ground truth"
    return title, [*header, *(f"{label} ({unit})" for label, unit in metrics.values())], lines


def _averages_table(
    title: str, rows: Sequence[Mapping[str, Any]], kind: str, names: Sequence[str], units: bool = False
) -> _Table:
    header = ["", *(METRICS[name].label + (f" ({METRICS[name].unit})" if units else "") for name in names)]
    return title, header, [[one["label"], *(_text(one[kind].get(name)) for name in names)] for one in rows]


def _group_table(rows: Sequence[Mapping[str, Any]], group: str, name: str) -> _Table:
    lines = [[key, *(_text(one[f"by_{group}"][key].get(name)) for one in rows)] for key in rows[0][f"by_{group}"]]
    lines.append([f"{group} average", *(_text(one[f"{group}_average"].get(name)) for one in rows)])
    title = f"{METRICS[name].label} per {group} ({METRICS[name].unit})" + _remark(rows)
    return title, ["", *(_short(one) for one in rows)], lines


def _error_tables(rows: Sequence[Mapping[str, Any]]) -> list[_Table]:
    header, found = ["", *(_short(one) for one in rows)], []
    for place in ("joint", "coordinate"):
        if all(f"by_{place}" in one for one in rows):
            lines = [[key, *(_text(one[f"by_{place}"][key]) for one in rows)] for key in rows[0][f"by_{place}"]]
            found.append((f"Mean error per {place} (mm)" + _remark(rows), header, lines))
    return found


def _remark(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; oracle columns use ground truth" if any(one["oracle"] for one in rows) else ""


def _short(one: Mapping[str, Any]) -> str:
    return Path(one["name"]).name.replace("_", " ")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
