"""One view lifted, against four triangulated: `python experiments/beam_lifting.py --truth beam.npz --model NAME`.

`experiments/beam.py` makes the file: keypoints of a man on a beam in four calibrated views, and the points that they
triangulate to. Each view is lifted by itself, with its calibrated focal length or that of a phone's main camera. The
twelve limb joints, relative to the middle of the hips, are compared in the camera's frame: MPJPE, P-MPJPE, how often
the 90 % regions hold the triangulated point, and how fast single hypotheses jerk beside the triangulated points.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from diffpose_jax.evaluation.metrics import p_mpjpe
from diffpose_jax.lifted_video import LiftOptions, lift_people
from diffpose_jax.model import Model, load
from diffpose_jax.people import FilmedPeople, Track
from diffpose_jax.skeleton import BLAZEPOSE_33

FPS = 60.0
HIPS = (0, 1)


def main(arguments: list[str]) -> int:
    """Lifts the four views and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True, help="file of experiments/beam.py")
    parser.add_argument("--model", required=True, help="work directory, or pretrained:NAME")
    parser.add_argument("--hypotheses", type=int, default=20)
    parser.add_argument("--assume_focal", action="store_true", help="do not use the calibrated focal length")
    given = parser.parse_args(arguments)
    truth, model = dict(np.load(given.truth)), load(given.model)
    rows = [measure(truth, view, model, given.hypotheses, given.assume_focal) for view in range(len(truth["poses"]))]
    print("| camera | MPJPE mm | P-MPJPE mm | 90 % regions hold | jerk of a hypothesis / of the truth |")
    print("|---|---:|---:|---:|---:|")
    for number, (error, aligned, held, jerk) in enumerate(rows, 1):
        print(f"| {number} | {error:.1f} | {aligned:.1f} | {held:.0%} | {jerk:.2f} |")
    mean = np.mean([rows[view] for view in (0, 2, 3)], axis=0)
    print(f"| mean of 1, 3, 4 | {mean[0]:.1f} | {mean[1]:.1f} | {mean[2]:.0%} | {mean[3]:.2f} |")
    return 0


def measure(
    truth: dict[str, np.ndarray], view: int, model: Model, hypotheses: int, assumed: bool
) -> tuple[float, float, float, float]:
    """MPJPE and P-MPJPE in mm, the share of the 90 % regions that hold, and the ratio of jerks, of one view."""
    keypoints, scores = truth["keypoints"][view], truth["scores"][view]
    frames = np.arange(len(keypoints))
    track = Track("person", frames, keypoints, scores, BLAZEPOSE_33)
    width, height = (int(side) for side in truth["image_sizes"][view])
    filmed = FilmedPeople(f"camera {view + 1}", (width, height), frames / FPS, (track,))
    focal = None if assumed else float(truth["focal"][view].mean())
    person = lift_people(model, filmed, LiftOptions(hypotheses, focal=focal)).people[0]
    joints = [person.skeleton.joints.index(str(name)) for name in truth["joints"]]
    found, wanted = person.poses[:, joints], truth["poses"][view]
    drawn = person.hypotheses[:, :, joints]
    found, wanted, drawn = (
        points - points[..., HIPS, :].mean(axis=-2, keepdims=True) for points in (found, wanted, drawn)
    )
    distance = np.linalg.norm(found - wanted, axis=-1)
    held = np.nan if person.radius_90 is None else float((distance <= person.radius_90[:, joints]).mean())
    aligned = float(np.mean(np.asarray(p_mpjpe(found.astype(np.float32), wanted.astype(np.float32)))))
    return 1000 * float(distance.mean()), 1000 * aligned, held, jerk(drawn[:, 0]) / jerk(wanted)


def jerk(poses: np.ndarray) -> float:
    """The mean size of the third difference of poses `[T, J, 3]` over frames, m."""
    return float(np.linalg.norm(np.diff(poses, n=3, axis=0), axis=-1).mean())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
