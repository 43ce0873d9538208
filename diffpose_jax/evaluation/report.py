"""Figures of an evaluation: averages per action, over actions, over frames and per subject; JSON, Markdown, terminal.

Papers report the action average: the mean over the actions of each action's mean over frames. The frame average weighs
long actions more. Both are given, each with its name.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.metrics import METRICS

Averages = dict[str, float | None]

ORACLE = "oracle: uses ground truth"


def action_name(action: str) -> str:
    """An action without the number of its take: Human3.6M's 'Walking 1' and 'Walking' are one action."""
    return re.sub(r"[ _-]?\d+$", "", action) or action


def averages(measured: Mapping[str, np.ndarray], actions: Sequence[str], subjects: Sequence[str]) -> dict[str, Any]:
    """All averages of per-frame values `{metric: [M]}` in printed units (`METRICS`); NaN frames do not count.

    actions and subjects, one per frame `[M]`. Returns `action_average`, `frame_average`, and `by_action`, `by_subject`
    with one set of averages per name; None where no frame has a value.
    """
    by_action = _by_group(measured, np.array([action_name(action) for action in actions]))
    return {
        "action_average": {name: _mean([group[name] for group in by_action.values()]) for name in measured},
        "frame_average": {name: _mean(_printed(name, values)) for name, values in measured.items()},
        "by_action": by_action,
        "by_subject": _by_group(measured, np.asarray(subjects)),
    }


def _by_group(measured: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, Averages]:
    return {
        str(group): {name: _mean(_printed(name, values)[groups == group]) for name, values in measured.items()}
        for group in np.unique(groups)
    }


def _printed(name: str, values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64) * METRICS[name].scale


def _mean(values: Sequence[float | None] | np.ndarray) -> float | None:
    known = np.array([value for value in values if value is not None and not np.isnan(value)], np.float64)
    return float(known.mean()) if len(known) else None


def row(name: str, label: str, measured: Mapping[str, np.ndarray], actions: Sequence[str], subjects: Sequence[str],
        *, kind: str = "aggregation", oracle: bool = False) -> dict[str, Any]:  # fmt: skip
    """One line of the table: a way to one pose per frame, and its averages. Oracle rows are marked in the label."""
    label = f"{label} ({ORACLE})" if oracle else label
    return {"name": name, "label": label, "kind": kind, "oracle": oracle, **averages(measured, actions, subjects)}


def writable_directory(path: str | os.PathLike) -> Path:
    """Makes sure that a directory for results exists and can be written. Raises UserError where it cannot."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: expected a directory that can be written, found {error.strerror}") from error
    return path


def write_results(results: Mapping[str, Any], directory: str | os.PathLike) -> tuple[Path, Path]:
    """Writes `results.json` and `results.md`; returns their paths. Raises UserError where they cannot be written."""
    directory = writable_directory(directory)
    paths = directory / "results.json", directory / "results.md"
    for path, text in zip(paths, (json.dumps(results, indent=2, allow_nan=False), markdown(results)), strict=True):
        path.write_text(text + "\n")
    return paths


def markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown: what was measured, the main table, and MPJPE and P-MPJPE per action."""
    parts = [f"# {results['title']}", "\n".join(f"* {line}" for line in setting_lines(results))]
    for title, header, lines in tables(results):
        rule = ["---", *["---:"] * (len(header) - 1)]
        parts.append(
            "\n".join([f"**{title}**", "", *("| " + " | ".join(line) + " |" for line in (header, rule, *lines))])
        )
    parts.append("Command:\n\n```\n" + results["command"] + "\n```")
    return "\n\n".join(parts)


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the same on a terminal or into a log."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=140)
    console.print(f"\n{results['title']}", style="bold", highlight=False)
    for line in setting_lines(results):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    for title, header, lines in tables(results):
        table = Table(title=title, title_justify="left", title_style="italic")
        for number, name in enumerate(header):
            widest = max(len(line[0]) for line in lines)
            table.add_column(name, justify="right" if number else "left", min_width=0 if number else min(widest, 20))
        for line in lines:
            table.add_row(*line)
        console.print(table)


def setting_lines(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before comparing: protocol, data, hypotheses, flips, where the training data came in."""
    data, setting = results["data"], results["setting"]
    stride = "every frame" if data["stride"] == 1 else f"one frame in {data['stride']}"
    lines = [
        f"protocol `{results['protocol']['name']}`: {results['protocol']['description']}",
        f"data: {data['source']}, split {data['split']}: {data['frames']} frames ({stride}), {data['clips']} clips, "
        f"{len(data['subjects'])} subjects ({', '.join(data['subjects'])})",
        f"2D input: {data['keypoints']}",
        f"{setting['lifter']} of step {setting['step']}: {setting['hypotheses_text']}; "
        f"flip averaging {'on' if setting['flip'] else 'off'}{setting['sampling_text']}",
    ]
    return lines + list(results["notes"])


def tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables as (title, header, lines): action average, frame average, and the errors per action."""
    rows = results["rows"]
    names = [name for name in METRICS if any(one["frame_average"].get(name) is not None for one in rows)]
    header = ["", *(f"{METRICS[name].label} ({METRICS[name].unit})" for name in names)]
    found = []
    for kind, meaning in (
        ("action_average", "Action average (mean over actions; what papers report)"),
        ("frame_average", "Frame average (mean over all frames)"),
    ):
        found.append(
            (meaning, header, [[one["label"], *(_text(one[kind].get(name)) for name in names)] for one in rows])
        )
    remark = "; oracle columns use ground truth" if any(one["oracle"] for one in rows) else ""
    for name in ("mpjpe", "p_mpjpe"):
        title = f"{METRICS[name].label} per action (mm)" + remark
        lines = [
            [action, *(_text(one["by_action"][action].get(name)) for one in rows)] for action in rows[0]["by_action"]
        ]
        lines.append(["action average", *(_text(one["action_average"].get(name)) for one in rows)])
        found.append((title, ["", *(_short(one) for one in rows)], lines))
    return found


def _short(one: Mapping[str, Any]) -> str:
    return Path(one["name"]).name.replace("_", " ")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
