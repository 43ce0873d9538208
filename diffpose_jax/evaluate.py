"""Evaluate a trained lifter: `python -m diffpose_jax.evaluate --workdir runs/quickstart`.

Prints the figures that matter, and writes all to `results.html`, `results.md` and `results.json`: every aggregation of
hypotheses, beside the mean pose, the nearest neighbour in 2D and, with --baseline_workdir, another trained lifter, all
on the same frames. `--job FILE --output DIR` measures a grid of lifters, data and settings instead: started several
times, on one machine or many, its workers share the folder, and what is done is not done again.
"""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

from absl import flags

from diffpose_jax import cli
from diffpose_jax.cluster import join_cluster
from diffpose_jax.data.occlusions import PATTERNS
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.evaluation.protocols import PROTOCOLS
from diffpose_jax.evaluation.summary import print_results
from diffpose_jax.evaluation.workdirs import evaluate
from diffpose_jax.grid.running import run_job
from diffpose_jax.sections import Noise

# Flags whose names are fields of `evaluation.workdirs.Evaluation`.
_FIELDS = ("data", "split", "hypotheses", "flip", "noise", "protocol", "stride", "aggregations", "batch_size",
           "occlusion", "output", "figure", "uncalibrated")  # fmt: skip


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    string = partial(flags.DEFINE_string, flag_values=values)
    integer = partial(flags.DEFINE_integer, flag_values=values)
    boolean = partial(flags.DEFINE_boolean, flag_values=values)
    cli.define_model(values)
    string("data", None, "Archive to measure on, or 'synthetic'; the data trained on if not given.")
    string("split", "test", "Split to measure.")
    integer("hypotheses", None, "Hypotheses per frame.")
    cli.define_flip(values)
    noise = (
        "'clip': a hypothesis keeps its noise through a clip and windows are blended, as `predict` does; 'frame': not."
    )
    flags.DEFINE_enum("noise", None, get_args(Noise), noise, flag_values=values)
    string("protocol", None, f"One of {', '.join(PROTOCOLS)}; by the layout of the data if not given.")
    integer("stride", None, "Measure every n-th frame of each clip, from a first one drawn for it.")
    flags.DEFINE_list("aggregations", None, f"Some of {', '.join(AGGREGATES)}.", flag_values=values)
    integer("batch_size", None, "Windows per device and compiled call.", lower_bound=1)
    integer("steps", None, "Reverse steps in place of those of the config.")
    string("occlusion", None, f"Joints hidden at test time: {', '.join(PATTERNS)} or any; as in training if not given.")
    flags.DEFINE_multi_string(
        "baseline_workdir", [], "Another trained lifter to measure on the same frames.", flag_values=values
    )
    boolean("figure", True, "Draw one frame with its hypotheses.")
    boolean("uncalibrated", False, "Measure coverage without the calibration too; it takes as long again.")
    string("output", None, "Directory for results; the work directory if not given.")
    string("job", None, "A job file (.py or .yaml): a grid of evaluations in place of one, in the directory --output.")
    boolean("check", False, "Only check the job, and list its units.")
    boolean("wait", True, "Stay until the job's other workers are done, and finish the units of those that died.")
    boolean("distributed", False, "Join the processes of a cluster, which share the frames of every unit of the job.")
    flags.DEFINE_float("lease_seconds", 60.0, "After how long without a sign a job's worker counts as dead.",
                       flag_values=values)  # fmt: skip


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, evaluates, prints a summary and says where the rest is."""
    cli.require(argv, given)
    if given.job:
        return _run_job(argv, given)
    if given.distributed:
        raise UserError("--distributed: expected --job, whose units the processes of a cluster share, found none")
    model = cli.chosen_model(given)
    if given.pretrained:
        cli.require(argv, given, "output", "data")
    options: dict[str, Any] = {name: given[name].value for name in _FIELDS}
    results = evaluate(
        model,
        sampling_steps=given.steps,
        baseline_workdirs=given.baseline_workdir,
        command=shlex.join(["python", "-m", "diffpose_jax.evaluate", *sys.argv[1:]]),
        **options,
    )
    print_results(results)
    output = Path(given.output or model)
    figure = output / "figures" / f"{given.split}.png"
    files = ", ".join(str(output / f"results.{suffix}") for suffix in ("html", "md", "json"))
    print(f"results: {files}" + f"   figure: {figure}" * given.figure)
    return 0


def _run_job(argv: list[str], given: flags.FlagValues) -> int:
    for name in ("workdir", "pretrained", "steps", "baseline_workdir", *_FIELDS):
        if name != "output" and given[name].present:
            raise UserError(f"--{name}: expected in the job file, found beside --job")
    cli.require(argv, given, *(() if given.check else ("output",)))
    if given.distributed:
        join_cluster("--distributed")
    return run_job(
        given.job, given.output or "", only_check=given.check, wait=given.wait, lease_seconds=given.lease_seconds
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
