"""Few reverse steps beside the whole chain: `python experiments/few_steps.py --data FILE --models runs/a,runs/b`.

The models are one method's, trained from several seeds. Each lifts the same frames of the test split with the whole
chain and with every plan of `--plans`, which are written `ddpm:8` or `ddim:5`; the model's own, which is that of
`calibrate --steps` where it was used, is named `calibrated`. `--students` are models that were distilled from them
(`train --distil`), each with its own few steps. Hypotheses of every plan are spread by one factor that
gives nominal coverage on valid, as calibration does. The table has, in hundredths of the whole chain's, how much larger
the error of the mean and the energy score of whole poses are, with the 95 % interval of a bootstrap over seeds and
subjects, the coverage of the 50 and 90 % regions of the test people, and how many times as fast the plan is (processor
time, the same windows in turns).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from timing import interleaved

from diffpose_jax.config import copy_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.calibration import Draws, coverage, fit_scales, mahalanobis_rank
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.intervals import format_interval, run_interval
from diffpose_jax.evaluation.jobs import Job, strided_frames
from diffpose_jax.evaluation.scores import energy_score
from diffpose_jax.evaluation.step_choice import plan_for
from diffpose_jax.evaluation.timed_lifting import Lifted, compare_with_truth
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.registry import load_dataset
from diffpose_jax.workdir.trained import Trained, load_trained

TURNS = 3
SHORT = 64  # frames that a turn lifts


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
    parser.add_argument("--students", default=[], type=lambda text: text.split(","), help="one for each model")
    parser.add_argument("--whole", type=int, default=0, help="reverse steps of the whole chain; 0: all")
    parser.add_argument("--hypotheses", type=int, default=20)
    parser.add_argument("--stride", type=int, default=100, help="every n-th frame of test and of valid")
    given = parser.parse_args(arguments)
    clips: dict[str, ClipSet] = {}
    rows: dict[str, list[Found]] = {}
    for model, student in itertools.zip_longest(given.models, given.students):
        trained = load_trained(model, calibrated=False)
        clips = clips or load_dataset(copy_config(trained.config, data={"source": given.data}).data, ["valid", "test"])
        ways = {name: (trained, _plan(model, trained, name, given.whole)) for name in ("whole", *given.plans)}
        if student:
            distilled = load_trained(student, calibrated=False)
            ways["student"] = distilled, distilled.lifter.plan
        for name, measured in _measure_all(ways, clips, given.hypotheses, given.stride).items():
            rows.setdefault(name, []).append(measured)
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
    ways: dict[str, tuple[Trained, Plan]], clips: dict[str, ClipSet], hypotheses: int, stride: int
) -> dict[str, Found]:
    """What each model gives with its plan; they are timed in turns."""
    frames = {split: strided_frames(part, stride) for split, part in clips.items()}

    def lift(name: str, split: str, most: int | None = None) -> Draws:
        trained, plan = ways[name]
        job = Job(Sampling(hypotheses, flip="half", plan=plan), (ALL,), 256)
        chosen = frames[split][:most]
        found = predict_frames("", trained.lifter, trained.variables, clips[split], chosen, job)[ALL]
        return compare_with_truth(Lifted(found, chosen), clips[split])

    results = {name: _score(lift(name, "valid"), lift(name, "test")) for name in ways}
    seconds = interleaved({name: partial(lift, name, "test", SHORT) for name in ways}, TURNS)
    return {name: found._replace(seconds=float(np.median(seconds[name][..., 1]))) for name, found in results.items()}


def _score(valid: Draws, test: Draws) -> Found:
    """Errors, scores and ranks of the test draws, spread by the factor that valid needs."""
    factor = fit_scales(valid, np.zeros(valid.target.shape[:2], int), 1)[0]
    scaled, target = test.scaled(jnp.full(test.target.shape[:2], factor, jnp.float32))
    error = np.linalg.norm(np.mean(scaled, axis=0) - np.asarray(target), axis=-1).mean(axis=-1)
    energy, ranks = energy_score(scaled, target), mahalanobis_rank(scaled, target)
    return Found(error, np.asarray(energy), np.asarray(ranks), 0.0)


def _plan(model: str, trained: Trained, name: str, steps: int) -> Plan:
    """The plan of a name; `steps` are those of the whole chain, 0 for all."""
    if name == "calibrated":
        return load_trained(model).lifter.plan
    whole = trained.config.diffusion
    sampler, count = (whole.sampler, steps or whole.steps) if name == "whole" else name.split(":")
    return plan_for(trained.config, sampler, int(count))


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
