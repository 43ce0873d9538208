"""A context of several versions, each trained without some of the subjects.

A lifter's errors are smaller on the people that it was trained on. A method that learns from such estimates expects
them to be as good on everybody, and its distributions become too narrow. Cross-fitting is the standard cure: the
training subjects are split into K folds, version k is trained without those of fold k, and a training frame is given
the estimate of the version that has not seen its subject. On all other people the version that was trained on everybody
is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.lifters.base import Batch, ContextLifter, Sampling, Variables
from diffpose_jax.lifters.wrappers import Wrapper


@dataclasses.dataclass(frozen=True)
class CrossFitted(Wrapper):
    """A context lifter of variables `{"full", "folds"}`, the latter those of K versions, stacked `[K, ...]`.

    Where a batch has `fold [B]`, the versions of those folds lift its examples, otherwise the full one.
    """

    lifter: ContextLifter
    folds: int

    def init(self, key: Array, batch: Batch) -> Variables:
        full = self.lifter.init(key, batch)
        return {"full": full, "folds": jax.tree.map(lambda leaf: jnp.stack([leaf] * self.folds), full)}

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m) by the versions of the folds. For the arguments see `Lifter.sample`."""

        def lift(own: Variables) -> Array:
            return jnp.moveaxis(self.lifter.sample(own, key, batch, sampling), 1, 0)

        return jnp.moveaxis(_apply_versions(lift, variables, batch.fold), 0, 1)

    def features(self, variables: Variables, batch: Batch) -> Array:
        """The features `[B, F, J, C]` of a batch's keypoints."""
        return _apply_versions(lambda own: self.lifter.features(own, batch), variables, batch.fold)


def _apply_versions(function: Callable[[Variables], Array], variables: Variables, fold: Array | None) -> Array:
    """`function(variables) -> [B, ...]` by each example's version, or without folds by the full one."""
    if fold is None:
        return function(variables["full"])
    # All versions lift all examples and one of each is kept: K forward passes of a small frozen network. To gather
    # every example's own weights would take a matrix product for each example.
    by_version = jax.vmap(function)(variables["folds"])
    return jax.vmap(lambda versions, k: versions[k], in_axes=(1, 0))(by_version, fold)


def split_folds(clips: ClipSet, folds: int) -> list[list[str]]:
    """The subjects of a set in `folds` groups of about as many frames, the same on every call.

    The subject with the most frames comes first, and each one joins the group that has the fewest by then.
    """
    frames: dict[str, int] = {}
    for subject, length in zip(clips.subject, clips.clip_length, strict=True):
        frames[subject] = frames.get(subject, 0) + int(length)
    groups: list[list[str]] = [[] for _ in range(folds)]
    for subject in sorted(frames, key=lambda name: (-frames[name], name)):
        smallest = min(range(folds), key=lambda k: sum(frames[member] for member in groups[k]))
        groups[smallest].append(subject)
    return [sorted(group) for group in groups]


def frame_folds(clips: ClipSet, folds: Sequence[Collection[str]]) -> Array:
    """The fold of every frame's subject, `[N]` int32.

    A subject in no fold was seen by none of the versions; it is given to the first.
    """
    fold_of = {subject: k for k, group in enumerate(folds) for subject in group}
    per_clip = np.array([fold_of.get(subject, 0) for subject in clips.subject], np.int32)
    return jnp.asarray(np.repeat(per_clip, clips.clip_length))
