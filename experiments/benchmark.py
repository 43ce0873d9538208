"""Measures speed: `python experiments/benchmark.py [--output DIR] [--quick] [--only sample,gather,...]`.

* train: frames/s of the whole training step of every lifter (gather, flips, gradient, Adam, moving average), as many
  steps in a call as its config has in a dispatch; `--set training.inner_steps=2` is sooner done, and slower: XLA:CPU
  asks the system for the memory of a call anew every time;
* sample: poses/s (hypotheses times frames) of every lifter, for a batch of windows and for one;
* gather: windows/s of the on-device window gather over 1.5 million frames, beside a plain numpy generator;
* attention: tokens/s of the gradient of attention, beside plain differentiation of its formula;
* mixtures: fits/s of five Gaussians to 200 points, at equal steps and at equal likelihood, beside scikit-learn;
* start: `diffpose lift` in a process of its own, the first and the second time.

`--sizes` says which sizes of the lifters (small, paper), `--lifters` which configs, `--set` what else of them. Every
figure is a median over repeats with its range, after warm-up; processor time, compilation, the bytes of the compiled
program and the share of the rate of large matrix products stand beside it. Things that are compared run in turns; on
CPU their ratio is that of processor time. `--reference CMD` sets any program beside ours (see benchmark_reference.py).
`--check BASELINE` compares ratios with those of a baseline and names what lost more than 15 %, with exit code 1;
`--baseline FILE` writes one. `--sweep` takes one key of the configs, `batch` (frames of a training batch) or `devices`
through several values and draws how rates scale with it, in `scaling.png`. Weights and data are random: speed does not
depend on them. Writes `benchmark.json`, `benchmark.md` and, of lifters, `roofline.png`: FLOP/s against FLOPs per byte
of their matrix products, below what the machine can do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from benchmark_attention import SHAPES, benchmark_attention
from benchmark_devices import leave_memory, sweep_devices
from benchmark_gather import benchmark_gather
from benchmark_lifters import Amount, Case, benchmark_sampling, benchmark_training, find_cases, sweep_cases
from benchmark_mixtures import benchmark_mixtures
from benchmark_reference import Reference
from benchmark_report import (
    draw_roofline,
    draw_scaling,
    figures,
    find_losses,
    read_baseline,
    summarise_ratios,
    table,
    write_results,
)
from benchmark_starts import benchmark_starts
from machine import describe_machine
from timing import Report, Row

from diffpose_jax.command_line import shipped_configs
from diffpose_jax.progress import Progress

SIZES = ("small", "paper")


class Size(NamedTuple):
    """How much to measure; a test takes seconds, a GPU wants larger batches."""

    lifters: Amount
    clips: int  # of 2500 frames each
    windows: dict[int, int]  # window length -> windows per batch
    mixtures: int = 4096  # fits per call
    attention: Sequence[tuple[int, int, int, int]] = SHAPES

    @property
    def repeats(self) -> int:
        """Calls, or turns of things that are compared."""
        return self.lifters.repeats


QUICK = Size(Amount(2, 16, tiny=True), 4, {27: 32}, mixtures=64, attention=[(2, 5, 2, 4)])
CPU = Size(Amount(7, 256), 600, {27: 1024, 81: 512, 243: 256})
ACCELERATOR = Size(Amount(15, 8192), 600, {27: 4096, 81: 2048, 243: 1024}, mixtures=65536)


class Request(NamedTuple):
    """What was asked for: how much, of which cases, beside which program."""

    size: Size
    cases: list[Case]
    reference: Reference


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sections asked for, reports each figure as it comes, and writes the files; 1 where something lost."""
    options = _arguments(argv)
    swept, values = options.sweep or ("", [])
    if swept == "devices":
        leave_memory()
    size = QUICK if options.quick else CPU if jax.default_backend() == "cpu" else ACCELERATOR
    cases = find_cases(options.sizes, options.lifters, size.lifters.tiny, options.set)
    if swept and swept != "devices":
        cases = sweep_cases(cases, swept, values)
    request = Request(size, cases, Reference(options.reference))
    baseline = read_baseline(options.check) if options.check else {}
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows: list[Row] = []
    total = sum(COUNTS[name](request) for name in options.only)
    total *= len(values) if swept == "devices" else 1
    with Progress("benchmark", total, "figures", line_seconds=0) as progress:

        def report(row: Row) -> None:
            rows.append(row)
            progress.update(len(rows), f"{row.section}: {row.case}: {row.rates()[0]:,.0f} {row.unit}/s")

        if swept == "devices":
            sweep_devices(values, sys.argv[1:] if argv is None else argv, options.output, report)
        for name in options.only if swept != "devices" else ():
            SECTIONS[name](request, report)
    write_results(options.output, machine, rows)
    if any(row.traffic for row in rows):
        draw_roofline(rows, options.output / "roofline.png")
    if swept:
        draw_scaling(rows, swept, options.output / "scaling.png")
    print(table(rows))
    print(f"written: {options.output / 'benchmark.json'}, {options.output / 'benchmark.md'}")
    ratios = summarise_ratios(figures(rows))
    if options.baseline:
        options.baseline.write_text(json.dumps({"machine": machine, "ratios": ratios}, indent=1) + "\n")
    losses = find_losses(ratios, baseline)
    for loss in losses:
        print(f"slower than {options.check}: {loss}", file=sys.stderr)
    return int(bool(losses))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
        def read(text: str) -> list[str]:
            names = text.split(",")
            if set(names) - set(known):
                raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, found {text!r}")
            return names

        return read

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="where the results go")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: tiny sizes, no meaning")
    parser.add_argument("--only", type=some_of(list(SECTIONS)), default=list(SECTIONS), help="e.g. sample,gather,train")
    parser.add_argument("--sizes", type=some_of(SIZES), default=["small"], help="small, paper or both: small,paper")
    parser.add_argument("--lifters", type=some_of(sorted(shipped_configs())), default=[], help="configs, all if none")
    parser.add_argument(
        "--set", type=_read_changes, default={}, help="keys of configs: lifter.frames=27,evaluation.flip=none"
    )
    parser.add_argument("--sweep", type=_read_sweep, help="evaluation.hypotheses=1,5,20, batch=64,256, devices=1,2")
    parser.add_argument("--reference", default="", help="a command to measure beside ours, in turns")
    parser.add_argument("--check", type=Path, help="a baseline; what lost more than 15 %% is named, exit code 1")
    parser.add_argument("--baseline", type=Path, help="where to write the ratios found, as a baseline")
    options = parser.parse_args(argv)
    if options.sweep and options.sweep[0] == "devices" and options.only != ["train"]:
        parser.error("--sweep devices: expected --only train, which is mapped over devices")
    return options


def _read_changes(text: str) -> dict[str, Any]:
    """Keys of configs and their values, of `lifter.frames=27,evaluation.flip=none`."""
    changes = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key.count(".") != 1 or not equals:
            raise argparse.ArgumentTypeError(f"expected SECTION.KEY=VALUE, found {part!r}")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    return changes


def _read_sweep(text: str) -> tuple[str, list[Any]]:
    """What is swept and its values, of `evaluation.hypotheses=1,5,20`, `batch=64,256` or `devices=1,2`."""
    key, _, values = text.partition("=")
    try:
        found = [json.loads(value) for value in values.split(",")]
    except json.JSONDecodeError:
        found = []
    counts = key in ("batch", "devices") and all(type(value) is int and value > 0 for value in found)
    if not (counts or key.count(".") == 1) or len(found) < 2:
        raise argparse.ArgumentTypeError(f"expected SECTION.KEY, batch or devices=NUMBER,NUMBER,..., found {text!r}")
    return key, found


SECTIONS: dict[str, Callable[[Request, Report], None]] = {
    "sample": lambda asked, report: benchmark_sampling(asked.cases, asked.size.lifters, asked.reference, report),
    "gather": lambda asked, report: benchmark_gather(asked.size.clips, asked.size.windows, asked.size.repeats, report),
    "train": lambda asked, report: benchmark_training(asked.cases, asked.size.lifters, asked.reference, report),
    "attention": lambda asked, report: benchmark_attention(asked.size.attention, asked.size.repeats, report),
    "mixtures": lambda asked, report: benchmark_mixtures(asked.size.mixtures, asked.size.repeats, report),
    "start": lambda asked, report: benchmark_starts(report),
}
# Figures of each section; a reference that has a case adds one.
COUNTS: dict[str, Callable[[Request], int]] = {
    "train": lambda asked: len(asked.cases),
    "sample": lambda asked: 2 * len(asked.cases),
    "gather": lambda asked: 4 * len(asked.size.windows),
    "attention": lambda asked: len(asked.size.attention),
    "mixtures": lambda asked: 4,
    "start": lambda asked: 2,
}


if __name__ == "__main__":
    sys.exit(main())
