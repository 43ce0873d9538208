"""What an evaluation prints: its conditions and one table that fits 80 columns. The rest is in `results.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.report import ORACLE, describe_conditions

WIDTH = 80
ROWS = 5
# Rows behind those of the lifter's pose and of other lifters, what says most first.
_PREFERRED = ("nearest_neighbour", "oracle_best", "first", "mean_pose")
_COLUMNS = ("mpjpe", "p_mpjpe", "velocity_error", "pck")


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the conditions and the summary, in the columns of the terminal, at most 80; in a log, in 80."""
    console = console or Console()
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console = Console(file=console.file, width=width, force_terminal=console.is_terminal)
    console.print(f"\n{results['title']}", style="bold", highlight=False, markup=False)
    for condition in describe_conditions(results):
        # A line after the first is indented, so that one sees where the next condition begins.
        first, *others = console.render_str(condition, markup=False, highlight=False).wrap(console, width - 4)
        console.print(Padding(first, (0, 0, 0, 2), expand=False))
        for line in others:
            console.print(Padding(line, (0, 0, 0, 4), expand=False))
    console.print(make_summary(results["rows"]))


def make_summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of the rows that matter: the average that papers report, of at most four metrics."""
    kind = "sequence_average" if all("sequence_average" in one for one in rows) else "action_average"
    names = [name for name in _COLUMNS if any(one[kind].get(name) is not None for one in rows)]
    chosen = choose_rows(rows)
    left_out = len(rows) - len(chosen)
    notes = [f"{left_out} more rows, and other averages and metrics, are in results.html."] if left_out else []
    if any(one["oracle"] for one in chosen):
        notes.insert(0, f"* {ORACLE}.")
    table = Table(title=kind.replace("_", " ").capitalize(), caption=" ".join(notes) or None, title_justify="left",
                  caption_justify="left")  # fmt: skip
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(f"{METRICS[name].label}\n({METRICS[name].unit})", justify="right")
    for one in chosen:
        label = one["label"].replace(f" ({ORACLE})", " *")
        table.add_row(label, *(_text(one[kind].get(name)) for name in names))
    return table


def choose_rows(rows: Sequence[Mapping[str, Any]], count: int = ROWS) -> list[Mapping[str, Any]]:
    """The rows that say most, in their order: the lifter's pose, other lifters, baselines, the best hypothesis."""
    aggregations = [one["name"] for one in rows if one["kind"] == "aggregation"]
    lead = "mean" if "mean" in aggregations else next(iter(aggregations), "")
    others = [one["name"] for one in rows if one["kind"] == "baseline" and one["name"] not in _PREFERRED]
    order = [lead, *others, *_PREFERRED]

    def place(row: int) -> int:
        name = rows[row]["name"]
        return order.index(name) if name in order else len(order)

    return [rows[row] for row in sorted(sorted(range(len(rows)), key=place)[:count])]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
