"""CMU motion as simulated heatmaps show it: `python experiments/cmu_heatmaps.py --source data/cmu.npz`.

Of each sequence one camera, in turn, which is enough for studies of minutes; `python -m diffpose_jax.prepare mixtures`
does all of an archive. Keypoints, scores and mixtures are those of the heatmaps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_clips import fit_quick_mixtures


def main(arguments: list[str]) -> int:
    """Writes the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("data/cmu.npz"), help="archive made by `prepare cmu`")
    parser.add_argument("--output", type=Path, default=Path("data/cmu_heatmaps.npz"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    splits = {name: one_camera(clips) for name, clips in load_archive(given.source).items()}
    splits = {name: fit_quick_mixtures(clips, given.seed, label=name) for name, clips in splits.items()}
    save_archive(given.output, splits)
    print(
        "\n".join(f"{name}: {clips.num_clips} sequences, {clips.num_frames:,} frames" for name, clips in splits.items())
    )
    print(f"archive: {given.output}")
    return 0


def one_camera(clips: ClipSet) -> ClipSet:
    """One clip of each sequence, the cameras taking turns; clips of a sequence follow each other by camera."""
    sequences: list[list[int]] = []
    for index, camera in enumerate(clips.camera):
        if not index or camera <= clips.camera[index - 1]:
            sequences.append([])
        sequences[-1].append(index)
    return clips.select([views[turn % len(views)] for turn, views in enumerate(sequences)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
