"""The papers' main tables with our figures beside theirs: `python experiments/studies/tables.py --runs runs/tables`.

Published figures are in `experiments/data/published.json`. A row that names a run is filled in where `--runs` has a
work directory of that name: it is measured on the data that it was trained on, with the row's number of hypotheses,
averaged over actions as the papers do. Without Human3.6M and MPI-INF-3DHP all of ours stay empty; other data are not
compared with their figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import study
from matplotlib.axes import Axes

from diffpose_jax.evaluation.metrics import METRICS

PUBLISHED = Path(__file__).resolve().parents[1] / "data" / "published.json"


def main(arguments: list[str]) -> int:
    """Measures what is there, and writes tables.md and, where anything is, tables.png."""
    given = study.parse(__doc__, arguments, runs="runs/tables")
    tables = json.loads(PUBLISHED.read_text())
    there = [row for table in tables for row in table["rows"] if _workdir(row, given).is_dir()]
    grids = [_grid(row, given) for row in there]
    measured = study.measure(grids, given) if grids else None
    given.output.mkdir(parents=True, exist_ok=True)
    parts: list = ["MPJPE averaged over actions, published and ours, in mm; other metrics as published and as ours."]
    compared: list[tuple[str, float, float]] = []
    for table in tables:
        metrics = [name for name in METRICS if any(name in row for row in table["rows"])]
        header = [f"{table['paper']}, table {table['table']}: {table['data']}, {table['input']}", "H"]
        header += [text for name in metrics for text in (METRICS[name].label, "ours")]
        body = []
        for row in table["rows"]:
            ours = {name: _measure(measured, row, name, given) if row in there else None for name in metrics}
            cells = [text for name in metrics for text in (_text(row.get(name)), _text(ours[name]))]
            body.append([row["method"] + (" *" if "note" in row else ""), str(row.get("hypotheses", 1)), *cells])
            if ours["mpjpe"] is not None:
                compared.append((row["method"], row["mpjpe"], ours["mpjpe"]))
        parts.append((header, body))
        parts += [f"* {row['note']}" for row in table["rows"] if "note" in row]
    study.write_table(given.output / "tables.md", parts)
    if compared:
        study.draw(given.output / "tables.png", [partial(_draw, compared=compared)])
    return 0


def _workdir(row: Mapping[str, Any], given: argparse.Namespace) -> Path:
    return Path(given.runs) / row.get("run", "no run of this row")


def _grid(row: Mapping[str, Any], given: argparse.Namespace) -> Any:
    count = row.get("hypotheses", 1)
    return study.grid_of(given, workdirs=[str(_workdir(row, given))], data=[None], inputs=[None], occlusions=[None],
                         hypotheses=[count], aggregations=["mean"])  # fmt: skip


def _measure(measured: Any, row: Mapping[str, Any], metric: str, given: argparse.Namespace) -> float | None:
    (found, *_) = measured.select(workdir=str(_workdir(row, given)), hypotheses=row.get("hypotheses", 1))
    return found.get("action_average", found["frame_average"]).get(metric)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _draw(axis: Axes, compared: list[tuple[str, float, float]]) -> None:
    for number, (method, published, ours) in enumerate(compared):
        axis.plot(published, ours, "o", label=method, color=f"C{number}")
    ends = [value for _, *values in compared for value in values]
    axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="gray", linewidth=1)
    axis.set_xlabel("published MPJPE (mm)")
    axis.set_ylabel("ours (mm)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
