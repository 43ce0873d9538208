"""Fitting the spread of hypotheses: by the temperature of the noise where the sampler follows it, else by scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Windows, gather
from diffpose_jax.evaluation.calibration import Draws, fit_scales
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.kind_scales import Keypoints, add_tail, fit_kinds
from diffpose_jax.evaluation.scores import energy_score
from diffpose_jax.evaluation.timed_lifting import Lifted, Limit, TimedLifting, compare_with_truth, thin_out
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.lifters.scales import Scales, keypoint_kinds, scale_hypotheses, tail_weights
from diffpose_jax.lifters.visibility import believe_guesses
from diffpose_jax.skeleton import Skeleton

# Temperatures that are tried, and when one is found: the spread is right within this factor.
TEMPERATURES = (1 / 8, 8.0)
PRECISION, FEW_PRECISION = 1.03, 1.06
# The temperature acts before the denoiser, so that wider hypotheses are still what the network makes of noise: people.
# Scaled deviations lead straight away from the mean and change the lengths of bones, and are the second choice.
# A sampler follows the temperature if the logarithm of the spread that is missing falls by at least this much with the
# logarithm of the temperature; exactly by 1 where the spread is proportional to it.
RESPONSE = 0.3
# Of whole poses at the temperature that was found, the energy score may be worse by this factor than at temperature 1.
WORSE = 1.02
# The temperature that few frames gave is corrected on all of them at most so often.
_CORRECTIONS = 2
# The frames on which the spread is fitted are at most so many.
_FIT_FRAMES = 1024


class SpreadFit(NamedTuple):
    """A calibrated spread and the hypotheses that have it.

    Attributes:
        temperature: The temperature of the noise.
        scales: Factors after sampling, None where there are none.
        why: In a few words, why it was done this way.
        before: Hypotheses at temperature 1.
        after: The hypotheses of the same frames at the temperature and with the scales that were found.
    """

    temperature: float
    scales: Scales | None
    why: str
    before: Lifted
    after: Lifted


class _Sample(NamedTuple):
    """A split whose hypotheses are compared with the truth."""

    lifting: TimedLifting
    clips: ClipSet
    skeleton: Skeleton

    def draws(self, lifted: Lifted) -> Draws:
        """Hypotheses of at most `_FIT_FRAMES` frames, without the root."""
        return compare_with_truth(thin_out(lifted, _FIT_FRAMES), self.clips)

    def keypoints(self, lifted: Lifted) -> Keypoints:
        """What is known of the keypoints of the same frames."""
        frames = thin_out(lifted, _FIT_FRAMES).frames
        kinds = np.delete(self.kinds(frames), self.skeleton.root, axis=1)
        return Keypoints(kinds, np.array(self.clips.subject)[self.clips.frame_clip()[frames]])

    def kinds(self, frames: np.ndarray) -> np.ndarray:
        """The index in `KINDS` of the keypoints of frames `[M]` as the lifter sees them, `[M, J]`."""
        lifter, where = self.lifting.lifter, jnp.asarray(frames, jnp.int32)
        batch = gather(self.lifting.clips, Windows(where, where, where), jnp.arange(len(where), dtype=jnp.int32), 1)
        return np.asarray(keypoint_kinds(believe_guesses(lifter, batch), self.skeleton))[:, 0]

    def missing(self, lifted: Lifted) -> float:
        """The logarithm of the one factor by which all deviations from the mean would have to be larger.

        Of people who are seen whole, where there are enough of them.
        """
        labels = np.where(self.keypoints(lifted).whole, 0, 1)
        return float(np.log(fit_scales(self.draws(lifted), labels, 2)[0]))


def fit_spread(
    lifter: Lifter,
    variables: Variables,
    clips: ClipSet,
    frames: int,
    job: Job,
    limit: Limit,
    steps: int,
    scales: bool = False,
) -> SpreadFit:
    """The temperature, or else the scales, at which coverage is nominal on frames of all subjects of a split.

    Args:
        lifter: The method, not calibrated.
        variables: Its variables.
        clips: The split, with poses.
        frames: About how many frames are lifted; fewer where the time allows no more.
        job: How they are lifted.
        limit: The time that it may take.
        steps: The reverse steps of the config.
        scales: Whether to scale without looking for a temperature.

    Raises:
        UserError: A model that is too slow for the limit.
    """
    lifting = TimedLifting(lifter, variables, clips, job, frames)
    lifting.check_cost(limit, steps)
    sample = _Sample(lifting, clips, lifter.skeleton)
    few = lifting.lift(1.0, 1)
    search = Search(None, 0.0, "a temperature was not looked for")
    if not scales:
        search = search_temperature(
            lambda one: sample.missing(few if one == 1 else lifting.lift(one, 1)), FEW_PRECISION
        )
    if scales or search.temperature == 1:
        lifting.lift(1.01, 1)  # for its time: in that of the first call everything was compiled
    # What is left of the time is for the whole sample at temperature 1 and at three others at most; a fifth is spare.
    rounds = 1 if search.temperature == 1 else _CORRECTIONS + 2
    calls = min(lifting.calls, int(0.8 * limit.left / (rounds * lifting.seconds_per_call)))
    if search.temperature is None or calls < 1:
        why = search.why or "there is no time for a temperature"
        calls = min(lifting.calls, max(1, int(0.8 * limit.left / lifting.seconds_per_call)))
        return _with_scales(sample, lifting.lift(1.0, calls, "calibrate"), why)
    before = lifting.lift(1.0, calls, "calibrate at temperature 1")
    return _with_temperature(sample, before, calls, search)


class Search(NamedTuple):
    """The end of a search: the temperature, None where there is none; the response of the sampler; and why."""

    temperature: float | None
    response: float
    why: str = ""


def search_temperature(missing: Callable[[float], float], precision: float, most: int = 6) -> Search:
    """The temperature at which no spread is missing, by the secant method in logarithms.

    Args:
        missing: temperature -> the logarithm of the factor by which the spread is too small.
        precision: It is found where the factor is within this ratio of 1.
        most: How many temperatures are tried.
    """
    place, found = 0.0, missing(1.0)
    if abs(found) < np.log(precision):
        return Search(1.0, -1.0)
    # If the spread is proportional to the temperature, the missing factor is the temperature. The first step is
    # at most 2.
    slope, following = -1.0, float(np.clip(found, -np.log(2), np.log(2)))
    for _ in range(most):
        now = missing(float(np.exp(following)))
        slope = (now - found) / (following - place)
        if slope > -RESPONSE:
            return Search(None, slope, "the spread does not follow the temperature")
        if abs(now) < np.log(precision):
            return Search(float(np.exp(following)), slope)
        place, found, following = following, now, following - now / slope
        if not np.log(TEMPERATURES[0]) <= following <= np.log(TEMPERATURES[1]):
            break
    return Search(None, slope, f"no temperature in {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g} has enough spread")


def _with_temperature(sample: _Sample, before: Lifted, calls: int, search: Search) -> SpreadFit:
    """The temperature that few frames gave, corrected on all of them; scales where it fails there."""
    assert search.temperature is not None
    temperature = search.temperature
    for attempt in range(_CORRECTIONS + 1):
        label = f"calibrate at temperature {temperature:.2f}"
        after = before if temperature == 1 else sample.lifting.lift(temperature, calls, label)
        missing = sample.missing(after)
        if abs(missing) < np.log(PRECISION) or attempt == _CORRECTIONS:
            break
        # One more step of Newton's method in logarithms, with the slope that the search ended with.
        temperature = float(np.clip(temperature * np.exp(-missing / search.response), *TEMPERATURES))
    if abs(missing) > 3 * np.log(PRECISION):
        return _with_scales(sample, before, "no temperature gives all frames the right spread")
    if _energy(sample, after) > WORSE * _energy(sample, before):
        return _with_scales(sample, before, f"at temperature {temperature:.2f} the energy score of whole poses rises")
    draws, keypoints = sample.draws(after), sample.keypoints(after)
    scales = fit_kinds(draws, keypoints, np.zeros(draws.target.shape[1]), sample.skeleton)
    scales = _with_tail(sample, after, scales)
    why = "the spread follows the temperature"
    return SpreadFit(temperature, scales, why, before, _apply(sample, after, scales))


def _with_scales(sample: _Sample, before: Lifted, why: str) -> SpreadFit:
    """A factor for each joint and for each kind of keypoint, applied to hypotheses at temperature 1."""
    draws, keypoints = sample.draws(before), sample.keypoints(before)
    count = keypoints.kinds.shape[1]
    own = fit_scales(draws, np.where(keypoints.whole, np.arange(count), count), count + 1)[:count]
    scales = fit_kinds(draws, keypoints, np.log(own), sample.skeleton, keep=True)
    scales = _with_tail(sample, before, scales)
    return SpreadFit(1.0, scales, why, before, _apply(sample, before, scales))


def _with_tail(sample: _Sample, lifted: Lifted, scales: Scales | None) -> Scales | None:
    draws = sample.draws(_apply(sample, lifted, scales))
    return add_tail(draws, sample.keypoints(lifted), scales, sample.skeleton)


def _apply(sample: _Sample, lifted: Lifted, scales: Scales | None) -> Lifted:
    if scales is None:
        return lifted
    frames = lifted.frames
    factors, weights = scales.factors(jnp.asarray(sample.kinds(frames))), None
    if scales.tail:
        weights = tail_weights(jax.random.key(0), jnp.asarray(frames), lifted.hypotheses.shape[1], scales.tail)
    found = scale_hypotheses(jnp.moveaxis(jnp.asarray(lifted.hypotheses), 1, 0), factors, weights)
    return lifted._replace(hypotheses=np.asarray(jnp.moveaxis(found, 0, 1)))


def _energy(sample: _Sample, lifted: Lifted) -> float:
    return float(jnp.mean(energy_score(*sample.draws(lifted))))
