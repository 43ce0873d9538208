"""Distributions beside what needs no diffusion: `python experiments/distributions.py --data data/cmu_heatmaps.npz`.

On keypoints and heatmaps of one archive methods of `METHODS` are trained from every seed in their size `small`, with
the person-centred view, calibrated on valid, and measured on the same test frames with 20 hypotheses. Beside each stand
two Gaussians around the mean of its hypotheses, with the covariance of that mean's errors on valid: of each joint, and
of all joints together. Draws of DiffPose's H_K and an ensemble of nearest neighbours need no network after the context.
The table has the mean error, the energy score of whole poses, CRPS, the error of limb lengths, the distance of limb
directions, the best of 20 at a spread of 50 mm, and coverage of the 50 and 90 % regions. Confused joints are rare:
their coverage is measured on more frames, on which nothing else is. A second table has the differences of energy
scores frame by frame, to the Gaussian of the method's own mean and to that of `ROW_TO_BEAT`, whose intervals are much
narrower: of the first seed with its interval, then of the others. A third has the intervals of coverage. Intervals are
those of 95 % of a bootstrap over subjects, for the first seed. Trained models are kept in OUTPUT/<name>-<seed> and
figures beside them, so that a repeated command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from budget import small_config, train_whole
from distributions_report import format_tables
from ml_collections import ConfigDict

from diffpose_jax.calibrate import calibrate
from diffpose_jax.data.clip import VISIBILITY
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.evaluation.aggregation import ALL, SCORED
from diffpose_jax.evaluation.baselines import nearest_neighbours
from diffpose_jax.evaluation.calibration import LEVELS, covered, mahalanobis_rank
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.distributions import distribution_row, measure_hypotheses
from diffpose_jax.evaluation.error_gaussian import Dependence, fit_error_gaussian
from diffpose_jax.evaluation.intervals import subject_interval
from diffpose_jax.evaluation.jobs import Job, strided_frames
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.evaluation.scores import SCORES
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.registry import load_dataset
from diffpose_jax.workdir.trained import Trained, load_trained

HYPOTHESES = 20
# Reverse steps that are none: what hypotheses start from.
NO_STEPS = Plan(np.zeros(0, np.int32), np.zeros((0, 4), np.float32))


class Method(NamedTuple):
    """A config, the method whose model is its context, and for how many folds it is cross-fitted itself."""

    config: str
    context: str = ""
    folds: int = 0


class Test(NamedTuple):
    """The test frames.

    Attributes:
        measured: Every n-th frame of each clip, on which everything is measured.
        frames: Those and frames with confused joints, `[M]`, ascending.
        strided: The rows of `frames` that are measured.
        confused: Which joints of `frames` are confused, `[M, J]`.
        subjects: The subject of each of `frames`.
    """

    measured: Measured
    frames: np.ndarray
    strided: np.ndarray
    confused: np.ndarray
    subjects: list[str]

    @classmethod
    def of(cls, clips: ClipSet, stride: int, most: int) -> Test:
        """Every `stride`-th frame, and evenly at most so many of those with confused joints."""
        assert clips.visibility is not None
        measured, confused = Measured.of(clips, stride, "standard"), clips.visibility == VISIBILITY.index("confused")
        some = np.flatnonzero(confused.any(axis=1))
        some = some[np.unique(np.linspace(0, len(some) - 1, min(most, len(some))).astype(int))]
        frames = np.union1d(measured.indices, some)
        confused[:, clips.skeleton.root] = False  # zero by definition
        subjects = [clips.subject[clip] for clip in clips.frame_clip()[frames]]
        return cls(measured, frames, np.isin(frames, measured.indices), confused[frames], subjects)


METHODS = {
    "residual MLP": Method("residual_mlp"),
    "residual MLP, cross-fitted": Method("residual_mlp", folds=5),
    "mixture density": Method("mixture_density"),
    "DiffuPose": Method("diffupose"),
    "DiffPose": Method("diffpose_frame:heatmaps", "residual MLP"),
    "DiffPose, context cross-fitted": Method("diffpose_frame:heatmaps", "residual MLP, cross-fitted"),
    "DiffPose, paper": Method("diffpose_frame:paper", "residual MLP"),
}
ROW_TO_BEAT = "residual MLP: Gaussian of that mean, joints together"


def main(arguments: list[str]) -> int:
    """Trains and measures what is not measured yet, then writes the table of all there is."""
    logging.set_verbosity(logging.WARNING)
    given = _parse(arguments)
    for seed in range(given.seeds):
        for name in given.only:
            workdir = _train(name, seed, given)
            kept = workdir / "distributions.json"
            if not kept.exists():
                kept.write_text(json.dumps(list(_measure(name, workdir, given)), indent=1))
    table = format_tables(given.output, ROW_TO_BEAT)
    (given.output / "distributions.md").write_text(table)
    print(table + f"\ntable: {given.output / 'distributions.md'}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive with mixtures, made by `prepare mixtures`")
    parser.add_argument("--view", default="person", choices=("screen", "person"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="training steps of each; 0: those of its config")
    parser.add_argument("--stride", type=int, default=50, help="every n-th frame of the test split is measured")
    parser.add_argument("--confused", type=int, default=250, help="frames with confused joints, for their coverage")
    parser.add_argument("--valid_frames", type=int, default=1000, help="frames of valid that errors are fitted on")
    # A cross-fitted model is the context of another; by itself it is the same as the one without folds.
    measured = [name for name, method in METHODS.items() if not method.folds]
    parser.add_argument("--only", nargs="+", choices=METHODS, default=measured, metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("runs/distributions"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    return given


def _workdir(name: str, seed: int, given: argparse.Namespace) -> Path:
    path: Path = given.output / f"{name}-{seed}".replace(", ", "_").replace(" ", "_")
    return path


def _train(name: str, seed: int, given: argparse.Namespace) -> Path:
    method, workdir = METHODS[name], _workdir(name, seed, given)
    if (workdir / "trained").exists():
        return workdir
    config = _config(method, seed, given)
    if method.context:
        config.lifter.context = str(_train(method.context, seed, given))
    train_whole(config, workdir, method.folds)
    calibrate(workdir)
    (workdir / "trained").touch()
    return workdir


def _config(method: Method, seed: int, given: argparse.Namespace) -> ConfigDict:
    config = small_config(method.config, given.data, seed, {"data.view": given.view})
    if given.steps:
        config.training.update(steps=given.steps, validate_every=given.steps, checkpoint_every=given.steps)
    return config


def _measure(name: str, workdir: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a model: its calibrated hypotheses, the Gaussians of the same mean, and its distribution at start."""
    trained = load_trained(workdir)
    clips = load_dataset(trained.config.data, ["train", "valid", "test"], without_mixtures=["train"])
    test = Test.of(clips["test"], given.stride, given.confused)
    drawn = _draw(trained, clips["test"], test.frames)
    estimates = drawn.mean(axis=1)
    if trained.lifter.stochastic:
        yield _row(test, name, drawn)
        untouched = load_trained(workdir, calibrated=False)
        yield _row(test, f"{name}, not calibrated", _draw(untouched, clips["test"], test.frames))
    valid = clips["valid"]
    frames = strided_frames(valid, max(1, valid.num_frames // given.valid_frames))
    assert valid.poses is not None
    fitted = _draw(trained, valid, frames).mean(axis=1)
    choices: Sequence[Dependence] = ("joint", "pose")
    for dependence in choices:
        gaussian = fit_error_gaussian(fitted, valid.poses[frames], valid.skeleton.root, dependence)
        words = "joints together" if dependence == "pose" else "joints apart"
        yield _row(test, f"{name}: Gaussian of that mean, {words}", gaussian.draw(estimates, HYPOTHESES))
    if name == "DiffPose":
        yield _row(test, "draws of H_K", _draw(untouched, clips["test"], test.frames, NO_STEPS))
    if name == "residual MLP":
        keypoints = np.asarray(clips["test"].keypoints[test.frames])
        yield _row(test, "nearest neighbours in 2D", nearest_neighbours(clips["train"], keypoints, HYPOTHESES))


def _draw(trained: Trained, clips: ClipSet, frames: np.ndarray, plan: Plan | None = None) -> np.ndarray:
    count = HYPOTHESES if trained.lifter.stochastic else 1
    # As `calibrate` and `evaluate` draw them: a spread that was fitted to hypotheses of both views is not that of one.
    sampling = Sampling(count, trained.temperature or 1.0, flip=trained.config.evaluation.flip, plan=plan)
    job = Job(sampling, (ALL,), 256)
    return predict_frames("lift", trained.lifter, trained.variables, clips, frames, job)[ALL]


def _row(test: Test, name: str, everywhere: np.ndarray) -> dict[str, Any]:
    measured, hypotheses, truth = test.measured, everywhere[test.strided], test.measured.clips.poses
    assert truth is not None
    found = measure_hypotheses(measured, [hypotheses])
    row = distribution_row(measured, name, name, found)
    if test.confused.any():
        ranks = mahalanobis_rank(jnp.moveaxis(jnp.asarray(everywhere), 1, 0), jnp.asarray(truth[test.frames]))
        values = {str(level): np.where(test.confused, covered(np.asarray(ranks), level), np.nan) for level in LEVELS}
        row["coverage"]["confused"] = {level: float(np.nanmean(one)) for level, one in values.items()}
        intervals = {level: subject_interval(one, test.subjects) for level, one in values.items()}
        row["coverage_interval"]["confused"] = intervals
    energy = SCORES["energy_score"].scale * found[SCORED][:, list(SCORES).index("energy_score")]
    row |= {"energy": np.round(energy, 3).tolist(), "subjects": measured.subjects}
    error = np.linalg.norm(hypotheses.mean(axis=1) - np.asarray(measured.frames.poses), axis=-1)
    return row | {"scores": {**row["scores"], "mpjpe": 1000 * float(error.mean())}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
