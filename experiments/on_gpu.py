"""Parity, rates, costs and precision on an accelerator in under eight minutes: `sh experiments/on_gpu.sh`.

* parity: every recorded vector of the published code, in full float32 precision, as a share of what is allowed;
* train, sample: rates of DiffPose, DiffuPose and MixSTE in float32 and bfloat16, and their share of the rate at which
  this machine multiplies large matrices of that type;
* profile: the three largest costs of a training step and of sampling, by the profiler;
* curves: losses of 2,000 training steps in bfloat16 beside float32.

It needs the package and no network. What does not fit into `--minutes` is left out and named. Writes `on_gpu.json` and
`on_gpu.md`, whose tables are for RESULTS.md. `--quick` takes tiny sizes on any machine; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from device_profile import largest_costs  # noqa: E402
from flops import count_products, measure_peak  # noqa: E402
from machine import describe_machine  # noqa: E402
from random_data import Training, give_context, prepare_training, random_batch, random_clips  # noqa: E402
from timing import repeated, timed  # noqa: E402

from diffpose_jax.data.sets.synthetic import load_synthetic  # noqa: E402
from diffpose_jax.lifters.base import Sampling  # noqa: E402
from diffpose_jax.lifters.batches import example_batch  # noqa: E402
from diffpose_jax.registry import build_lifter, config_for  # noqa: E402
from tests.parity.comparison import compare_outputs  # noqa: E402
from tests.parity.systems import all_systems  # noqa: E402
from tests.parity.vectors import read_vector, vector_paths  # noqa: E402

PRECISIONS = ("float32", "bfloat16")
TINY = {"frames": 3, "width": 32, "num_layers": 1, "num_heads": 2}


class Case(NamedTuple):
    """A method at the size of its paper, how many windows it trains on at a time, and how it is sampled."""

    method: str
    options: dict[str, Any]
    train_batch: int
    sample_batch: int
    hypotheses: int
    steps: int


CASES = (
    Case("diffpose", {}, 1024, 1024, 5, 5),
    Case("diffupose", {}, 1024, 256, 10, 20),
    Case("mixste", {"frames": 27}, 64, 64, 1, 0),
    Case("mixste", {"frames": 243}, 4, 8, 1, 0),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sections while there is time, and writes what they found; 1 where parity fails."""
    given = _arguments(argv)
    end = time.monotonic() + 60 * given.minutes
    found: dict[str, Any] = {"machine": describe_machine(), "quick": given.quick, "left out": []}
    for name in given.only:
        if time.monotonic() > end:
            found["left out"].append(name)
            continue
        begin = time.monotonic()
        found[name] = SECTIONS[name](given.quick, end)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        write_results(given.output, found)
    write_results(given.output, found)
    print((given.output / "on_gpu.md").read_text())
    return int(any(row["share"] > 1 for row in found.get("parity", [])))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/on_gpu"), help="where the results go")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on any machine, no meaning")
    parser.add_argument("--minutes", type=float, default=7.0, help="no section begins after that")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections")
    return parser.parse_args(argv)


def check_parity(quick: bool, end: float) -> list[dict[str, Any]]:
    """The largest difference of every recorded vector as a share of what its system allows."""
    systems, rows = all_systems(), []
    for path in vector_paths()[: 2 if quick else None]:
        vector = read_vector(path)
        compared = compare_outputs(vector, systems[vector.system])
        worst = max(compared, key=lambda one: one.share())
        rows.append({"vector": path.stem, "share": worst.share(), "output": worst.name})
    return rows


def measure_training(quick: bool, end: float) -> list[dict[str, Any]]:
    """Frames/s of the whole training step in both precisions."""
    rows = []
    for case, precision, config in _configs(quick, end):
        training = prepare_training(config, _clips(config, quick), 8 if quick else case.train_batch, 2 if quick else 10)
        examples = training.examples(0)
        flops = count_products(training.step, training.state, training.data, examples).flops
        state, seconds = training.state, []
        for _ in range(4 if quick else 8):
            (state, *_), passed = timed(partial(training.step, state, training.data, examples))
            seconds.append(passed)
        settled = float(np.median(seconds[2:]))
        frames = training.batch * training.inner * config.lifter.get("frames", 1)
        rows.append(_row(case, precision, frames / settled, flops / settled, seconds[0] - settled))
    return rows


def measure_sampling(quick: bool, end: float) -> list[dict[str, Any]]:
    """Frames/s of a batch with all its hypotheses, and milliseconds of a single window, in both precisions."""
    rows = []
    for case, precision, config in _configs(quick, end):
        lifter, sampling = build_lifter(config), Sampling(2 if quick else case.hypotheses)
        variables = jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))
        seconds = {}
        for windows in (2 if quick else case.sample_batch, 1):
            arguments = variables, jax.random.key(1), random_batch(lifter, windows), sampling
            compiled, compiling = timed(jax.jit(lifter.sample).lower(*arguments).compile)
            seconds[windows] = float(np.median([one.wall for one in repeated(partial(compiled, *arguments), 5, 5.0)]))
        windows = max(seconds)
        flops = count_products(
            lifter.sample, variables, jax.random.key(1), random_batch(lifter, windows), sampling
        ).flops
        rate = windows * lifter.frames / seconds[windows]
        rows.append(_row(case, precision, rate, flops / seconds[windows], compiling))
        rows[-1] |= {"hypotheses": sampling.hypotheses, "one window ms": 1000 * seconds[1]}
    return rows


def profile_costs(quick: bool, end: float) -> list[dict[str, Any]]:
    """The three largest costs of a training step and of sampling a batch, in bfloat16."""
    rows = []
    for case, precision, config in _configs(quick, end):
        if precision == "float32":
            continue
        training = prepare_training(config, _clips(config, quick), 8 if quick else case.train_batch, 2)
        rows.append({"case": _name(case), "what": "train", "costs": largest_costs(_repeat_training(training))})
        lifter = build_lifter(config)
        variables = jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))
        batch, sampling = random_batch(lifter, 2 if quick else case.sample_batch), Sampling(2)
        call = partial(jax.jit(lifter.sample), variables, jax.random.key(1), batch, sampling)
        rows.append({"case": _name(case), "what": "sample", "costs": largest_costs(call)})
    return rows


def _repeat_training(training: Training) -> Callable[[], Any]:
    states = [training.state]

    def call() -> Any:
        states[0], metrics, _ = training.step(states[0], training.data, training.examples(0))
        return metrics

    return call


def compare_curves(quick: bool, end: float) -> list[dict[str, Any]]:
    """Losses of training on embedded motion, each a mean over one dispatch, in both precisions."""
    clips = load_synthetic(seed=0)["train"]
    rows = []
    for case, precision, config in _configs(quick, end, (CASES[1], CASES[2])):
        config.training.update(learning_rate=4e-4, warmup_steps=100)
        training = prepare_training(config, clips, 16 if quick else min(512, case.train_batch), 5 if quick else 50)
        state, losses = training.state, []
        for number in range(4 if quick else 40):
            state, metrics, _ = training.step(state, training.data, training.examples(number))
            losses.append(metrics["loss"])
        losses = [float(loss) for loss in losses]
        rows.append({"case": _name(case), "precision": precision, "inner": training.inner, "losses": losses})
    return rows


def _configs(quick: bool, end: float, cases: Sequence[Case] = CASES) -> Any:
    """Every case in both precisions, while there is time."""
    for case in CASES[1:2] if quick else cases:
        for precision in PRECISIONS:
            if time.monotonic() > end:
                print(f"left out for want of time: {_name(case)}, {precision}", flush=True)
                continue
            config = config_for(case.method)
            config.lifter.update({**case.options, "compute_dtype": precision})
            if quick:
                config.lifter.update({name: value for name, value in TINY.items() if name in config.lifter})
                config.diffusion.steps = 4
            config.diffusion.sampling_steps = min(case.steps, config.diffusion.steps)
            yield case, precision, give_context(config, **(TINY if quick else {}))


def _clips(config: ConfigDict, quick: bool) -> Any:
    return random_clips(2 if quick else 8, 200 if quick else 2500, mixtures=config.lifter.name.startswith("diffpose"))


def _name(case: Case) -> str:
    frames = case.options.get("frames", 1)
    return f"{case.method}, {frames} frame{'s' * (frames > 1)}"


def _row(case: Case, precision: str, rate: float, flops: float, compiling: float) -> dict[str, Any]:
    share = flops / _peak(precision)
    return {"case": _name(case), "precision": precision, "frames/s": rate, "FLOP/s": flops, "of peak": share,
            "compile s": compiling}  # fmt: skip


_PEAKS: dict[str, float] = {}


def _peak(precision: str) -> float:
    if precision not in _PEAKS:
        _PEAKS[precision] = measure_peak(precision)
    return _PEAKS[precision]


SECTIONS: dict[str, Callable[[bool, float], list[dict[str, Any]]]] = {
    "parity": check_parity,
    "train": measure_training,
    "sample": measure_sampling,
    "profile": profile_costs,
    "curves": compare_curves,
}


def write_results(output: Path, found: dict[str, Any]) -> None:
    """Writes `on_gpu.json` and the tables of `on_gpu.md`."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "on_gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (output / "on_gpu.md").write_text(describe(found))


def describe(found: dict[str, Any]) -> str:
    """The tables for RESULTS.md."""
    lines = [", ".join(f"{name} {value}" for name, value in found["machine"].items()), ""]
    if "parity" in found:
        worst = max(found["parity"], key=lambda row: row["share"])
        met = sum(row["share"] <= 1 for row in found["parity"])
        lines += [f"Parity: {met} of {len(found['parity'])} vectors; the largest difference is {worst['share']:.2f} of "
                  f"what is allowed ({worst['vector']}, {worst['output']}).", ""]  # fmt: skip
    for name in ("train", "sample"):
        if found.get(name):
            lines += [
                f"| {name} | precision | frames/s | TFLOP/s | of peak | compile s | one window |",
                "|---" * 7 + "|",
            ]
            for row in found[name]:
                latency = f"{row['one window ms']:.2f} ms" if "one window ms" in row else ""
                lines.append(f"| {row['case']} | {row['precision']} | {row['frames/s']:,.0f} | "
                             f"{row['FLOP/s'] / 1e12:.2f} | {100 * row['of peak']:.0f} % | {row['compile s']:.1f} | "
                             f"{latency} |")  # fmt: skip
            lines.append("")
    if found.get("profile"):
        lines += ["| profile | | largest costs |", "|---|---|---|"]
        for row in found["profile"]:
            costs = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["costs"])
            lines.append(f"| {row['case']} | {row['what']} | {costs} |")
        lines.append("")
    lines += _describe_curves(found.get("curves", []))
    if found["left out"]:
        lines.append(f"Left out for want of time: {', '.join(found['left out'])}.")
    return "\n".join(lines) + "\n"


def _describe_curves(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["| loss after | " + " | ".join(f"{row['case']}, {row['precision']}" for row in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    count = len(rows[0]["losses"])
    for index in sorted({count * share // 8 for share in range(8)} | {count - 1}):
        losses = " | ".join(f"{row['losses'][index]:.4f}" for row in rows)
        lines.append(f"| {(index + 1) * rows[0]['inner']} steps | {losses} |")
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
