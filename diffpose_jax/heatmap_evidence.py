"""Heatmaps simulated for a data set when it is loaded: their keypoints, and mixtures fitted to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import jax
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.heatmap_simulation import heatmap_clipset, heatmap_points
from diffpose_jax.data.mixture_storage import pack_mixture
from diffpose_jax.diffusion.mixture import fit_mixtures
from diffpose_jax.progress import Progress

Item = TypeVar("Item")

NUM_COMPONENTS = 5
# Enough to draw from, at a tenth of the time that the likeliest mixtures take (`prepare mixtures` does more).
_POINTS = 100
_FIT = {"iterations": 20, "seedings": 1, "moves": 0, "tolerance": 1e-3, "floor": 1e-3}
# Frames whose points are in memory at once.
_FRAMES = 1024


def with_heatmaps(
    clips: ClipSet, seed: int = 0, *, strength: float = 1.0, mixtures: bool = False, label: str = "data"
) -> ClipSet:
    """A set with exact keypoints as simulated heatmaps show it: keypoints, scores, evidence and maybe mixtures.

    strength is that of the simulated detector. Everything is a function of seed and clips. Progress is shown under
    `label`. Raises UserError for a set without 3D poses.
    """
    points = heatmap_points(
        clips, seed, strength=strength, num_points=_POINTS, track=partial(_tracked, f"mixtures of {label}")
    )
    track = partial(_tracked, f"heatmaps of {label}")
    clips = heatmap_clipset(clips, seed, strength=strength, track=track)
    if not mixtures:
        return clips
    parts = []
    for number, group in enumerate(_grouped(points, _FRAMES)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        parts.append(fit_mixtures(key, group, NUM_COMPONENTS, chunk=1024, **_FIT).mixture)
    mixture = jax.tree.map(lambda *part: np.concatenate(part), *parts)
    return dataclasses.replace(clips, mixture=pack_mixture(mixture, clips.keypoints))


def _grouped(points: Iterator[tuple[np.ndarray, jax.Array]], size: int) -> Iterator[np.ndarray]:
    """Points `[n, J, P, 2]` of about `size` frames at a time."""
    waiting: list[np.ndarray] = []
    for _, part in points:
        waiting.append(np.asarray(part))
        if sum(map(len, waiting)) >= size:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _tracked(label: str, items: Sequence[Item]) -> Iterator[Item]:
    with Progress(label, len(items), "clips") as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.update(done)
