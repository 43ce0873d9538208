"""What a benchmark writes: JSON, a Markdown table, and what got slower than a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from timing import Row

from diffpose_jax.errors import UserError

# A ratio that is lower than the baseline's by more than this share is named.
LOST = 0.15

_HEAD = ("section", "case", "median [min..max] per s", "ms per call", "CPU ms", "compile s", "MB", "of peak",
         "times reference")  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The figures as one Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    middle, lowest, highest = row.rates()
    share = row.share_of_peak()
    cells = [
        row.section,
        row.case,
        f"{middle:,.4g} [{lowest:,.4g}..{highest:,.4g}] {row.unit}"
        if middle < 1
        else f"{middle:,.0f} [{lowest:,.0f}..{highest:,.0f}] {row.unit}",
        f"{1e3 * np.median(row.seconds):,.2f}",
        f"{1e3 * np.median(row.cpu_seconds):,.2f}" if row.cpu_seconds else "",
        "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
        "" if row.memory is None else f"{row.memory / 1e6:,.0f}",
        "" if share is None else f"{100 * share:.0f} %",
        "" if row.ratio is None else f"{np.median(row.ratio):.2f} [{min(row.ratio):.2f}..{max(row.ratio):.2f}]",
    ]
    return "| " + " | ".join(cells) + " |"


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures as they are written: every call, and what is derived of them."""
    found = []
    for row in rows:
        middle, lowest, highest = row.rates()
        rates = {"median": middle, "min": lowest, "max": highest}
        found.append({**row._asdict(), "per_second": rates, "of_peak": row.share_of_peak()})
    return found


def write_results(output: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes `benchmark.json` (every call) and `benchmark.md`. Raises UserError where that is not possible."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        whole = {"machine": machine, "figures": figures(rows)}
        (output / "benchmark.json").write_text(json.dumps(whole, indent=1) + "\n")
        facts = "\n".join(f"* {name}: {value}" for name, value in machine.items())
        (output / "benchmark.md").write_text(f"# Benchmark\n\n{facts}\n\n{table(rows)}\n")
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from error


def draw_scaling(rows: Sequence[Row], key: str, path: Path) -> None:
    """Rates against the values of the key that was swept, both logarithmic: a line per section, lifter and batch."""
    name = key.rpartition(".")[2]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.swept is not None:
            lifter, _, shape = row.case.partition(f", {name} ")
            batch = "one window" if shape.partition(", ")[2].startswith("1 x") else "batch"
            lines.setdefault(f"{row.section}: {lifter}, {batch} ({row.unit}/s)", []).append(row)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for label, found in lines.items():
        middle, lowest, highest = np.array([row.rates() for row in found]).T
        axes.errorbar(
            [row.swept for row in found], middle, [middle - lowest, highest - middle], marker="o", label=label
        )
    axes.set(xscale="log", yscale="log", xlabel=key, ylabel="per second")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def draw_roofline(rows: Sequence[Row], path: Path) -> None:
    """What the machine can do, and FLOPs per second of each case against its FLOPs per byte: a roofline.

    The machine's rates are the medians of those measured beside the cases. Bytes are those of operands and results of
    the products. What caches hold is not read from memory, so that a case may lie above the slanted part, at which
    every byte comes from there.
    """
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    axes = figure.subplots()
    drawn = [row for row in rows if row.flops and row.traffic and row.peak and row.bandwidth]
    intensities = np.array([row.flops / row.traffic for row in drawn])
    peak, bandwidth = (float(np.median([getattr(row, name) for row in drawn])) for name in ("peak", "bandwidth"))
    shown = [*intensities, peak / bandwidth]
    ends = np.geomspace(min(shown) / 2, max(shown) * 2, 200)
    label = f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s"
    axes.plot(ends, np.minimum(peak, bandwidth * ends) / 1e9, "k-", label=label)
    markers = {"train": "o", "sample": "s"}
    for index, (row, intensity) in enumerate(zip(drawn, intensities, strict=True)):
        label, rate = f"{index + 1} {row.section}: {row.case}", row.flops_per_second() / 1e9
        axes.plot(intensity, rate, markers.get(row.section, "."), color=f"C{index % 10}", label=label)
        axes.annotate(str(index + 1), (intensity, rate), (4, 4), textcoords="offset points", fontsize="small")
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte of the products", ylabel="GFLOP/s")
    figure.legend(fontsize="x-small", loc="outside right upper")
    figure.savefig(path, dpi=150)


def summarise_ratios(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The ratios of figures by section and case: to the reference beside them, and to the peak of the machine.

    Rates themselves belong to a machine; these can be compared with those of another day, and roughly of another one.
    """
    ratios: dict[str, dict[str, float]] = {}
    for figure in found:
        kinds = {}
        if figure.get("ratio"):
            kinds["times reference"] = float(np.median(figure["ratio"]))
        if figure.get("of_peak"):
            kinds["of peak"] = float(figure["of_peak"])
        if kinds:
            # Without likelihoods and the like, which differ in the last digit.
            ratios[f"{figure['section']}: {figure['case'].partition(' (')[0]}"] = kinds
    return ratios


def find_losses(ratios: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]) -> list[str]:
    """One line for each ratio that lost more than `LOST` of the baseline's; of cases that both have."""
    return [
        f"{case}, {kind}: expected about {expected:.2f}, found {found:.2f}"
        for case, kinds in baseline.items()
        for kind, expected in kinds.items()
        if (found := ratios.get(case, {}).get(kind)) is not None and found < (1 - LOST) * expected
    ]


def read_baseline(path: Path) -> dict[str, dict[str, float]]:
    """The ratios of a baseline, or of a `benchmark.json`. Raises UserError for a file that is neither."""
    try:
        found = json.loads(path.read_text())
        return summarise_ratios(found["figures"]) if "figures" in found else found["ratios"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--check {path}: expected ratios of a benchmark, found {error}") from error
