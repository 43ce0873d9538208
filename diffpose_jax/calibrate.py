"""Calibrate the spread of hypotheses: `python -m diffpose_jax.calibrate --workdir runs/diffpose`.

Hypotheses are often overconfident: the people trained on differ from those seen later, and few reverse steps narrow the
distribution. On a split that was not trained on, this program finds the temperature of the noise at which credible
regions have nominal coverage: the 50 % region holds the truth in half of the cases. It writes the temperature to the
work directory's `calibration.json`, which `evaluate` and `predict` use from then on; without the file they do not.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from diffpose_jax import cli
from diffpose_jax.config import current_value
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import RANK
from diffpose_jax.evaluation.calibration import coverage, fit_temperature, format_coverage
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
    flip: str | bool | None = None,
    batch_size: int | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Finds the temperature of a work directory's best checkpoint, writes `calibration.json` and returns what it holds.

    The temperature is that of the reverse steps of the config.

    Args:
        workdir: The work directory of the trained lifter.
        split: The split to calibrate on.
        frames: Frames of it, evenly spread.
        hypotheses: Hypotheses per frame.
        flip: How the mirrored input enters, 'none', 'half' or 'average'; as in the config by default.
        batch_size: Windows per device and compiled call; as in the config by default.
        command: The command that the file names.

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
    flip = config.evaluation.flip if flip is None else flip
    sampling = Sampling(hypotheses, flip=current_value("evaluation.flip", flip))
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
    """The temperature at which coverage is nominal on frames that are evenly spread over a set.

    The root, which is zero by definition, does not count.

    Args:
        lifter: The method.
        variables: Its variables.
        clips: The set.
        frames: How many of its frames are lifted.
        job: How they are lifted; its output is 'rank'.

    Returns:
        'temperature', and by level the 'coverage' at that temperature and the 'uncalibrated' one at temperature 1.
    """
    # Every temperature is measured on the same frames with the same noise, scaled, so that differences in coverage come
    # from the temperature and not from sampling. It is an argument of the compiled job: all of them run one program.
    windows, clips_on_device = spread_windows(lifter, clips, frames), device_clips(clips)
    measured: dict[float, dict[float, float]] = {}

    def coverage_at(temperature: float) -> dict[float, float]:
        if temperature not in measured:
            job_at = job.replace(sampling=job.sampling.replace(temperature=temperature))
            with Progress(f"temperature {temperature:.2f}", 100, "%") as progress:
                ranks, _ = predict_windows(
                    lifter,
                    variables,
                    clips_on_device,
                    windows,
                    job_at,
                    progress=lambda share: progress.update(min(99, round(100 * share))),
                )
                measured[temperature] = coverage(np.delete(ranks[RANK], clips.skeleton.root, axis=1))
                progress.update(100, format_coverage(measured[temperature]))
        return measured[temperature]

    temperature = fit_temperature(coverage_at)
    now, before = ({str(level): share for level, share in coverage_at(one).items()} for one in (temperature, 1.0))
    return {"temperature": temperature, "coverage": now, "uncalibrated": before}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    string = partial(flags.DEFINE_string, flag_values=values)
    integer = partial(flags.DEFINE_integer, flag_values=values)
    string("workdir", None, "Work directory of the trained lifter.")
    string("split", "valid", "Split to calibrate on, not the one to be measured.")
    integer("frames", 512, "Frames of it, evenly spread.", lower_bound=1)
    integer("hypotheses", 20, "Hypotheses per frame.", lower_bound=2)
    cli.define_flip(values)
    integer("batch_size", None, "Windows per device and compiled call.")


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, calibrates, and says what was found and where it is."""
    cli.require(argv, given, "workdir")
    names = ("split", "frames", "hypotheses", "flip", "batch_size")
    options: dict[str, Any] = {name: given[name].value for name in names}
    command = shlex.join(["python", "-m", "diffpose_jax.calibrate", *sys.argv[1:]])
    found = calibrate(given.workdir, command=command, **options)
    for name, key in (("before", "uncalibrated"), ("now", "coverage")):
        print(f"{name}: {format_coverage({float(level): share for level, share in found[key].items()})}")
    print(f"temperature {found['temperature']:.2f}: {Path(given.workdir) / CALIBRATION}")
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
