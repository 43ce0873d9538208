"""Calibrate the spread of hypotheses: `python -m diffpose_jax.calibrate --workdir runs/diffpose`.

Hypotheses are often overconfident: the people trained on differ from those seen later, and few reverse steps narrow the
distribution. On a split that was not trained on, this program finds the temperature of the noise at which credible
regions have nominal coverage: the 50 % region holds the truth in half of the cases. Where the sampler does not follow
the temperature, it finds factors of the hypotheses' deviations from their mean instead. On top it fits conformal
regions, also of deterministic lifters. All goes to the work directory's `calibration.json`, which `evaluate` and
`predict` use from then on; without the file they do not. `docs/calibration.md` has the formulas and what they assume.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from diffpose_jax import cli
from diffpose_jax.config import copy_config, current_value
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import conformal
from diffpose_jax.evaluation.calibration import LEVELS, coverage, format_coverage, mahalanobis_rank
from diffpose_jax.evaluation.error_gaussian import enough_frames, fit_error_gaussian
from diffpose_jax.evaluation.hiding import hide_for
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.metrics import spread
from diffpose_jax.evaluation.spread_fit import SpreadFit, fit_spread
from diffpose_jax.evaluation.step_choice import choose_steps
from diffpose_jax.evaluation.timed_lifting import Lifted, Limit, TimedLifting
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.scales import KINDS, Scales
from diffpose_jax.registry import build_lifter, load_dataset
from diffpose_jax.workdir.calibration import pack_factor, write_calibration
from diffpose_jax.workdir.releases import copy_release, is_shipped
from diffpose_jax.workdir.trained import Trained, load_trained


@dataclasses.dataclass(frozen=True)
class Calibrating:
    """What is calibrated, and how; for the reverse steps of the config.

    Attributes:
        workdir: The work directory of the trained lifter.
        data: An archive or 'synthetic' in place of the data trained on.
        split: The split to calibrate on.
        frames: About how many frames of it, evenly over the split; fewer where the time allows no more.
        hypotheses: Hypotheses per frame.
        flip: How the mirrored input enters, 'none', 'half' or 'average'; as in the config by default.
        batch_size: Windows per device and compiled call at most; as in the config by default.
        minutes: How long it may take.
        detector_strength: Strength of the simulated keypoint noise, as in the config's section `data`; the config's own
            by default. A model trained on detectors of every quality sees half of the frames without noise.
        detector_bias: Errors of that noise that last for a whole clip, likewise.
        scales: Whether to scale the deviations from the mean after sampling without looking for a temperature.
        steps: Whether the fewest reverse steps that give the same distribution are looked for first.
        command: The command that the file names.
    """

    workdir: str | os.PathLike
    data: str | None = None
    split: str = "valid"
    frames: int = 512
    hypotheses: int = 20
    flip: str | bool | None = None
    batch_size: int | None = None
    minutes: float = 2.0
    detector_strength: float | None = None
    detector_bias: float | None = None
    scales: bool = False
    steps: bool = False
    command: str = ""

    def run(self) -> dict[str, Any]:
        """Calibrates, writes the record and returns it. Raises UserError for a mistake of the user."""
        if is_shipped(self.workdir):
            raise UserError(
                f"{self.workdir}: expected a work directory, found a model of the package; copy it with --output"
            )
        limit = Limit(60 * self.minutes)
        trained = load_trained(self.workdir, calibrated=False)
        clips, job = self._prepare(trained)
        chosen = None
        if self.steps:
            as_trained = hide_for(trained.lifter, clips, job)
            chosen = choose_steps(trained, *as_trained, limit)
            limit = Limit(60 * self.minutes)
        if chosen is not None:
            config = copy_config(trained.config, diffusion=chosen)
            trained = trained._replace(config=config, lifter=build_lifter(config))
        clips, job = hide_for(trained.lifter, clips, job, limbs=True)
        found = _fit(trained, clips, self.frames, job, limit, self.scales) | {
            "diffusion": chosen,
            "step": trained.step,
            "split": self.split,
            "hypotheses": job.sampling.hypotheses,
            "flip": job.sampling.flip,
            "sampling_steps": _steps(trained),
            "seconds": round(limit.used, 1),
            "command": self.command or f"calibrate({str(self.workdir)!r})",
        }
        write_calibration(Path(self.workdir), found)
        return found

    def _prepare(self, trained: Trained) -> tuple[ClipSet, Job]:
        """The split, and how it is lifted."""
        config = copy_config(trained.config, data={"source": self.data or trained.config.data.source})
        for name in ("detector_strength", "detector_bias"):
            if getattr(self, name) is not None:
                config.data[name] = getattr(self, name)
        data, section = config.data, config.evaluation
        clips = load_dataset(data, [self.split])[self.split]
        if clips.poses is None or not clips.num_frames:
            raise UserError(f"{data.source}: expected frames with 3D poses in split {self.split}, found none")
        if data.cameras == "random" and data.detector_strength and not data.heatmaps:
            # A model that is trained for detectors of every quality is calibrated for exact keypoints as well.
            exact = copy_config(config, data={"detector_strength": 0.0}).data
            clips = load_dataset(exact, [self.split])[self.split].join(clips)
        flip = current_value("evaluation.flip", section.flip if self.flip is None else self.flip)
        sampling = Sampling(self.hypotheses if trained.lifter.stochastic else 1, flip=flip)
        size = self.batch_size or section.batch_size
        return clips, Job(sampling, (), size, config.seed, data.occlusion, data.occlusion_rate, section.memory)


def calibrate(workdir: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Calibrates a work directory's best checkpoint, writes `calibration.json` and returns what it holds.

    Args:
        workdir: The work directory of the trained lifter.
        **options: Fields of `Calibrating`, such as `hypotheses=20`.

    Raises:
        UserError: Data without 3D poses, too few frames, or a model that is too slow for the time.
    """
    return Calibrating(workdir, **options).run()


def _steps(trained: Trained) -> int:
    diffusion = trained.config.diffusion
    return (diffusion.sampling_steps or diffusion.steps) if trained.lifter.diffuses else 1


def _fit(trained: Trained, clips: ClipSet, frames: int, job: Job, limit: Limit, scales: bool = False) -> dict[str, Any]:
    """The part of the record that is fitted."""
    lifter, variables = trained.lifter, trained.variables
    if lifter.stochastic:
        fit = fit_spread(lifter, variables, clips, frames, job, limit, _steps(trained), scales)
    else:
        lifting = TimedLifting(lifter, variables, clips, job, frames)
        lifting.check_cost(limit, 1)
        lifting.lift(1.0, 1)
        lifting.lift(1.01, 1)  # for its time: in that of the first call everything was compiled
        calls = max(1, int(0.8 * limit.left / lifting.seconds_per_call))
        lifted = lifting.lift(1.0, calls, "calibrate")
        fit = SpreadFit(1.0, None, "the lifter is deterministic: regions alone", lifted, lifted)
    clip = clips.frame_clip()[fit.after.frames]
    subjects = [clips.subject[one] for one in clip]
    found: dict[str, Any] = {
        "temperature": fit.temperature,
        "scales": _describe_scales(fit.scales),
        "why": fit.why,
        "frames": len(fit.after.frames),
        "subjects": sorted(set(subjects)),
        "regions": fit_regions(fit.after, clips, subjects),
        "errors": _fit_errors(fit.after, clips),
    }
    if lifter.stochastic:
        found |= {"coverage": _coverage(fit.after, clips), "uncalibrated": _coverage(fit.before, clips)}
    return found


def _fit_errors(lifted: Lifted, clips: ClipSet) -> list[float] | None:
    """The factor of the covariance of the mean's errors, as the record has it; None with too few frames for one."""
    assert clips.poses is not None
    estimates, target = lifted.hypotheses.mean(axis=1), clips.poses[lifted.frames]
    if not enough_frames(estimates):
        return None
    return pack_factor(fit_error_gaussian(estimates, target, clips.skeleton.root).factor)


def _describe_scales(scales: Scales | None) -> dict[str, Any] | None:
    if scales is None:
        return None
    kinds = dict(zip(KINDS, scales.kinds, strict=True))
    return {"joints": list(scales.joints), "kinds": kinds, "hidden": list(scales.hidden), "tail": scales.tail}


def _coverage(lifted: Lifted, clips: ClipSet) -> dict[str, float]:
    """Coverage by level, as in `results.json`, without the root, which is zero by definition."""
    assert clips.poses is not None
    hypotheses = jnp.moveaxis(jnp.asarray(lifted.hypotheses), 1, 0)
    ranks = np.asarray(mahalanobis_rank(hypotheses, jnp.asarray(clips.poses[lifted.frames])))
    return {
        str(level): share for level, share in coverage(np.delete(ranks, clips.skeleton.root, axis=1), LEVELS).items()
    }


def fit_regions(lifted: Lifted, clips: ClipSet, subjects: Sequence[str]) -> dict[str, Any] | None:
    """The conformal regions of calibrated hypotheses, as `calibration.json` has them; None with too few frames for any.

    Args:
        lifted: The hypotheses of frames.
        clips: The split that they are of.
        subjects: The subject of each frame.
    """
    assert clips.poses is not None
    std = spread(np.moveaxis(lifted.hypotheses, 1, 0))
    scores = conformal.nonconformity(lifted.hypotheses.mean(axis=1), std, clips.poses[lifted.frames])
    try:
        fitted, hidden = conformal.fit_visible_and_hidden(scores, clips.seen[lifted.frames], subjects, LEVELS)
    except UserError:  # the time was too short, or the split has too few: what else was found is kept
        return None
    factors = {str(level): values.tolist() for level, values in zip(LEVELS, fitted.values, strict=True)}
    found: dict[str, Any] = {"floor_m": conformal.FLOOR, "factors": factors, "guarantee": fitted.guarantee}
    if hidden is not None:
        found["hidden"] = {str(level): float(value) for level, value in zip(LEVELS, hidden, strict=True)}
    return found


def describe(found: dict[str, Any]) -> list[str]:
    """What was found, in lines for a terminal."""
    lines = []
    for name, key in (("before", "uncalibrated"), ("now", "coverage")):
        if key in found:
            shares = {float(level): share for level, share in found[key].items()}
            lines.append(f"{name}, {found['split']} split: {format_coverage(shares)}")
    if found["diffusion"]:
        lines.append("reverse steps: {sampling_steps} of {sampler} are as good as all".format(**found["diffusion"]))
    if found["scales"] is None:
        lines.append(f"temperature {found['temperature']:.2f}: {found['why']}")
    else:
        joints = found["scales"]["joints"]
        kinds = ", ".join(f"{kind} {factor:.2f}" for kind, factor in found["scales"]["kinds"].items())
        lines.append(
            f"temperature {found['temperature']:.2f}, scales of joints {min(joints):.2f} to {max(joints):.2f}, "
            f"of keypoints {kinds}, tail {found['scales']['tail']:.2f}: {found['why']}"
        )
    count = len(found["subjects"])
    if found["regions"] is None:
        needed = conformal.samples_needed(max(LEVELS))
        lines.append(
            f"conformal regions: none, for of each subject they need {needed} frames, where {found['frames']} of all "
            "were lifted; more --minutes may give them"
        )
    elif found["regions"]["guarantee"] == conformal.SUBJECTS:
        lines.append(f"conformal regions: guaranteed for subjects exchangeable with these {count}")
    else:
        lines.append(
            f"conformal regions: by the quantiles of {count} subjects; of new subjects they hold for at least {count} "
            f"in {count + 1}, and a guarantee for any needs {conformal.samples_needed(max(LEVELS))}"
        )
    return lines


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    string = partial(flags.DEFINE_string, flag_values=values)
    integer = partial(flags.DEFINE_integer, flag_values=values)
    cli.define_model(values)
    string("output", None, "With --pretrained: the directory for a copy of the model with the new calibration.")
    string("data", None, "Archive to calibrate on, or 'synthetic'; the data trained on if not given.")
    string("split", "valid", "Split to calibrate on, not the one to be measured.")
    integer("frames", 512, "About how many frames of it, evenly over the split.", lower_bound=1)
    integer("hypotheses", 20, "Hypotheses per frame.", lower_bound=2)
    cli.define_flip(values)
    integer("batch_size", None, "Windows per device and compiled call at most.", lower_bound=1)
    flags.DEFINE_float("minutes", 2.0, "How long it may take.", lower_bound=0.1, flag_values=values)
    strength = "Strength of the simulated keypoint noise; that of the config if not given."
    flags.DEFINE_float("detector_strength", None, strength, lower_bound=0.0, flag_values=values)
    bias = "Errors of that noise that last for a whole clip, 1 as BlazePose's; those of the config if not given."
    flags.DEFINE_float("detector_bias", None, bias, lower_bound=0.0, flag_values=values)
    scales = "Scale the deviations from the mean after sampling, without looking for a temperature."
    flags.DEFINE_bool("scales", False, scales, flag_values=values)
    steps = "Look first for the fewest reverse steps with the same distribution, for as long again."
    flags.DEFINE_bool("steps", False, steps, flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, calibrates, and says what was found and where it is."""
    cli.require(argv, given)
    workdir = cli.chosen_model(given)
    if given.pretrained:
        cli.require(argv, given, "output")
        workdir = str(copy_release(workdir, given.output))
    detector = ("detector_strength", "detector_bias")
    names = ("data", "split", "frames", "hypotheses", "flip", "batch_size", "minutes", *detector, "scales", "steps")
    options: dict[str, Any] = {name: given[name].value for name in names}
    command = shlex.join(["python", "-m", "diffpose_jax.calibrate", *sys.argv[1:]])
    found = calibrate(workdir, command=command, **options)
    for line in describe(found):
        print(line)
    print(f"calibration: {Path(workdir) / 'calibration.json'} ({found['seconds']:.0f} s)")
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
