"""What all studies share: their flags, the job that they measure, paired differences, and how tables and figures look.

A study is a grid of evaluations. It writes the grid as OUTPUT/job.yaml, works at it as `diffpose evaluate --job` does,
so that other machines can take part, and draws its table and figure from the results. What is done is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import yaml
from matplotlib.axes import Axes

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.intervals import Interval, format_interval, run_interval
from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.scores import SCORES
from diffpose_jax.grid.running import run_job
from diffpose_jax.grid.store import Store
from diffpose_jax.grid.summary import format_table
from diffpose_jax.grid.units import DISTRIBUTION, Grid
from diffpose_jax.records import read_record

RELEASED = "pretrained:supervised,pretrained:frame,pretrained:sequence"
QUICK_MODELS = "pretrained:supervised,pretrained:frame"


class Measured(NamedTuple):
    """What a job found: a row for every aggregation of every unit, and where its values of every frame are."""

    rows: list[dict[str, Any]]
    store: Store

    def select(self, **fields: Any) -> list[dict[str, Any]]:
        """The rows that have these fields; a supervised lifter has no hypotheses, steps and aggregations."""
        drawn = ("hypotheses", "steps", "aggregation", "seed")
        return [
            row
            for row in self.rows
            if all(row["fields"][name] == value or (name in drawn and not row["stochastic"])
                   for name, value in fields.items())
        ]  # fmt: skip

    def value(self, metric: str, **fields: Any) -> tuple[float, Interval | None]:
        """A metric of the one row that has these fields, averaged over seeds, with its interval over subjects."""
        rows = self.select(**fields)
        if not rows:
            return float("nan"), None
        kind, intervals = ("scores", "scores_interval") if metric in SCORES else ("frame_average", "interval")
        found = [row.get(kind, {}).get(metric) for row in rows]
        known = [value for value in found if value is not None]
        interval = rows[0].get(intervals, {}).get(metric) if len(rows) == 1 else None
        return (float(np.mean(known)) if known else float("nan")), interval

    def difference(self, first: Mapping[str, Any], second: Mapping[str, Any], metric: str) -> Difference:
        """First minus second on the same frames; `workdir` may be a list, a training from every seed."""
        sides = [self._values_of_runs(side, metric) for side in (first, second)]
        (frames, subjects, values), (others, _, other_values) = sides
        if not np.array_equal(frames, others) or len(values) != len(other_values):
            raise UserError(f"{metric}: expected the same frames and seeds on both sides, found others")
        scale = (METRICS.get(metric) or SCORES[metric]).scale
        runs = [scale * (one - other) for one, other in zip(values, other_values, strict=True)]
        return Difference(float(np.nanmean(runs)), run_interval(runs, subjects), len(np.unique(subjects)), len(runs))

    def _values_of_runs(self, side: Mapping[str, Any], metric: str) -> tuple[np.ndarray, list[str], list[np.ndarray]]:
        workdirs = [side["workdir"]] if isinstance(side["workdir"], str) else side["workdir"]
        found = []
        for workdir in workdirs:
            rows = self.select(**{**side, "workdir": workdir})
            if not rows:
                raise UserError(f"expected a measurement of {dict(side)}, found none")
            arrays = [self.store.read_values(row["unit"]) for row in rows]
            names = [DISTRIBUTION if metric in SCORES else row["fields"]["aggregation"] for row in rows]
            values = [np.asarray(one[f"{name}/{metric}"]) for one, name in zip(arrays, names, strict=True)]
            found.append((arrays[0]["frame"], list(arrays[0]["subject"]), np.mean(values, axis=0)))
        return found[0][0], found[0][1], [values for *_, values in found]


class Difference(NamedTuple):
    """A paired difference: its mean, the 95 % interval over subjects and seeds, and how many of each there are."""

    mean: float
    interval: Interval | None
    subjects: int
    seeds: int

    def text(self) -> str:
        """For a cell of a table."""
        return f"{self.mean:+.1f}" + format_interval(self.interval)


def parse(description: str, arguments: Sequence[str], **defaults: Any) -> argparse.Namespace:
    """The flags that all studies have, and those of `defaults`, which a study has on top."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/cmu.npz", help="archive whose test split is measured")
    parser.add_argument("--models", help=f"released models or work directories; {RELEASED}")
    parser.add_argument("--stride", type=int, default=50, help="every n-th frame of a clip is measured")
    parser.add_argument("--hypotheses", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1, help="seeds of hypotheses and of what is hidden")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="a few frames of the embedded motion: whether it works")
    parser.add_argument("--only_job", action="store_true", help="write OUTPUT/job.yaml for workers, and end")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args(arguments)
    if given.quick:
        given.data, given.stride, given.hypotheses = "synthetic", 1500, 2
    name = Path(description.split("`")[1].split()[1]).stem
    given.output = given.output or Path(f"runs/studies/{name}")
    given.models = (given.models or (QUICK_MODELS if given.quick else RELEASED)).split(",")
    return given


def grid_of(given: argparse.Namespace, **fields: Any) -> Grid:
    """The grid of a study's flags, and what the study varies."""
    usual = {
        "workdirs": given.models,
        "data": [given.data],
        "inputs": ["exact"],
        "occlusions": ["none"],
        "hypotheses": [given.hypotheses],
        "seeds": list(range(given.seeds)),
        "aggregations": ["first", "mean", "oracle_best"],
        "stride": given.stride,
    }
    return Grid(**{**usual, **fields})


def measure(grids: Sequence[Grid], given: argparse.Namespace) -> Measured:
    """Measures what is not measured yet. Ends the program where units failed, and with `--only_job` before."""
    given.output.mkdir(parents=True, exist_ok=True)
    job = given.output / "job.yaml"
    # JSON in between: YAML of tuples would be read by nobody else.
    job.write_text(yaml.safe_dump(json.loads(json.dumps([dataclasses.asdict(grid) for grid in grids]))))
    if given.only_job:
        raise SystemExit(f"job: {job}")
    if run_job(job, given.output):
        raise SystemExit(f"units failed: {given.output / 'summary.md'}")
    return Measured(read_record(given.output / "summary.json", "job summary")["rows"], Store(given.output))


def write_table(path: Path, parts: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]] | str]) -> None:
    """Writes text and tables, each a header and rows, as Markdown, and prints them."""
    text = "\n\n".join(part if isinstance(part, str) else format_table(*part) for part in parts) + "\n"
    path.write_text(text)
    print(f"{text}\ntable: {path}")


def cell(found: tuple[float, Interval | None]) -> str:
    """A value with its interval."""
    value, interval = found
    return "-" if np.isnan(value) else f"{value:.1f}{format_interval(interval)}"


def draw(path: Path, panels: Sequence[Callable[[Axes], None]]) -> None:
    """Writes a figure of panels side by side."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        panel(axis)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path}")


def draw_lines(
    axis: Axes, places: Sequence[Any], lines: Mapping[str, Sequence[tuple[float, Interval | None]]], labels: tuple
) -> None:
    """Draws values with their intervals over `places`, equally spaced; labels are those of x and y."""
    positions = np.arange(len(places))
    joined = not isinstance(places[0], str)
    for number, (name, found) in enumerate(lines.items()):
        values = np.array([value for value, _ in found])
        ends = np.array([interval or (value, value) for value, interval in found])
        beside = positions + 0.12 * (number - (len(lines) - 1) / 2)  # error bars that lie on each other cannot be read
        axis.errorbar(beside, values, np.abs(ends.T - values), marker="o", capsize=3, label=name,
                      linestyle="-" if joined else "none")  # fmt: skip
    axis.set_xticks(positions, [str(place) for place in places])
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])


def label(model: str) -> str:
    """What tables and figures call a model."""
    return model.rstrip("/").rpartition("/")[2].removeprefix("pretrained:")
