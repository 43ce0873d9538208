"""The compiled call of a job: gathers windows, hides joints, draws hypotheses and aggregates them on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from jax import Array

from diffpose_jax import parallel
from diffpose_jax.data.windows import DeviceClips, Windows, gather, window_frames
from diffpose_jax.evaluation.aggregation import is_estimate, reduce_hypotheses
from diffpose_jax.evaluation.window_cameras import WindowCameras
from diffpose_jax.lifters.base import Sampling, Variables
from diffpose_jax.lifters.batches import lifted_frames, lifted_part
from diffpose_jax.lifters.visibility import believe_guesses, widen_unseen
from diffpose_jax.lifters.wrappers import Drawn, Flipped, hide_joints


class JobData(NamedTuple):
    """What a compiled job reads beside the variables: frames, windows, cameras or None, the key of all noise."""

    clips: DeviceClips
    windows: Windows
    cameras: WindowCameras | None
    key: Array
    sampling: Sampling


# A lifter, the pattern that hides joints, and its rate.
Parts = tuple[Flipped, str, float | None]


# Equal lifters are the same key, so that repeated validation and a second prediction in one process compile nothing.
@lru_cache(maxsize=8)
def compile_job(parts: Parts, outputs: tuple[str, ...], shared: bool) -> Callable[..., dict[str, Array]]:
    """Compiles `(variables, data, ids [D, b]) -> {output: [D, b, ...]}` for windows that devices have of their own.

    With `shared` devices share the hypotheses of the windows `[1, b]`, see `Sampling.mesh`.
    """
    lift = make_lift(parts, outputs)
    return parallel.jit_whole(lift) if shared else parallel.pmap_each(lift)


def make_lift(parts: Parts, outputs: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
    """Makes the function that lifts windows on one device, `(variables, data, ids [b]) -> {output: [b, ...]}`."""
    lifter, occlusion, rate = parts
    estimates = [name for name in outputs if is_estimate(name)]
    others = [name for name in outputs if name not in estimates]

    def lift(variables: Variables, data: JobData, ids: Array) -> dict[str, Array]:
        batch = gather(data.clips, data.windows, ids, lifter.frames)
        # The index of the window's first frame, not of the window: the noise of a frame does not depend on the stride.
        batch = believe_guesses(lifter, batch._replace(index=data.windows.start[ids]))
        batch = hide_joints(data.key, batch, lifter.skeleton, occlusion, rate)
        if data.sampling.noise == "clip":
            # Only now: what is hidden is part of the input, and one pattern for all single frames of a clip would be
            # another input than the pattern's name says.
            batch = batch._replace(index=data.windows.low[ids])
        camera = None if data.cameras is None else data.cameras.of(ids)
        drawn, part = lifter.draw(variables, data.key, batch, data.sampling), lifted_part(lifter.lifter, batch)
        if data.clips.gap is not None and lifter.stochastic and not lifter.takes_mask:
            drawn = _widen(drawn, lifter, data, ids)
        if drawn.samples is drawn.averaged:
            return reduce_hypotheses(outputs, drawn.samples, part, lifter.skeleton, camera)
        # Averages over flips have too little spread to say anything about the distribution.
        return {
            **reduce_hypotheses(estimates, drawn.averaged, part, lifter.skeleton, camera),
            **reduce_hypotheses(others, drawn.samples, part, lifter.skeleton, camera),
        }

    return lift


def _widen(drawn: Drawn, lifter: Flipped, data: JobData, ids: Array) -> Drawn:
    """The hypotheses of windows `[B]`, widened at joints that were not seen, of which the lifter cannot be told."""
    assert data.clips.gap is not None
    index, _ = window_frames(data.windows, ids, lifter.frames)
    gap = data.clips.gap[index][:, lifted_frames(lifter.lifter)]
    place = gap, data.key, data.windows.low[ids], lifter.skeleton
    samples = widen_unseen(drawn.samples, *place)
    return Drawn(samples, samples if drawn.samples is drawn.averaged else widen_unseen(drawn.averaged, *place))
