"""A data set seen through simulated heatmaps: their keypoints, and mixtures fitted to points drawn from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clip import VISIBILITY
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_simulation import ORDINARY, simulate_heatmaps
from diffpose_jax.data.detector.heatmaps import Heatmaps, detect, draw_points, person_box
from diffpose_jax.data.detector.keypoint_noise import pad_clip
from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.fitting import FitOptions, fit_mixtures
from diffpose_jax.mixtures.packing import pack_mixture
from diffpose_jax.progress import track

MAP_SIZE = 128  # cells along each side of the maps whose estimates become keypoints
CHUNK = 128  # frames worked on at once
FITS_AT_ONCE = 512  # frames whose mixtures are fitted in one call


class MixtureOptions(NamedTuple):
    """How mixtures are fitted to heatmaps.

    The mixtures are to draw from, not those that maximise the likelihood: the floor of variances is high and the search
    short, so that no component shrinks to a single point.
    """

    components: int = 5
    points: int = 200  # drawn from each heatmap
    fit: FitOptions = FitOptions(iterations=40, initialisations=2, relocations=0, tolerance=1e-3, variance_floor=1e-3)


# For data that are fitted whenever they are loaded: from fewer points, in a quarter of the time.
QUICK = MixtureOptions(points=100, fit=dataclasses.replace(MixtureOptions().fit, iterations=20, initialisations=1))


class Quality(NamedTuple):
    """How the fits of a split went: mean log-likelihood of a point and share of degenerate fits; None if not fitted."""

    log_likelihood: float | None = None
    degenerate: float | None = None


def simulate_clips(
    clips: ClipSet, seed: int, *, strength: float = 1.0, label: str | None = None
) -> Iterator[tuple[jax.Array, slice, Heatmaps]]:
    """Simulate the heatmaps of one clip after the other; a function of seed and clips alone.

    Args:
        clips: A set with exact keypoints and 3D poses.
        seed: Seed of all draws.
        strength: How bad the detector is; 1 is like CPN on Human3.6M.
        label: What a progress bar says; None shows none.

    Yields:
        For each clip a key, its frames in the set, and its heatmaps `[L, J]` (numpy), L the clip's length or more.

    Raises:
        UserError: For a set without 3D poses and for a strength of 0.
    """
    if clips.poses is None:
        raise UserError("simulated heatmaps: expected a data set with 3D poses, found keypoints only")
    if not 0 < strength < np.inf:
        raise UserError(f"simulated heatmaps: expected a strength above 0, found {strength:g}")
    settings = ORDINARY._replace(detector=ORDINARY.detector._replace(strength=strength))
    for index in track(label, range(clips.num_clips), "clips"):
        key, frames, keypoints, poses, fps = pad_clip(clips, index, seed)
        # Heatmaps and the points that are drawn from them have independent noise.
        key, drawing = jax.random.split(key)
        heatmaps = _simulate(key, keypoints, poses, clips.skeleton, settings, fps)
        yield drawing, frames, jax.tree.map(np.asarray, heatmaps)


def detect_in_heatmaps(
    clips: ClipSet, seed: int = 0, *, strength: float = 1.0, label: str | None = None
) -> ClipSet:  # fmt: skip
    """Replace exact keypoints by the estimates of simulated heatmaps, and set scores and visibility.

    Args:
        clips: A set with exact keypoints and 3D poses.
        seed: Seed of all draws.
        strength: How bad the detector is; 1 is like CPN on Human3.6M.
        label: What a progress bar calls the data; None shows none.

    Raises:
        UserError: For a set without 3D poses and for a strength of 0.
    """
    keypoints, scores = np.empty_like(clips.keypoints), np.empty(clips.keypoints.shape[:2], np.float32)
    visibility = np.zeros(scores.shape, np.uint8)
    label = label and f"heatmaps of {label}"
    for _, frames, heatmaps in simulate_clips(clips, seed, strength=strength, label=label):
        for index, inside in _chunks(frames, CHUNK):
            found = (np.asarray(array)[: len(index)] for array in _detect(_part(heatmaps, inside)))
            keypoints[index], scores[index], visibility[index] = found
    scores = np.where(clips.seen, scores, np.float32(0))
    return dataclasses.replace(clips, keypoints=keypoints, scores=scores, visibility=visibility)


def draw_heatmap_points(
    clips: ClipSet,
    seed: int,
    num_points: int = 200,
    *,
    strength: float = 1.0,
    chunk: int = CHUNK,
    label: str | None = None,
) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Draw points from the heatmaps whose estimates `detect_in_heatmaps` takes, for fitting mixtures to.

    Args:
        clips: A set with exact keypoints and 3D poses.
        seed: Seed of all draws; the points of a frame depend on it, the clips and the frame alone.
        num_points: P, points drawn from each heatmap.
        strength: How bad the detector is; 1 is like CPN on Human3.6M.
        chunk: Most frames to yield at once.
        label: What a progress bar says; None shows none.

    Yields:
        In order, indices `[n]` of frames of one clip and points `[n, J, P, 2]` in the units of the keypoints.
    """
    for key, frames, heatmaps in simulate_clips(clips, seed, strength=strength, label=label):
        for index, inside in _chunks(frames, chunk):
            yield index, _draw(key, inside, _part(heatmaps, inside), num_points)[: len(index)]


def fit_heatmap_mixtures(
    clips: ClipSet,
    seed: int = 0,
    options: MixtureOptions = MixtureOptions(),  # noqa: B008 (immutable)
    *,
    strength: float = 1.0,
    label: str | None = None,
) -> tuple[ClipSet, Quality]:
    """Replace exact keypoints as `detect_in_heatmaps` does and fit a mixture to each joint's heatmap.

    Args:
        clips: A set with exact keypoints and 3D poses.
        seed: Seed of all draws and fits.
        options: How mixtures are fitted.
        strength: How bad the detector is; 1 is like CPN on Human3.6M.
        label: What a progress bar calls the data; None shows none.

    Returns:
        The set, and how the fits went.

    Raises:
        UserError: For a set without 3D poses and for a strength of 0.
    """
    detected = detect_in_heatmaps(clips, seed, strength=strength, label=label)
    label = label and f"mixtures of {label}"
    drawn = draw_heatmap_points(clips, seed, options.points, strength=strength, label=label)
    key, done = jax.random.key(seed), 0
    packed, fits = [], []
    for index, group in enumerate(regroup((part for _, part in drawn), FITS_AT_ONCE)):
        # Groups have one size whatever the clips are, so that the fits depend on the seed and the set alone.
        group_key = jax.random.fold_in(key, index)
        found = fit_mixtures(group_key, group, options.components, options.fit)
        packed.append(pack_mixture(found.mixture, detected.keypoints[done : done + len(group)]))
        fits.append((found.log_likelihood, found.degenerate))
        done += len(group)
    likelihood, degenerate = (np.concatenate(part) for part in zip(*fits, strict=True))
    quality = Quality(float(likelihood.mean()), float(degenerate.mean()))
    return dataclasses.replace(detected, mixture=np.concatenate(packed)), quality


def fit_quick_mixtures(
    clips: ClipSet, seed: int = 0, *, strength: float = 1.0, label: str | None = None
) -> ClipSet:  # fmt: skip
    """Fit mixtures with the options `QUICK`, where there is no archive that holds better ones.

    Args:
        clips: A set with exact keypoints and 3D poses.
        seed: Seed of all draws and fits.
        strength: How bad the detector is; 1 is like CPN on Human3.6M.
        label: What a progress bar calls the data; None shows none.

    Raises:
        UserError: For a set without 3D poses and for a strength of 0.
    """
    return fit_heatmap_mixtures(clips, seed, QUICK, strength=strength, label=label)[0]


def regroup(parts: Iterable[Any], size: int) -> Iterator[np.ndarray]:
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


def _chunks(frames: slice, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices in the set of at most `size` frames of a clip, and `size` indices within the clip, the last repeated."""
    length = frames.stop - frames.start
    for first in range(0, length, size):
        inside = np.minimum(first + np.arange(size), length - 1)
        yield np.arange(frames.start + first, frames.start + min(first + size, length)), inside


def _part(heatmaps: Heatmaps, frames: np.ndarray) -> Heatmaps:
    return jax.tree.map(lambda array: array[frames], heatmaps)


_simulate = functools.partial(jax.jit, static_argnums=3)(simulate_heatmaps)


@jax.jit
def _detect(heatmaps: Heatmaps) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keypoints, scores and visibility of some frames."""

    def frame(person: Heatmaps) -> tuple[jax.Array, jax.Array]:
        one = jax.tree.map(lambda array: array[None], person)
        return jax.tree.map(lambda array: array[0], detect(one, person_box(one), MAP_SIZE))

    keypoints, scores = jax.lax.map(frame, heatmaps, batch_size=4)
    occluded, confused = VISIBILITY.index("occluded"), VISIBILITY.index("confused")
    visibility = jnp.where(heatmaps.confused, confused, jnp.where(heatmaps.occluded, occluded, 0))
    return keypoints, scores, visibility.astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=3)
def _draw(key: jax.Array, frame: jax.Array, heatmaps: Heatmaps, num_points: int) -> jax.Array:
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(frame)
    return draw_points(keys, heatmaps, num_points)
