"""The wrapper that gives any method the person-centred view of its input (`data.views`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from jax import Array

from diffpose_jax.data.views import (
    ASSUMED_FOCAL,
    View,
    decode_poses,
    encode_keypoints,
    encode_mixture,
    encode_poses,
    find_view,
    pinhole,
)
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Sampling, Variables
from diffpose_jax.lifters.wrappers import Wrapper


@dataclasses.dataclass(frozen=True)
class PersonCentred(Wrapper):
    """A lifter that sees every window as a camera does that looks at the person, at one size.

    Its poses are turned back: outside, keypoints and poses are the real camera's.
    """

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        return self.lifter.loss(variables, key, encode(batch)[0])

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m) in the real camera's frame. For the arguments see `Lifter.sample`."""
        batch, view = encode(batch)
        return decode_poses(self.lifter.sample(variables, key, batch, sampling), view)

    def __getattr__(self, name: str) -> Any:
        # Only some lifters have these methods, so that wrapping one that does not gives none.
        found = super().__getattr__(name)
        if name == "valid_loss":
            return lambda variables, key, batch: found(variables, key, encode(batch)[0])
        return _measure_encoded(found) if name == "measure" else found


def _measure_encoded(measure: Callable[..., Variables]) -> Callable[..., Variables]:
    def measure_encoded(frozen: Variables, train: Iterable[Batch], valid: Iterable[Batch]) -> Variables:
        return measure(frozen, *((encode(batch)[0] for batch in batches) for batches in (train, valid)))

    return measure_encoded


def encode(batch: Batch) -> tuple[Batch, View]:
    """A batch as virtual cameras see it that look at the people, and those views; unknown cameras are assumed."""
    camera = pinhole(ASSUMED_FOCAL, batch.index.shape) if batch.camera is None else batch.camera
    # Seen or not, whatever the confidence: a detector's scores would move the view from what training showed.
    view = find_view(batch.keypoints, (batch.mask > 0).astype(batch.mask.dtype), camera)
    return batch._replace(
        keypoints=encode_keypoints(batch.keypoints, batch.mask, view),
        poses=encode_poses(batch.poses, view),
        mixture=None if batch.mixture is None else encode_mixture(batch.mixture, view),
    ), view


def with_view(lifter: Lifter, name: str) -> Lifter:
    """The lifter within `PersonCentred` for the view 'person', as it is for 'screen'."""
    return PersonCentred(lifter) if name == "person" else lifter  # type: ignore[return-value]
