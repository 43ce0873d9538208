"""Write mixtures of Gaussians beside a data set:

    python -m diffpose_jax.prepare mixtures --input data/NAME.npz --output data/NAME_heatmaps.npz

The input is an archive with exact keypoints and 3D poses. Each joint gets a simulated heatmap; keypoints become its
estimates, and a mixture is fitted to points drawn from it. With `--gmm data_2d_h36m_cpn_ft_h36m_dbb_gmm.npz` the
mixtures are those of the authors' file, and the input is Human3.6M.
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.gmm_files import add_gmm_mixtures
from diffpose_jax.data.detector.heatmap_clips import MixtureOptions, Quality, fit_heatmap_mixtures
from diffpose_jax.data.summary import describe_mixtures, tabulate
from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.fitting import COVARIANCES
from diffpose_jax.progress import timed_printer


def define_flags(values: flags.FlagValues) -> None:
    """Define what `prepare` has no flag for yet."""
    flags.DEFINE_string("input", None, "mixtures: the archive to read (.npz).", flag_values=values)
    flags.DEFINE_string(
        "gmm", None, "mixtures: a _gmm.npz file of the authors instead of heatmaps.", flag_values=values
    )
    flags.DEFINE_integer("components", 5, "mixtures: Gaussians of each joint.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("points", 200, "mixtures: points drawn from each heatmap.", lower_bound=2, flag_values=values)
    flags.DEFINE_enum("covariance", "full", COVARIANCES, "mixtures: full or diagonal.", flag_values=values)


def prepare_mixtures(
    source: str, output: str, options: MixtureOptions, *, gmm: str | None = None, seed: int = 0, strength: float = 1.0
) -> dict[str, ClipSet]:
    """Give an archive mixtures, write it, and print what they are like.

    Args:
        source: An archive with exact keypoints and 3D poses.
        output: The archive to write.
        options: How mixtures are fitted to simulated heatmaps.
        gmm: The authors' file to take mixtures from instead.
        seed: Seed of heatmaps and fits.
        strength: How bad the simulated detector is; 1 is like CPN on Human3.6M.

    Returns:
        `{split: ClipSet}`, as written.

    Raises:
        UserError: For archives and files that cannot be used, and for keypoints that have been detected already.
    """
    say = timed_printer()
    say(f"reading {source}")
    splits = load_archive(source)
    quality = dict.fromkeys(splits, Quality())
    if gmm is not None:
        say(f"reading {gmm}")
        splits = add_gmm_mixtures(splits, gmm)
    else:
        for split, clips in splits.items():
            if clips.scores is not None:
                raise UserError(f"{source}, {split}: expected exact keypoints, found detected ones (with scores)")
        for split, clips in splits.items():
            say(f"{split}: {clips.num_frames * clips.skeleton.num_joints:,} heatmaps and mixtures")
            splits[split], quality[split] = fit_heatmap_mixtures(clips, seed, options, strength=strength, label=split)
    say(f"writing {output}")
    save_archive(output, splits)
    mixtures = {split: clips.mixture for split, clips in splits.items() if clips.mixture is not None}
    columns = {split: describe_mixtures(mixture, quality[split]) for split, mixture in mixtures.items()}
    Console().print(tabulate("mixtures", columns))
    say(f"done: archive {output}")
    return splits
