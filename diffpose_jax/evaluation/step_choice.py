"""The fewest reverse steps that give the same distribution as the whole chain, on people who were not trained on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import DeviceClips, Windows, device_clips
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.calibration import fit_scales
from diffpose_jax.evaluation.jobs import Job, predict_windows
from diffpose_jax.evaluation.padding import pad_clips
from diffpose_jax.evaluation.scores import energy_score
from diffpose_jax.evaluation.timed_lifting import Lifted, Limit, compare_with_truth, sample_windows, thin_out
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.workdir.trained import Trained

# The numbers of steps that are tried, fewest first, each with both samplers.
STEPS = (1, 2, 3, 5, 6, 8, 12, 20, 35)
# About so many frames are lifted by each.
_FRAMES = 256
# Longer chains are stood for by so many steps: beyond them nothing changes by more than figures scatter.
WHOLE = 100
# The mean error and the energy score of whole poses may be worse by this factor.
WORSE = 1.01


class Measured(NamedTuple):
    """What a plan gives: mean error of the hypotheses' mean and energy score of whole poses, m."""

    error: float
    energy: float

    def is_as_good_as(self, whole: Measured) -> bool:
        """Whether neither is worse than that of the whole chain by more than `WORSE`."""
        return self.error <= WORSE * whole.error and self.energy <= WORSE * whole.energy


def choose_steps(trained: Trained, clips: ClipSet, job: Job, limit: Limit) -> dict[str, Any] | None:
    """The cheapest plan that is as good as the whole chain, as values of the section `diffusion`; None without one.

    Hypotheses of every plan are spread out, or in, by one factor until coverage is nominal before their energy score is
    taken: so does the calibration that follows, and fewer steps would otherwise seem worse for their narrower spread.

    Args:
        trained: The lifter, not calibrated.
        clips: A split with poses.
        job: How the frames are lifted.
        limit: The time that all of it may take; after two thirds no more plans are tried.

    Raises:
        UserError: A lifter without reverse steps.
    """
    config = trained.config
    if not trained.lifter.diffuses:
        raise UserError(f"calibrate --steps: expected a method with reverse steps, found {config.lifter.name}")
    on_device, windows = pad_clips(device_clips(clips)), sample_windows(trained.lifter, clips, _FRAMES)
    trial = _Trial(trained, clips, on_device, windows, job.replace(outputs=(ALL,)))
    whole = min(config.diffusion.steps, WHOLE)
    reference = trial.measure(plan_for(config, config.diffusion.sampler, whole))
    _say(config.diffusion.sampler, whole, reference)
    for steps in (steps for steps in STEPS if steps < whole):
        found: dict[str, Measured] = {}
        for sampler in ("ddim", "ddpm"):
            if limit.used > 2 / 3 * limit.seconds:
                logging.warning(
                    "calibrate --steps: no fewer than %d steps are as good as all; there was no time to try more, and "
                    "the config's are kept: give more --minutes",
                    steps,
                )
                return None
            found[sampler] = trial.measure(plan_for(config, sampler, steps))
            _say(sampler, steps, found[sampler])
        good = [sampler for sampler, one in found.items() if one.is_as_good_as(reference)]
        if good:
            best = min(good, key=lambda sampler: found[sampler].energy)
            return {"sampler": best, "sampling_steps": steps}
    return None


class _Trial(NamedTuple):
    """What is lifted by every plan."""

    trained: Trained
    clips: ClipSet
    on_device: DeviceClips
    windows: Windows
    job: Job

    def measure(self, plan: Plan) -> Measured:
        """What the windows have with a plan."""
        job = self.job.replace(sampling=self.job.sampling.replace(plan=plan))
        lifter, variables = self.trained.lifter, self.trained.variables
        found, frames = predict_windows(lifter, variables, self.on_device, self.windows, job)
        # Hundreds of frames are enough, and windows of a sequence have more.
        draws = compare_with_truth(thin_out(Lifted(found[ALL], frames), 4 * _FRAMES), self.clips)
        shape = draws.target.shape[:2]
        factor = fit_scales(draws, np.zeros(shape, int), 1)[0]
        energy = energy_score(*draws.scaled(jnp.full(shape, factor, jnp.float32)))
        error = jnp.linalg.norm(draws.hypotheses.mean(axis=0) - draws.target, axis=-1)
        return Measured(float(error.mean()), float(jnp.mean(energy)))


def plan_for(config: ConfigDict, sampler: str, steps: int) -> Plan:
    """The plan of so many reverse steps of a sampler, 'ddpm' or 'ddim', on the schedule of a config."""
    diffusion = copy_config(config, diffusion={"sampler": sampler}).diffusion
    return make_plan(diffusion, make_schedule_of(diffusion), steps)


def _say(sampler: str, steps: int, measured: Measured) -> None:
    logging.info(
        "%s, %d steps: mean error %.1f mm, energy score %.1f mm",
        *(sampler, steps, 1000 * measured.error, 1000 * measured.energy),
    )
