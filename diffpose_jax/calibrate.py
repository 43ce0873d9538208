"""Make hypotheses say how uncertain they are: `python -m diffpose_jax.calibrate --workdir runs/diffpose`.

A network's posterior is that of the people it learned from, and a few reverse steps narrow it: on others the truth lies
outside too often. On a split it did not learn from, this finds the temperature of the noise at which the hypotheses'
central regions hold the truth as often as they say, and writes it to the work directory's `calibration.json`, which
`evaluate` and `predict` use from then on. Removing the file takes it back.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from diffpose_jax import cli
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import RANK
from diffpose_jax.evaluation.calibration import coverage, coverage_text, fit_temperature
from diffpose_jax.evaluation.jobs import Job, predict_windows, spread_windows
from diffpose_jax.lifters.base import Lifter, Sampling, Variables
from diffpose_jax.progress import Progress
from diffpose_jax.registry import load_dataset
from diffpose_jax.workdir.trained import CALIBRATION, load_trained


def calibrate(
    workdir: str | os.PathLike,
    *,
    split: str = "valid",
    frames: int = 512,
    hypotheses: int = 20,
    flip: bool | None = None,
    batch_size: int | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Finds the temperature of a work directory's best checkpoint, writes `calibration.json` and returns what it holds.

    It is for the sampling steps of the config.

    Args:
        workdir: The work directory of the trained lifter.
        split: The split to calibrate on.
        frames: Frames of it, evenly spread.
        hypotheses: Hypotheses per frame.
        flip: Whether to average over the mirrored input; as in the config by default.
        batch_size: Windows per device and compiled call; as in the config by default.
        command: What the file says it was made by.

    Raises:
        UserError: A lifter without hypotheses, data without 3D poses, or hypotheses that cannot be calibrated.
    """
    trained = load_trained(workdir)
    config = trained.config
    if not trained.lifter.stochastic:
        raise UserError(f"{workdir}: expected a lifter with hypotheses to calibrate, found {config.lifter.name}")
    clips = load_dataset(config.data, [split])[split]
    if clips.poses is None or not clips.num_frames:
        raise UserError(f"{config.data.source}: expected frames with 3D poses in split {split}, found none")
    sampling = Sampling(hypotheses, flip=config.evaluation.flip if flip is None else flip)
    size, data = batch_size or config.evaluation.batch_size, config.data
    job = Job(sampling, (RANK,), size, config.seed, data.occlusion, data.occlusion_rate)
    found = find_temperature(trained.lifter, trained.variables, clips, frames, job)
    found |= {
        "step": trained.step,
        "split": split,
        "frames": frames,
        "hypotheses": hypotheses,
        "flip": sampling.flip,
        "sampling_steps": config.diffusion.sampling_steps or config.diffusion.steps,
        "command": command or f"calibrate({str(workdir)!r})",
    }
    (Path(workdir) / CALIBRATION).write_text(json.dumps(found, indent=2) + "\n")
    return found


def find_temperature(lifter: Lifter, variables: Variables, clips: ClipSet, frames: int, job: Job) -> dict[str, Any]:
    """The temperature at which frames that are spread over a set are covered as they should be.

    The root, which is zero by definition, does not count.

    Args:
        lifter: The method.
        variables: Its variables.
        clips: The set.
        frames: How many of its frames are lifted.
        job: How they are lifted; its output is the rank of the truth.

    Returns:
        The temperature and the coverage at it and at 1: `{"temperature": t, "coverage": {"0.5": share}, "uncalibrated":
        ...}`.
    """
    windows, clips_on_device = spread_windows(lifter, clips, frames), device_clips(clips)
    measured: dict[float, dict[float, float]] = {}

    def coverage_at(temperature: float) -> dict[float, float]:
        if temperature not in measured:
            hot = job.replace(sampling=job.sampling.replace(temperature=temperature))
            with Progress(f"temperature {temperature:.2f}", 100, "%") as progress:
                ranks, _ = predict_windows(
                    lifter,
                    variables,
                    clips_on_device,
                    windows,
                    hot,
                    progress=lambda share: progress.update(min(99, round(100 * share))),
                )
                measured[temperature] = coverage(np.delete(ranks[RANK], clips.skeleton.root, axis=1))
                progress.update(100, coverage_text(measured[temperature]))
        return measured[temperature]

    temperature = fit_temperature(coverage_at)
    now, before = ({str(level): share for level, share in coverage_at(one).items()} for one in (temperature, 1.0))
    return {"temperature": temperature, "coverage": now, "uncalibrated": before}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    flags.DEFINE_string("workdir", None, "Work directory of the trained lifter.", flag_values=values)
    flags.DEFINE_string("split", "valid", "Split to calibrate on, not the one to be measured.", flag_values=values)
    flags.DEFINE_integer("frames", 512, "Frames of it, evenly spread.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("hypotheses", 20, "Hypotheses per frame.", lower_bound=2, flag_values=values)
    flags.DEFINE_boolean("flip", None, "Average every hypothesis with one of the mirrored input.", flag_values=values)
    flags.DEFINE_integer("batch_size", None, "Windows per device and compiled call.", flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, calibrates, and says what was found and where it is."""
    cli.require(argv, given, "workdir")
    found = calibrate(
        given.workdir,
        split=given.split,
        frames=given.frames,
        hypotheses=given.hypotheses,
        flip=given.flip,
        batch_size=given.batch_size,
        command=shlex.join(["python", "-m", "diffpose_jax.calibrate", *sys.argv[1:]]),
    )
    for name, key in (("before", "uncalibrated"), ("now", "coverage")):
        print(f"{name}: {coverage_text({float(level): share for level, share in found[key].items()})}")
    print(f"temperature {found['temperature']:.2f}: {Path(given.workdir) / CALIBRATION}")
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
