"""Wrappers of lifters with the contract of a lifter: flip averaging and occlusion."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array

from diffpose_jax.data.occlusions import occlude
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.skeleton import mirror

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


@dataclasses.dataclass(frozen=True)
class FlipAveraged(Wrapper):
    """A lifter whose hypotheses are, where `sampling.flip` asks for it, averaged over the input and its mirror image.

    Each is the mean of a sample and a mirrored-back sample of the mirrored input, with independent noise, at twice the
    cost: the test-time flip of VideoPose3D's descendants.
    """

    averages_flips: bool = True

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        if not sampling.flip:
            return self.lifter.sample(variables, key, batch, sampling)
        each = sampling.replace(flip=False)
        skeleton = self.lifter.skeleton
        straight = self.lifter.sample(variables, jax.random.fold_in(key, 0), batch, each)
        flipped = self.lifter.sample(variables, jax.random.fold_in(key, 1), flip_batch(batch, skeleton), each)
        return (straight + mirror(flipped, skeleton)) / 2


def with_flips(lifter: Lifter) -> Lifter:
    """The lifter with a `sample` that averages flips where asked to: the method's own, or that of `FlipAveraged`."""
    return lifter if lifter.averages_flips else FlipAveraged(lifter)  # type: ignore[return-value]


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
        return self.lifter.sample(variables, key, self._hide(key, batch), sampling)

    def _hide(self, key: Array, batch: Batch) -> Batch:
        return occlude(jax.random.fold_in(key, _OCCLUSION_STREAM), batch, self.pattern, self.lifter.skeleton, self.rate)


def with_occlusion(lifter: Lifter, pattern: str, rate: float | None = None) -> Lifter:
    """The lifter within `Occluded`, or as it is where the pattern is 'none'."""
    return lifter if pattern == "none" else Occluded(lifter, pattern, rate)  # type: ignore[return-value]
