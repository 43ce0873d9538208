"""One view lifted, against four triangulated: `python experiments/beam_lifting.py --truth beam.npz --model NAME`.

`experiments/beam.py` makes the file: keypoints of a man on a beam in four calibrated views, and the points that they
triangulate to. Each view is lifted by itself, with its calibrated focal length or that of a phone's main camera. The
twelve limb joints, relative to the middle of the hips, are compared in the camera's frame: MPJPE, P-MPJPE, how often
the 90 % regions hold the triangulated point, and how fast single hypotheses jerk beside the triangulated points. With
`--videos FOLDER` people are found in the films once more, with their heatmaps, which the file does not have; with
`--exact hips` or `all` joints are where a camera without distortion sees the triangulated points, and
with `--as_found` none is moved to where the model's training has it. Then the rotation of
all frames together that brings the poses nearest to the truth: its angle, and the MPJPE after it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from diffpose_jax.evaluation.metrics import p_mpjpe
from diffpose_jax.lifted_video import LiftOptions, lift_people
from diffpose_jax.model import Model, load
from diffpose_jax.people import FilmedPeople, Track
from diffpose_jax.skeleton import BLAZEPOSE_33
from diffpose_jax.video.finding import find_people

FPS = 60.0
HIPS = (0, 1)


def main(arguments: list[str]) -> int:
    """Lifts the four views and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True, help="file of experiments/beam.py")
    parser.add_argument("--model", required=True, help="work directory, or pretrained:NAME")
    parser.add_argument("--hypotheses", type=int, default=20)
    parser.add_argument("--videos", type=Path, help="folder of the four films, for a model that needs heatmaps")
    parser.add_argument("--exact", choices=("", "hips", "all"), default="", help="joints without a detector's errors")
    parser.add_argument("--assume_focal", action="store_true", help="do not use the calibrated focal length")
    parser.add_argument("--as_found", action="store_true", help="do not move joints to where training has them")
    given = parser.parse_args(arguments)
    truth, model = dict(np.load(given.truth)), load(given.model)
    if given.as_found:
        model = dataclasses.replace(model, trained=model.trained._replace(keypoints=None))
    if given.exact:
        truth["keypoints"] = place_exactly(truth, "hip" if given.exact == "hips" else "")
    rows = []
    for view in range(len(truth["poses"])):
        film = given.videos / f"beam_cam0{view + 1}.mp4" if given.videos else None
        filmed = take_keypoints(truth, view) if film is None else find_people(film, "largest")
        focal = None if given.assume_focal else float(truth["focal"][view].mean())
        rows.append(measure(truth, view, filmed, model, LiftOptions(given.hypotheses, focal=focal)))
    columns = ("camera", "MPJPE mm", "P-MPJPE mm", "90 % regions hold", "jerk of a hypothesis / of the truth",
               "turned", "MPJPE mm after")  # fmt: skip
    print(f"| {' | '.join(columns)} |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    labels = [str(number) for number in range(1, len(rows) + 1)]
    for label, row in zip(
        [*labels, "mean of 1, 3, 4"], [*rows, np.mean([rows[view] for view in (0, 2, 3)], axis=0)], strict=True
    ):
        print("| {} | {:.1f} | {:.1f} | {:.0%} | {:.2f} | {:.0f}° | {:.1f} |".format(label, *row))
    return 0


def take_keypoints(truth: dict[str, np.ndarray], view: int) -> FilmedPeople:
    """The person of a view as the file of experiments/beam.py has them, without heatmaps."""
    keypoints, scores = truth["keypoints"][view], truth["scores"][view]
    frames = np.arange(len(keypoints))
    track = Track("person", frames, keypoints, scores, BLAZEPOSE_33)
    width, height = (int(side) for side in truth["image_sizes"][view])
    return FilmedPeople(f"camera {view + 1}", (width, height), frames / FPS, (track,))


def place_exactly(truth: dict[str, np.ndarray], part: str) -> np.ndarray:
    """The keypoints of all views, where joints whose names end in `part` are projections of the triangulated points."""
    keypoints = truth["keypoints"].copy()
    for place, joint in enumerate(truth["joints"]):
        if str(joint).endswith(part):
            points = truth["poses"][:, :, place]
            pixels = points[..., :2] / points[..., 2:] * truth["focal"][:, None] + truth["centre"][:, None]
            keypoints[:, :, BLAZEPOSE_33.joints.index(str(joint))] = pixels
    return keypoints


def measure(
    truth: dict[str, np.ndarray], view: int, filmed: FilmedPeople, model: Model, options: LiftOptions
) -> tuple[float, ...]:
    """MPJPE and P-MPJPE in mm, share of 90 % regions that hold, ratio of jerks; angle and MPJPE after one rotation."""
    person = lift_people(model, filmed, options).people[0]
    joints = [person.skeleton.joints.index(str(name)) for name in truth["joints"]]
    found, wanted = person.poses[:, joints], truth["poses"][view][person.frames]
    drawn = person.hypotheses[:, :, joints]
    found, wanted, drawn = (
        points - points[..., HIPS, :].mean(axis=-2, keepdims=True) for points in (found, wanted, drawn)
    )
    distance = np.linalg.norm(found - wanted, axis=-1)
    held = np.nan if person.radius_90 is None else float((distance <= person.radius_90[:, joints]).mean())
    aligned = float(np.mean(np.asarray(p_mpjpe(found.astype(np.float32), wanted.astype(np.float32)))))
    turn, _ = Rotation.align_vectors(wanted.reshape(-1, 3), found.reshape(-1, 3))
    turned = np.linalg.norm(turn.apply(found.reshape(-1, 3)) - wanted.reshape(-1, 3), axis=-1).mean()
    return (
        1000 * float(distance.mean()),
        1000 * aligned,
        held,
        jerk(drawn[:, 0]) / jerk(wanted),
        float(np.degrees(turn.magnitude())),
        1000 * float(turned),
    )


def jerk(poses: np.ndarray) -> float:
    """The mean size of the third difference of poses `[T, J, 3]` over frames, m."""
    return float(np.linalg.norm(np.diff(poses, n=3, axis=0), axis=-1).mean())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
