"""Write mixtures of Gaussians beside a data set:

    python -m diffpose_jax.prepare mixtures --input data/NAME.npz --output data/NAME_heatmaps.npz

The input is an archive with exact keypoints and 3D poses. Each joint gets a simulated heatmap; keypoints become its
estimates, and a mixture is fitted to points drawn from it. With `--gmm data_2d_h36m_cpn_ft_h36m_dbb_gmm.npz` the
mixtures are those of the authors' file, and the input is Human3.6M.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.gmm_files import with_gmm
from diffpose_jax.data.detector.heatmap_clips import Quality, with_mixtures
from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.fitting import COVARIANCES


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
            splits[split], quality[split] = with_mixtures(clips, seed, label=split, **options)
    say(f"writing {output}")
    save_archive(output, splits)
    console.print(summary(splits, quality))
    say(f"done: archive {output}")
    return splits


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
