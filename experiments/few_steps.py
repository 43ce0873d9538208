"""Few reverse steps beside the whole chain: `python experiments/few_steps.py --data FILE --models runs/a,runs/b`.

The models are one method's, trained from several seeds. Each lifts the same frames of the test split with the whole
chain and with every plan of `--plans`, which are written `ddpm:8` or `ddim:5`; the model's own, which is that of
`calibrate --steps` where it was used, is named `calibrated`. Hypotheses of every plan are spread by one factor that
gives nominal coverage on valid, as calibration does. The table has, in hundredths of the whole chain's, how much larger
the error of the mean and the energy score of whole poses are, with the 95 % interval of a bootstrap over seeds and
subjects, the coverage of the 50 and 90 % regions of the test people, and how many times as fast the plan is (processor
time, the same windows in turns).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffpose_jax.config import copy_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.calibration import Draws, coverage, fit_scales, mahalanobis_rank
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.intervals import format_interval, run_interval
from diffpose_jax.evaluation.jobs import Job, strided_frames
from diffpose_jax.evaluation.scores import energy_score
from diffpose_jax.evaluation.timed_lifting import Lifted, compare_with_truth
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.registry import load_dataset
from diffpose_jax.workdir.trained import Trained, load_trained

TURNS = 4
SHORT = 64  # frames of a turn that is timed; the first, of all frames, compiles


class Found(NamedTuple):
    """What a plan gives on the frames: errors of the mean and energy scores `[M]` (m), ranks, and seconds of a turn."""

    error: np.ndarray
    energy: np.ndarray
    ranks: np.ndarray
    seconds: float


def main(arguments: list[str]) -> int:
    """Measures every plan of every model and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive that the models are measured on")
    parser.add_argument("--models", required=True, type=lambda text: text.split(","), help="work directories")
    parser.add_argument("--plans", default=["calibrated"], type=lambda text: text.split(","))
    parser.add_argument("--hypotheses", type=int, default=20)
    parser.add_argument("--stride", type=int, default=100, help="every n-th frame of test and of valid")
    given = parser.parse_args(arguments)
    clips, rows = {}, {name: [] for name in ("whole", *given.plans)}
    for model in given.models:
        trained = load_trained(Path(model), calibrated=False)
        clips = clips or load_dataset(copy_config(trained.config, data={"source": given.data}).data, ["valid", "test"])
        own = load_trained(Path(model)).lifter.plan
        for name, found in _measure_all(trained, own, clips, rows, given.hypotheses, given.stride).items():
            rows[name].append(found)
    frames = strided_frames(clips["test"], given.stride)
    subjects = np.array(clips["test"].subject)[clips["test"].frame_clip()[frames]]
    people = len(set(subjects))
    print(f"{len(frames)} frames of {people} people, {given.hypotheses} hypotheses, {len(given.models)} models")
    print("| plan | times as fast | mean error | % more | energy score | % more | 50 / 90 % regions hold |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, found in rows.items():
        print(_row(name, found, rows["whole"], subjects))
    return 0


def _measure_all(
    trained: Trained, own: Plan, clips: dict[str, ClipSet], names: dict[str, list], hypotheses: int, stride: int
) -> dict[str, Found]:
    """What each plan gives with one model; plans are timed in turns."""
    plans = {name: _plan(trained, own, name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    draws: dict[tuple[str, str], Draws] = {}
    for turn in range(TURNS):
        for name, plan in plans.items():
            for split in ("valid", "test") if turn == 0 else ("test",):
                draws[name, split], taken = _lift(trained, plan, clips[split], hypotheses, stride, short=turn > 0)
                if turn:  # in the first programs are compiled
                    seconds[name].append(taken)
                    draws.pop((name, split), None)
        if turn == 0:
            results = {name: _score(draws[name, "valid"], draws[name, "test"]) for name in names}
    return {name: found._replace(seconds=float(np.median(seconds[name]))) for name, found in results.items()}


def _lift(
    trained: Trained, plan: Plan, clips: ClipSet, hypotheses: int, stride: int, *, short: bool
) -> tuple[Draws, float]:
    """Hypotheses of the frames, beside the truth, and the processor time; of a few frames alone if short."""
    frames = strided_frames(clips, stride)
    frames = frames[:SHORT] if short else frames
    job = Job(Sampling(hypotheses, flip="half", plan=plan), (ALL,), 256)
    begin = time.process_time()
    found = predict_frames("", trained.lifter, trained.variables, clips, frames, job)[ALL]
    taken = time.process_time() - begin
    return compare_with_truth(Lifted(found, frames), clips), taken


def _score(valid: Draws, test: Draws) -> Found:
    """Errors, scores and ranks of the test draws, spread by the factor that valid needs."""
    factor = fit_scales(valid, np.zeros(valid.target.shape[:2], int), 1)[0]
    scaled, target = test.scaled(jnp.full(test.target.shape[:2], factor, jnp.float32))
    error = np.linalg.norm(np.mean(scaled, axis=0) - np.asarray(target), axis=-1).mean(axis=-1)
    energy, ranks = energy_score(scaled, target), mahalanobis_rank(scaled, target)
    return Found(error, np.asarray(energy), np.asarray(ranks), 0.0)


def _plan(trained: Trained, own: Plan, name: str) -> Plan:
    if name == "calibrated":
        return own
    diffusion = trained.config.diffusion
    sampler, steps = (diffusion.sampler, diffusion.steps) if name == "whole" else name.split(":")
    diffusion = copy_config(trained.config, diffusion={"sampler": sampler}).diffusion
    return make_plan(diffusion, make_schedule_of(diffusion), int(steps))


def _row(name: str, found: list[Found], whole: list[Found], subjects: np.ndarray) -> str:
    cells = [name, f"{np.median([w.seconds / f.seconds for f, w in zip(found, whole, strict=True)]):.1f}"]
    for field in ("error", "energy"):
        one, all_ = (np.stack([getattr(part, field) for part in parts]) for parts in (found, whole))
        more = 100 * (one - all_) / all_.mean()
        interval = format_interval(run_interval(list(more), list(subjects)), 2)
        cells += [f"{1000 * one.mean():.1f}", f"{more.mean():+.2f} {interval}"]
    shares = [np.mean([coverage(part.ranks)[level] for part in found]) for level in (0.5, 0.9)]
    return "| " + " | ".join([*cells, " / ".join(f"{100 * share:.0f}" for share in shares)]) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
