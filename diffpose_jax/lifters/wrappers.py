"""Wrappers of lifters with the contract of a lifter: flips, occlusion, a calibrated spread."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.occlusions import occlude
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import flip_batch, lifted_part
from diffpose_jax.lifters.scales import Scales, keypoint_kinds, scale_hypotheses, tail_weights
from diffpose_jax.skeleton import Skeleton, mirror

# Folded into a key beside example indices, which stay far below it.
_OCCLUSION_STREAM = 2**32 - 2


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A lifter around another one; what it does not change is the inner one's."""

    lifter: Lifter

    def __getattr__(self, name: str) -> Any:
        if name == "lifter":  # not there yet, as while unpickling
            raise AttributeError(name)
        return getattr(self.lifter, name)


class Drawn(NamedTuple):
    """Hypotheses `[H, B, F, J, 3]` in metres, by what they are for.

    Attributes:
        samples: Draws of the method's distribution, which coverage, spread and single hypotheses are measured by.
        averaged: What a pose is made of: the samples, or with 'average' their averages over flips.
    """

    samples: Array
    averaged: Array


@dataclasses.dataclass(frozen=True)
class Flipped(Wrapper):
    """A lifter that is also given the mirrored input, in the way that `sampling.flip` asks for.

    'half': hypotheses 0, 2, 4, ... are samples of the input and 1, 3, 5, ... mirrored-back samples of the mirrored
    input. Each is a sample, and the first N of H are half of either kind, so that the distribution is kept, at no cost.

    'average': the method's own way where it has one. Otherwise every hypothesis is the mean of a sample and a
    mirrored-back sample of the mirrored input, with independent noise, at twice the cost: the test-time flip of
    VideoPose3D's descendants. Means of two samples have half their variance, so that they are no samples: `draw` tells
    both apart.

    For a deterministic lifter, whose distribution is a point, 'half' is the average too.
    """

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """What poses are made of, `Drawn.averaged` `[H, B, F, J, 3]` (m). For the arguments see `Lifter.sample`."""
        return self.draw(variables, key, batch, sampling).averaged

    def draw(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Drawn:
        """The hypotheses, and the samples that they are averages of. For the arguments see `Lifter.sample`."""
        flip, count = sampling.flip, sampling.hypotheses
        if flip == "half" and not self.lifter.stochastic:
            flip = "average"
        # The lifter within is asked for averages only where it takes them inside its reverse steps.
        each = sampling.replace(flip="average" if flip == "average" and self.lifter.averages_flips else "none")
        if flip == "none" or each.averages_flips:
            samples = self.lifter.sample(variables, key, batch, each)
            return Drawn(samples, samples)
        if flip == "half":
            # Of an odd number the input as it is has one more.
            straight = self._view(variables, key, batch, each.replace(hypotheses=count - count // 2))
            if count < 2:
                return Drawn(straight, straight)
            mirrored = self._view(variables, key, batch, each.replace(hypotheses=count // 2), mirrored=True)
            # The rows of both in turns: 0 of one, 0 of the other, 1 of one, ...
            turns = np.argsort(np.append(2 * np.arange(len(straight)), 2 * np.arange(len(mirrored)) + 1))
            samples = jnp.concatenate([straight, mirrored])[turns]
            return Drawn(samples, samples)
        straight = self._view(variables, key, batch, each)
        # An error to one side changes its sign with the mirror and cancels, and independent errors halve their
        # variance.
        averaged = (straight + self._view(variables, key, batch, each, mirrored=True)) / 2
        return Drawn(straight if self.lifter.stochastic else averaged, averaged)

    def _view(
        self, variables: Variables, key: Array, batch: Batch, sampling: Sampling, mirrored: bool = False
    ) -> Array:
        """Samples of the input, or mirrored-back ones of the mirrored input; their noise is independent."""
        key = jax.random.fold_in(key, int(mirrored))
        if not mirrored:
            return self.lifter.sample(variables, key, batch, sampling)
        skeleton = self.lifter.skeleton
        return mirror(self.lifter.sample(variables, key, flip_batch(batch, skeleton), sampling), skeleton)


def with_flips(lifter: Lifter) -> Flipped:
    """The lifter within `Flipped`, once."""
    return lifter if isinstance(lifter, Flipped) else Flipped(lifter)


@dataclasses.dataclass(frozen=True)
class Occluded(Wrapper):
    """A lifter that is given every example with joints hidden by a pattern of `data.occlusions`, drawn from the key.

    rate None is the published one. All hypotheses, and both views of a flipped one, miss the same joints.
    """

    pattern: str = "none"
    rate: float | None = None

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        return self.lifter.loss(variables, key, self._hide(key, batch))

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m) of input with hidden joints. For the arguments see `Lifter.sample`."""
        return self.lifter.sample(variables, key, self._hide(key, batch), sampling)

    def _hide(self, key: Array, batch: Batch) -> Batch:
        return hide_joints(key, batch, self.lifter.skeleton, self.pattern, self.rate)


def hide_joints(key: Array, batch: Batch, skeleton: Skeleton, pattern: str, rate: float | None = None) -> Batch:
    """The batch `[B, F, J, C]` with joints hidden by a pattern, in each example by a draw of its own.

    Args:
        key: The key of a loss or of sampling; the patterns derive from it and from the examples' indices.
        batch: The examples.
        skeleton: The joint layout.
        pattern: A pattern of `data.occlusions`; with 'none' the batch stays as it is.
        rate: Its rate, None: the published one.
    """
    if pattern == "none":
        return batch
    return occlude(jax.random.fold_in(key, _OCCLUSION_STREAM), batch, pattern, skeleton, rate)


def with_occlusion(lifter: Lifter, pattern: str, rate: float | None = None) -> Lifter:
    """The lifter within `Occluded`, or as it is where the pattern is 'none'."""
    return lifter if pattern == "none" else Occluded(lifter, pattern, rate)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Scaled(Flipped):
    """A lifter whose hypotheses are spread out from their mean by factors that `calibrate` found; the mean stays.

    After flips, so that both halves have one mean. With one hypothesis there is no spread, and nothing changes.
    Hypotheses depend on how many are drawn: their mean does.
    """

    scales: Scales

    def draw(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Drawn:
        """The hypotheses `[H, B, F, J, 3]` (m), spread out from their mean. For the arguments see `Lifter.sample`."""
        drawn = super().draw(variables, key, batch, sampling)
        factors = self.scales.factors(keypoint_kinds(lifted_part(self.lifter, batch), self.lifter.skeleton))
        weights = None
        if self.scales.tail:
            weights = tail_weights(key, batch.index, len(drawn.samples), self.scales.tail)
        samples = scale_hypotheses(drawn.samples, factors, weights)
        if drawn.averaged is drawn.samples:
            return Drawn(samples, samples)
        return Drawn(samples, scale_hypotheses(drawn.averaged, factors, weights))


def with_scales(lifter: Lifter, scales: Scales | None) -> Lifter:
    """The lifter within `Scaled`, or as it is without scales."""
    return lifter if scales is None else Scaled(lifter, scales)  # type: ignore[return-value]
