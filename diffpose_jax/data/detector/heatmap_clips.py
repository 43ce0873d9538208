"""A data set as simulated heatmaps show it: their keypoints, and mixtures fitted to them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_simulation import heatmap_clipset, heatmap_points
from diffpose_jax.mixtures.fitting import fit_mixtures
from diffpose_jax.mixtures.packing import pack_mixture
from diffpose_jax.progress import Progress

# Mixtures to draw from, not the likeliest ones: no component may shrink to a single point.
CAREFUL = MappingProxyType({"iterations": 40, "seedings": 2, "moves": 0, "tolerance": 1e-3, "floor": 1e-3})
# For data that are fitted whenever they are loaded: from fewer points too, in a quarter of the time.
QUICK = MappingProxyType({**CAREFUL, "iterations": 20, "seedings": 1})
QUICK_POINTS = 100
FRAMES_AT_ONCE = 512


class Quality(NamedTuple):
    """How the fits of a split went: mean log-likelihood of a point and share of degenerate fits; None if not fitted."""

    log_likelihood: float | None = None
    degenerate: float | None = None


def with_heatmaps(clips: ClipSet, seed: int = 0, *, strength: float = 1.0, label: str = "data") -> ClipSet:
    """A set with exact keypoints as simulated heatmaps show it: keypoints, scores and visibility are theirs.

    strength is that of the simulated detector. A function of seed and clips; progress is shown under `label`. Raises
    UserError for a set without 3D poses.
    """
    track = functools.partial(_tracked, f"heatmaps of {label}")
    return heatmap_clipset(clips, seed, strength=strength, track=track)


def with_mixtures(
    clips: ClipSet,
    seed: int = 0,
    *,
    components: int = 5,
    points: int = 200,
    covariance: str = "full",
    strength: float = 1.0,
    fit: Mapping[str, Any] = CAREFUL,
    label: str = "data",
) -> tuple[ClipSet, Quality]:
    """The same with mixtures fitted to `points` points of each heatmap, with options `fit`; and how the fits went."""
    seen = with_heatmaps(clips, seed, strength=strength, label=label)
    track = functools.partial(_tracked, f"mixtures of {label}")
    drawn = heatmap_points(clips, seed, strength=strength, num_points=points, track=track)
    key, done = jax.random.key(seed), 0
    packed, fits = [], []
    for number, group in enumerate(grouped((part for _, part in drawn), FRAMES_AT_ONCE)):
        found = fit_mixtures(jax.random.fold_in(key, number), group, components, covariance=covariance, **fit)
        packed.append(pack_mixture(found.mixture, seen.keypoints[done : done + len(group)]))
        fits.append((found.log_likelihood, found.degenerate))
        done += len(group)
    likelihood, degenerate = (np.concatenate(part) for part in zip(*fits, strict=True))
    quality = Quality(float(likelihood.mean()), float(degenerate.mean()))
    return dataclasses.replace(seen, mixture=np.concatenate(packed)), quality


def with_quick_mixtures(clips: ClipSet, seed: int = 0, *, strength: float = 1.0, label: str = "data") -> ClipSet:
    """The same with mixtures good enough to draw from, where there is no archive that holds better ones."""
    return with_mixtures(clips, seed, points=QUICK_POINTS, strength=strength, fit=QUICK, label=label)[0]


def grouped(parts: Iterable[Any], size: int) -> Iterator[np.ndarray]:
    """Arrays end to end in pieces of `size`, the last one of what is left."""
    waiting: list[np.ndarray] = []
    for part in parts:
        waiting.append(np.asarray(part))
        if sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            whole = len(joined) // size * size
            yield from np.split(joined[:whole], whole // size)
            waiting = [joined[whole:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def _tracked(label: str, items: Sequence[Any]) -> Iterator[Any]:
    with Progress(label, len(items), "clips") as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.update(done)
