"""Write mixtures of Gaussians beside a data set:

    python -m diffpose_jax.prepare mixtures --input data/NAME.npz --output data/NAME_heatmaps.npz

The input is an archive with exact keypoints and 3D poses. Each joint gets a simulated heatmap; keypoints become its
estimates, and a mixture is fitted to points drawn from it. With `--gmm data_2d_h36m_cpn_ft_h36m_dbb_gmm.npz` the
mixtures are those of the authors' file, and the input is Human3.6M.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from diffpose_jax.data.clips import ClipSet, load_archive, save_archive
from diffpose_jax.data.heatmap_simulation import heatmap_clipset, heatmap_points
from diffpose_jax.data.mixture_storage import pack_mixture
from diffpose_jax.data.mixtures import with_gmm
from diffpose_jax.diffusion.mixture import COVARIANCES, fit_mixtures
from diffpose_jax.errors import UserError
from diffpose_jax.progress import Progress

# Mixtures to draw from, not the likeliest ones: no component may shrink to a single point.
FIT = {"iterations": 40, "seedings": 2, "moves": 0, "tolerance": 1e-3, "floor": 1e-3}
FRAMES_AT_ONCE = 512


class Quality(NamedTuple):
    """How the fits of a split went: mean log-likelihood of a point and share of degenerate fits; None if not fitted."""

    log_likelihood: float | None = None
    degenerate: float | None = None


def define_flags(values: flags.FlagValues) -> None:
    """Defines what `prepare` has no flag for yet."""
    flags.DEFINE_string("input", None, "mixtures: the archive to read (.npz).", flag_values=values)
    flags.DEFINE_string(
        "gmm", None, "mixtures: a _gmm.npz file of the authors instead of heatmaps.", flag_values=values
    )
    flags.DEFINE_integer("components", 5, "mixtures: Gaussians of each joint.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("points", 200, "mixtures: points drawn from each heatmap.", lower_bound=2, flag_values=values)
    flags.DEFINE_enum("covariance", "full", COVARIANCES, "mixtures: full or diagonal.", flag_values=values)


def prepare_mixtures(
    source: str,
    output: str,
    *,
    gmm: str | None = None,
    components: int = 5,
    points: int = 200,
    covariance: str = "full",
    seed: int = 0,
    strength: float = 1.0,
) -> dict[str, ClipSet]:
    """Reads the archive `source`, gives it mixtures, writes it to `output`, prints what they are like and returns it.

    Mixtures come from the file `gmm`, or are fitted to `points` points of heatmaps simulated with this seed and
    strength of the detector. Raises UserError, also for keypoints that have been detected already.
    """
    console, begin = Console(), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - begin:6.1f} s] {text}", highlight=False, markup=False, soft_wrap=True)

    say(f"reading {source}")
    splits = load_archive(source)
    quality = dict.fromkeys(splits, Quality())
    if gmm is not None:
        say(f"reading {gmm}")
        splits = with_gmm(splits, gmm)
    else:
        for split, clips in splits.items():
            if clips.scores is not None:
                raise UserError(f"{source}, {split}: expected exact keypoints, found detected ones (with scores)")
        options = {"components": components, "points": points, "covariance": covariance, "strength": strength}
        for split, clips in splits.items():
            say(f"{split}: {clips.num_frames * clips.skeleton.num_joints:,} heatmaps and mixtures")
            splits[split], quality[split] = with_fitted_mixtures(clips, seed, label=split, **options)
    say(f"writing {output}")
    save_archive(output, splits)
    console.print(summary(splits, quality))
    say(f"done: archive {output}")
    return splits


def with_fitted_mixtures(
    clips: ClipSet,
    seed: int,
    *,
    components: int = 5,
    points: int = 200,
    covariance: str = "full",
    strength: float = 1.0,
    label: str = "mixtures",
) -> tuple[ClipSet, Quality]:
    """A set with exact keypoints as its simulated heatmaps show it, with mixtures fitted to them; how the fits went."""
    track = functools.partial(_tracked, f"heatmaps of {label}")
    seen = heatmap_clipset(clips, seed, strength=strength, track=track)
    track = functools.partial(_tracked, f"mixtures of {label}")
    drawn = heatmap_points(clips, seed, strength=strength, num_points=points, track=track)
    key, done = jax.random.key(seed), 0
    packed, fits = [], []
    for number, group in enumerate(grouped((part for _, part in drawn), FRAMES_AT_ONCE)):
        fit = fit_mixtures(jax.random.fold_in(key, number), group, components, covariance=covariance, **FIT)
        packed.append(pack_mixture(fit.mixture, seen.keypoints[done : done + len(group)]))
        fits.append((fit.log_likelihood, fit.degenerate))
        done += len(group)
    likelihood, degenerate = (np.concatenate(part) for part in zip(*fits, strict=True))
    quality = Quality(float(likelihood.mean()), float(degenerate.mean()))
    return dataclasses.replace(seen, mixture=np.concatenate(packed)), quality


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


def summary(splits: Mapping[str, ClipSet], quality: Mapping[str, Quality]) -> Table:
    """A table of what the mixtures of each split are like."""
    table = Table("", *splits, title="mixtures", title_justify="left", show_lines=True)
    columns = [_describe(clips, quality[split]) for split, clips in splits.items()]
    for row in columns[0] if columns else ():
        table.add_row(row, *(column[row] for column in columns))
    return table


def _describe(clips: ClipSet, quality: Quality) -> dict[str, str]:
    """Of a sample of frames where there are many."""
    sample = clips.mixture[:: max(1, len(clips.mixture) // 20_000)].astype(np.float32)
    weights = sample[..., 0] / sample[..., 0].sum(axis=-1, keepdims=True)
    logarithms = np.log(np.where(weights > 0, weights, 1))
    effective = np.exp(-(weights * logarithms).sum(axis=-1))
    spread = np.sqrt((weights * (sample[..., 3:] ** 2).sum(axis=-1)).sum(axis=-1) / 2)
    return {
        "frames, joints, components": " x ".join(f"{n:,}" for n in clips.mixture.shape[:3]),
        "mean weights, by size": " ".join(f"{weight:.3f}" for weight in weights.mean(axis=(0, 1))),
        "effective components": f"{effective.mean():.2f}, from {effective.min():.2f} to {effective.max():.2f}",
        "spread within components": f"median {np.median(spread):.4f} of half the image width",
        "log-likelihood of a point": "not fitted"
        if quality.log_likelihood is None
        else f"{quality.log_likelihood:.3f}",
        "degenerate fits": f"{np.mean(effective < 1.001):.1%} are a single Gaussian"
        if quality.degenerate is None
        else f"{quality.degenerate:.2%}",
    }


def _tracked(label: str, items: Sequence[Any]) -> Iterator[Any]:
    with Progress(label, len(items), "clips") as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.update(done)
