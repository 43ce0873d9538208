"""Every method with the same small budget: `python experiments/compare.py --data cmu --output runs/compare`.

Each config in its size `small` trains for as many steps as `--seconds` of processor time of one core buy it, measured
before on this machine, then is evaluated on the same test frames with the same number of hypotheses. Lifters that need
a context take the one trained here, whose own budget comes on top. Two run side by side on two cores. A run that is
repeated continues; the table is in OUTPUT/compare.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from absl import flags
from budget import seconds_per_step

from diffpose_jax.command_line import parse
from diffpose_jax.train import define_flags

ROOT = Path(__file__).resolve().parents[1]
# In the order they are trained: a config file, words for its argument after a comma, after a colon the context that
# must exist before.
CONFIGS = (
    "graformer", "mixste", "diffpose_frame,release:graformer", "diffpose_video,release:mixste", "diffupose",
    "diffhpe_2d", "diffhpe_wrapper:mixste", "diff3dhpe_mixste", "d3dp", "modulated_gcn", "poseformer",
    "diff3dhpe_poseformer", "diffupose_unet",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Trains and evaluates what is asked for, then writes the table."""
    given = _parse(arguments)
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: given.jobs]:
        cores.put(core)
    names = [config for config in CONFIGS if not given.only or _file(config) in given.only.split(",")]
    contexts = {config.partition(":")[2] for config in names} - {""}
    with ThreadPoolExecutor(given.jobs) as pool:
        first = [name for name in names if name in contexts]
        for batch in (first, [name for name in names if name not in contexts]):
            list(pool.map(lambda name: _run(name, given, cores), batch))
    table = _table(names, given)
    (given.output / "compare.md").write_text(table)
    print(table + f"\ntable: {given.output / 'compare.md'}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="argument of the configs: synthetic, cmu, ...")
    parser.add_argument("--seconds", type=float, default=150, help="training time of each, in seconds of one core")
    parser.add_argument("--hypotheses", type=int, default=5)
    parser.add_argument("--stride", type=int, default=50, help="every n-th frame of the test split is measured")
    parser.add_argument("--jobs", type=int, default=2, help="how many run side by side, one core each")
    parser.add_argument("--only", default="", help="some of the configs, with commas")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    return given


def _run(config: str, given: argparse.Namespace, cores: Queue[int]) -> None:
    name, (_, _, context) = _file(config), config.partition(":")
    core = cores.get()
    try:
        workdir = given.output.resolve() / name
        overrides = [f"--config.lifter.context={given.output.resolve() / context}"] if context else []
        path = _config_path(config, given)
        steps = _steps(name, path, given, overrides, core)
        overrides += [f"--config.training.{key}={value}" for key, value in _training(steps).items()]
        _program(["train", "--config", path, "--workdir", str(workdir), *overrides], core, workdir)
        _program(["evaluate", "--workdir", str(workdir), "--stride", str(given.stride), "--flip", "none", "--nofigure",
                  "--hypotheses", str(given.hypotheses)], core, workdir)  # fmt: skip
    finally:
        cores.put(core)


def _file(config: str) -> str:
    return config.partition(":")[0].partition(",")[0]


def _config_path(config: str, given: argparse.Namespace) -> str:
    file, *words = config.partition(":")[0].split(",")
    return f"configs/{file}.py:{','.join([given.data, 'small', *words])}"


def _training(steps: int) -> dict[str, int]:
    return {"steps": steps, "validate_every": steps // 2, "checkpoint_every": steps // 2, "warmup_steps": steps // 10}


def _steps(name: str, config_path: str, given: argparse.Namespace, overrides: list[str], core: int) -> int:
    """The steps that the budget buys, a multiple of 40, measured once and kept beside the run."""
    path = given.output / f"{name}.steps"
    if not path.exists():
        probe = [sys.executable, __file__, "step_time", "--config", config_path, *overrides]
        found = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, preexec_fn=_pin(core))
        if found.returncode:
            raise SystemExit(f"{name}: {found.stderr.strip().splitlines()[-1]}")
        path.write_text(found.stdout.split()[-1])
    return max(1, round(given.seconds / float(path.read_text()) / 40)) * 40


def step_time(arguments: list[str]) -> int:
    """Prints the seconds of processor time that a training step of a config takes."""
    values = flags.FlagValues()
    define_flags(values)
    parse(["step_time", *arguments, "--workdir", "unused"], values)
    print(seconds_per_step(values.config))
    return 0


def _program(arguments: list[str], core: int, workdir: Path) -> None:
    """Runs a program of the package on one core; its output goes beside its work directory."""
    log = workdir.with_suffix(f".{arguments[0]}.log")
    command = [sys.executable, "-m", f"diffpose_jax.{arguments[0]}", *arguments[1:]]
    print("$ " + " ".join(["python", *command[1:]]), flush=True)
    with log.open("w") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, preexec_fn=_pin(core)).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}, see {log}")


def _pin(core: int) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, {core})


def _table(names: list[str], given: argparse.Namespace) -> str:
    """Errors in mm by config: of one hypothesis, of the mean of all, of the best; and the mean's symmetry gap."""
    lines = ["| config | steps | one hypothesis | mean | mean, by action | P-MPJPE | best (oracle) | symmetry gap |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name in map(_file, names):
        results = json.loads((given.output / name / "results.json").read_text())
        rows = {row["name"]: row for row in results["rows"]}
        first, mean, best = (rows.get(key, rows["first"]) for key in ("first", "mean", "oracle_best"))
        frame, action = mean["frame_average"], mean["action_average"]
        figures = (first["frame_average"]["mpjpe"], frame["mpjpe"], action["mpjpe"], frame["p_mpjpe"],
                   best["frame_average"]["mpjpe"], frame["symmetry_gap"])  # fmt: skip
        steps = json.loads((given.output / name / "config.json").read_text())["training"]["steps"]
        lines.append(f"| {name} | {steps} | " + " | ".join(f"{value:.1f}" for value in figures) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(step_time(sys.argv[2:]) if sys.argv[1:2] == ["step_time"] else main(sys.argv[1:]))
