"""The fewest reverse steps that give the same distribution as the whole chain, on people who were not trained on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.calibration import Draws, fit_scales
from diffpose_jax.evaluation.jobs import Job, predict_windows
from diffpose_jax.evaluation.scores import energy_score
from diffpose_jax.evaluation.timed_lifting import Limit, sample_windows
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.workdir.trained import Trained

# The numbers of steps that are tried, fewest first, each with both samplers.
STEPS = (1, 2, 3, 5, 8, 12, 20, 35)
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
    if not trained.lifter.stochastic:
        raise UserError(f"calibrate --steps: expected a method with reverse steps, found {config.lifter.name}")
    trial = _Trial(trained.lifter, trained.variables, clips, job)
    whole = min(config.diffusion.steps, WHOLE)
    reference = trial.measure(_plan(config, config.diffusion.sampler, whole))
    _say(config.diffusion.sampler, whole, reference)
    for steps in (steps for steps in STEPS if steps < whole):
        found: dict[str, Measured] = {}
        for sampler in ("ddim", "ddpm"):
            if limit.used > 2 / 3 * limit.seconds:
                return None
            found[sampler] = trial.measure(_plan(config, sampler, steps))
            _say(sampler, steps, found[sampler])
        good = [sampler for sampler, one in found.items() if one.is_as_good_as(reference)]
        if good:
            best = min(good, key=lambda sampler: found[sampler].energy)
            return {"sampler": best, "sampling_steps": steps}
    return None


class _Trial(NamedTuple):
    """What is lifted by every plan."""

    lifter: Lifter
    variables: Variables
    clips: ClipSet
    job: Job

    def measure(self, plan: Plan, frames: int = 256) -> Measured:
        """What about so many frames of all subjects have with a plan."""
        windows = sample_windows(self.lifter, self.clips, frames)
        job = self.job.replace(sampling=self.job.sampling.replace(plan=plan), outputs=(ALL,))
        found, lifted = predict_windows(self.lifter, self.variables, device_clips(self.clips), windows, job)
        # Hundreds of frames are enough, and windows of a sequence have more.
        rows = np.unique(np.linspace(0, len(lifted) - 1, 4 * frames).astype(int))
        assert self.clips.poses is not None
        moving = np.delete(np.arange(self.lifter.skeleton.num_joints), self.lifter.skeleton.root)
        hypotheses = np.moveaxis(found[ALL][rows][:, :, moving], 1, 0)
        draws = Draws(jnp.asarray(hypotheses), jnp.asarray(self.clips.poses[lifted[rows]][:, moving]))
        shape = draws.target.shape[:2]
        factor = fit_scales(draws, np.zeros(shape, int), 1)[0]
        energy = energy_score(*draws.scaled(jnp.full(shape, factor, jnp.float32)))
        error = np.linalg.norm(hypotheses.mean(axis=0) - np.asarray(draws.target), axis=-1)
        return Measured(float(error.mean()), float(jnp.mean(energy)))


def _plan(config: ConfigDict, sampler: str, steps: int) -> Plan:
    diffusion = copy_config(config, diffusion={"sampler": sampler}).diffusion
    return make_plan(diffusion, make_schedule_of(diffusion), steps)


def _say(sampler: str, steps: int, measured: Measured) -> None:
    logging.info(
        "%s, %d steps: mean error %.1f mm, energy score %.1f mm",
        *(sampler, steps, 1000 * measured.error, 1000 * measured.energy),
    )
