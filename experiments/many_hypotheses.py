"""Peak memory of a thousand hypotheses with every method: `python experiments/many_hypotheses.py [--frames 1000]`.

Every config in its size `small`, with random weights and data, is sampled as `evaluate` does it (mean, ranks, spread
and scores of all hypotheses, half of them mirrored), each in a process of its own. Memory does not depend on the number
of reverse steps: `--steps 1` is faster.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import jax
import numpy as np
from benchmark_lifters import find_cases
from random_data import random_clips

from diffpose_jax.config import copy_config
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter

WINDOWS = 256  # per call at most: the library takes as many as memory allows


def main(arguments: list[str]) -> int:
    """Prints a line for every method that has hypotheses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--hypotheses", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=0, help="reverse steps; 0: those of the config")
    parser.add_argument("--only", default="", help="one config, in this process")
    given = parser.parse_args(arguments)
    if given.only:
        print(measure(given), flush=True)
        return 0
    print("| config | frames | hypotheses | processor time, s | peak memory, GB |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for case in find_cases(["small"], []):
        name = case.name.partition(",")[0]
        if build_lifter(case.config).stochastic:
            subprocess.run([sys.executable, __file__, *arguments, "--only", name], check=True)
    return 0


def measure(given: argparse.Namespace) -> str:
    """The line of one config. Raises ValueError where a figure is not finite."""
    (case,) = find_cases(["small"], [given.only])
    config = copy_config(case.config, diffusion={"sampling_steps": given.steps}) if given.steps else case.config
    lifter = build_lifter(config)
    variables = jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))
    clips = random_clips(1, given.frames, mixtures=config.lifter.name.startswith("diffpose"))
    job = Job(Sampling(given.hypotheses, flip="half"), ("mean", "rank", "spread", "scores"), WINDOWS)
    begin = time.process_time()
    found = predict_frames(case.name, lifter, variables, clips, np.arange(given.frames), job)
    if not all(np.isfinite(array).all() for array in found.values()):
        raise ValueError(f"{case.name}: expected finite figures")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    seconds = time.process_time() - begin
    return f"| {given.only} | {given.frames:,} | {given.hypotheses:,} | {seconds:.0f} | {peak:.2f} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
