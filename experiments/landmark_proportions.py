"""Proportions of the people that BlazePose sees: `python experiments/landmark_proportions.py film.mp4 ...`.

The landmark network also guesses where its points are in space. Their shank in thighs and forearm in upper arms,
medians over all people and frames, are what `diffpose_jax.data.joint_centres.DETECTED` holds (of `two_people.mp4`,
Sports2D's demo): lengths between the joints as this detector understands them. Beside them, with `--data`, those of an
archive.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.joint_centres import Proportions, measure_proportions
from diffpose_jax.skeleton import BLAZEPOSE_33, H36M_17, convert_layout
from diffpose_jax.video.blazepose import BlazePoseSearch
from diffpose_jax.video.frames import open_frames
from diffpose_jax.video.networks import LANDMARKS
from diffpose_jax.video.tracking import Tracker


def main(arguments: list[str]) -> int:
    """Prints a line for every film and archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="an archive of `prepare`, of whose train split the same is printed")
    given = parser.parse_args(arguments)
    print("| source | poses | thorax below the shoulders / torso | shank / thigh | forearm / upper arm |")
    print("|---|---:|---:|---:|---:|")
    for film in given.films:
        poses = guess_poses(film)
        _print(film.name, len(poses), measure_proportions(convert_layout(poses, BLAZEPOSE_33, H36M_17), H36M_17))
    if given.data:
        train = load_archive(given.data, ["train"])["train"]
        _print(given.data.name, train.num_frames, measure_proportions(train.poses, train.skeleton))
    return 0


def guess_poses(film: Path) -> np.ndarray:
    """The network's 3D landmarks `[M, 33, 3]` (m) of all people in all frames."""
    search, tracker, poses = BlazePoseSearch(), Tracker(), []
    for frame in open_frames(film):
        candidates = search.search(frame, tracker)
        search.follow(tracker.update([one.body for one in candidates], frame.time), candidates)
        poses += [one.landmarks.places[:LANDMARKS] for one in candidates]
    return np.stack(poses)


def _print(name: str, count: int, found: Proportions | None) -> None:
    if found is not None:
        print(f"| {name} | {count:,} | {found.thorax:.3f} | {found.shank:.3f} | {found.forearm:.3f} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
