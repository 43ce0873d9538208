"""Lifting a sample of a split within a time limit: every beginning of the sample is spread over all subjects."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax import parallel
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import DeviceClips, Windows, centred_windows, device_clips, end_aligned_windows
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.calibration import LEVELS, Draws
from diffpose_jax.evaluation.conformal import samples_needed
from diffpose_jax.evaluation.jobs import Job, predict_windows
from diffpose_jax.evaluation.padding import pad_clips
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.progress import Progress

CALL_FRAMES = 64  # of one call, the least that is lifted and timed
_WINDOWS_PER_SUBJECT = 12  # at least
# A model of which one call is expected to take more than this share of the limit is tried with one hypothesis first.
_TOO_LONG = 0.25
# Floating-point operations per second of one processor core that a network reaches at least.
_CORE_FLOPS = 2e10
# Where lifting one hypothesis takes less than `_SHORT` seconds, `_MORE` others tell what of it each costs.
_SHORT = 0.5
_MORE = 15


class Limit:
    """A time limit in seconds, from the moment it is made."""

    def __init__(self, seconds: float):
        self.seconds, self._begin = seconds, time.monotonic()

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begin

    @property
    def left(self) -> float:
        """Seconds that are left, below 0 after the limit."""
        return self.seconds - self.used


class Lifted(NamedTuple):
    """Hypotheses of frames.

    Attributes:
        hypotheses: `[M, H, J, 3]`, m.
        frames: Their indices in the set, `[M]`, ascending.
    """

    hypotheses: np.ndarray
    frames: np.ndarray


def thin_out(lifted: Lifted, most: int) -> Lifted:
    """At most so many of the frames, evenly spread."""
    rows = np.unique(np.linspace(0, len(lifted.frames) - 1, most).astype(int))
    return Lifted(lifted.hypotheses[rows], lifted.frames[rows])


def compare_with_truth(lifted: Lifted, clips: ClipSet) -> Draws:
    """The hypotheses beside the truth, without the root, which is zero by definition."""
    assert clips.poses is not None
    moving = np.delete(np.arange(clips.skeleton.num_joints), clips.skeleton.root)
    hypotheses = np.moveaxis(lifted.hypotheses[:, :, moving], 1, 0)
    return Draws(jnp.asarray(hypotheses), jnp.asarray(clips.poses[lifted.frames][:, moving]))


class TimedLifting:
    """Lifts the same windows of a split again and again, in calls of one size.

    Attributes:
        clips: The split on the devices.
        calls: How many calls the whole sample has.
        seconds_per_call: What the fastest call took so far, infinity before the first.
    """

    def __init__(self, lifter: Lifter, variables: Variables, clips: ClipSet, job: Job, frames: int):
        """A sample of about `frames` frames of a split; the outputs of `job` are replaced."""
        lifted, devices = 1 if lifter.middle_frame else lifter.frames, parallel.local_device_count()
        size = max(1, min(job.batch_size, CALL_FRAMES // (lifted * devices)))
        self.lifter, self._variables, self._valid = lifter, variables, clips.valid_frame
        self.clips: DeviceClips = parallel.replicate(pad_clips(device_clips(clips)))
        self._windows = sample_windows(lifter, clips, frames)
        self._size = min(devices * size, len(self._windows.start))
        self._job = job.replace(outputs=(ALL,), batch_size=size)
        self.calls = -(-len(self._windows.start) // self._size)
        self.seconds_per_call = float("inf")
        self._done: dict[tuple[float, int], Lifted] = {}

    def lift(self, temperature: float, calls: int, label: str = "") -> Lifted:
        """The hypotheses of the first `calls` calls at a temperature; without a label no progress is shown.

        A call that was made before is not repeated.
        """
        parts = []
        job = self._job.replace(sampling=self._job.sampling.replace(temperature=temperature))
        with Progress(label, calls, "calls", enabled=bool(label)) as progress:
            for number in range(min(calls, self.calls)):
                if (temperature, number) not in self._done:
                    self._done[temperature, number] = self._call(job, number)
                parts.append(self._done[temperature, number])
                progress.update(number + 1)
        frames, first = np.unique(np.concatenate([part.frames for part in parts]), return_index=True)
        hypotheses = np.concatenate([part.hypotheses for part in parts])[first]
        return Lifted(hypotheses, frames)

    def _call(self, job: Job, number: int) -> Lifted:
        ids = np.arange(number * self._size, min((number + 1) * self._size, len(self._windows.start)))
        windows, begin = Windows(*(part[ids] for part in self._windows)), time.monotonic()
        found, frames = predict_windows(self.lifter, self._variables, self.clips, windows, job)
        if len(ids) == self._size:
            self.seconds_per_call = min(self.seconds_per_call, time.monotonic() - begin)
        valid = np.ones(len(frames), bool) if self._valid is None else self._valid[frames]
        return Lifted(found[ALL][valid], frames[valid])

    def check_cost(self, limit: Limit, steps: int) -> None:
        """Raises UserError where a call would take so long that the limit cannot be kept; no call is made for it.

        Args:
            limit: The time limit.
            steps: The reverse steps of the config.
        """
        sampling = self._job.sampling
        count = sampling.hypotheses * (2 if sampling.averages_flips else 1)
        if self._expected_seconds(steps * count) < _TOO_LONG * limit.seconds:
            return
        # One reverse step of one window, which is what grows with hypotheses, steps and windows.
        plan = getattr(self.lifter, "plan", None)
        plan = None if plan is None else plan._replace(step=plan.step[:1], table=plan.table[:1])
        job = self._job.replace(sampling=sampling.replace(flip="none", plan=plan), batch_size=1)
        seconds = self._time(job, 1)
        if seconds < _SHORT:
            # Most of it may be the call itself, which does not grow: what more hypotheses add says what each costs.
            seconds = (self._time(job, 1 + _MORE) - seconds) / _MORE
        seconds *= count * (steps if plan is not None else 1)
        seconds *= self._size / parallel.local_device_count()
        if seconds > _TOO_LONG * limit.seconds:
            raise UserError(
                f"calibrate: expected to lift {self._size} window{'s' * (self._size > 1)} of {self.lifter.frames} "
                f"frames in {_TOO_LONG * limit.seconds:.0f} s, found about {seconds:.0f} s for {sampling.hypotheses} "
                "hypotheses on this machine; give fewer --hypotheses, more --minutes or an accelerator"
            )

    def _time(self, job: Job, hypotheses: int) -> float:
        """The seconds that the first window takes, lifted twice: the first time everything is compiled."""
        job = job.replace(sampling=job.sampling.replace(hypotheses=hypotheses))
        window = Windows(*(part[:1] for part in self._windows))
        begin = 0.0
        for _ in range(2):
            begin = time.monotonic()
            predict_windows(self.lifter, self._variables, self.clips, window, job)
        return time.monotonic() - begin

    def _expected_seconds(self, evaluations: int) -> float:
        """The most that one call takes on processor cores: every weight is used once for every joint of every frame."""
        if jax.default_backend() != "cpu":
            return 0.0
        weights = sum(np.size(leaf) for leaf in jax.tree.leaves(self._variables))
        joints = self._size * self.lifter.frames * self.lifter.skeleton.num_joints
        return 2.0 * weights * joints * evaluations / (_CORE_FLOPS * (os.cpu_count() or 1))


def sample_windows(lifter: Lifter, clips: ClipSet, frames: int) -> Windows:
    """Windows that lift about `frames` frames, evenly over the split, in an order that takes subjects in turn.

    Means over them are means over the split's frames, as those of `evaluate` are; of everybody there are enough to be
    told apart. Of each subject they are evenly spread, in random order, so that every beginning of them is a sample.
    """
    windows = (centred_windows if lifter.middle_frame else end_aligned_windows)(clips, lifter.frames)
    clip = np.searchsorted(clips.clip_start, np.asarray(windows.low), side="right") - 1
    subjects = np.array(clips.subject)[clip]
    share = frames / (len(subjects) * (1 if lifter.middle_frame else lifter.frames))
    rng, turns, ids, needed = np.random.default_rng(0), [], [], samples_needed(max(LEVELS))
    for name in np.unique(subjects):
        own = np.flatnonzero(subjects == name)
        count = min(max(round(share * len(own)), _WINDOWS_PER_SUBJECT), len(own))
        own = own[np.unique(np.linspace(0, len(own) - 1, count).astype(int))]
        ids.append(rng.permutation(own))
        place = (np.arange(len(own)) + 0.5) / len(own)
        # A sample that the time cuts short, by up to a half, still has of everybody what conformal regions need.
        place[:needed] = np.minimum(place[:needed], 0.5)
        turns.append(place)
    # Window i of a subject's n has the place (i + 1/2) / n in 0..1: sorted by it, every beginning has the same share of
    # each subject's windows, but for those moved above.
    order = np.argsort(np.concatenate(turns), kind="stable")
    chosen = np.concatenate(ids)[order].astype(np.int32)
    return windows.take(chosen)
