"""3D truth for one person in four calibrated views: `python experiments/beam.py --videos FOLDER --output beam.npz`.

FOLDER holds `beam_cam01.mp4` to `beam_cam04.mp4` and `beam_calibration.qca.xml`, Pose2Sim's single-person demo (BSD-3,
perfanalytics): a man balances on a beam. Each view's keypoints are those of `find_people(..., 'largest')`. The twelve
limb joints of each frame are triangulated robustly: of the points that two views give, that is kept which most views
agree with, and then fitted to those. The file holds the points in each camera's frame, against which lifting a single
view can be measured; the lines printed say how far each view's keypoints are from them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffpose_jax.geometry import normalise_screen
from diffpose_jax.people import FilmedPeople
from diffpose_jax.skeleton import BLAZEPOSE_33, H36M_17
from diffpose_jax.video.finding import find_people

PARTS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
JOINTS = tuple(f"{side}_{part}" for part in PARTS for side in ("left", "right"))
INDICES = [BLAZEPOSE_33.joints.index(joint) for joint in JOINTS]
LIMBS = (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
TOLERANCE = 30.0  # pixels: a view whose keypoint is farther from a point does not agree with it
MIN_SCORE = 0.1


class View(NamedTuple):
    """One calibrated camera: focal length and centre in pixels, Brown's distortion, and its pose in the world."""

    focal: np.ndarray  # [2]
    centre: np.ndarray  # [2]
    distortion: np.ndarray  # [4]: k1, k2, p1, p2 as OpenCV orders them
    rotation: np.ndarray  # [3, 3], world to camera; x right, y down, z forward
    position: np.ndarray  # [3] m


def main(arguments: list[str]) -> int:
    """Finds the person in each view, triangulates, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder of the four videos and their calibration")
    parser.add_argument("--output", type=Path, default=Path("beam.npz"), help="the file to write")
    parser.add_argument("--heatmaps", action="store_true", help="measure the mixtures of the heatmaps, too")
    given = parser.parse_args(arguments)
    views = read_views(given.videos / "beam_calibration.qca.xml")
    filmed = [_find(given.videos / f"beam_cam0{number}.mp4", given.heatmaps) for number in range(1, len(views) + 1)]
    keypoints, scores = (np.stack(parts) for parts in zip(*map(_arrays, filmed), strict=True))
    points, agreeing = triangulate(keypoints[:, :, INDICES], scores[:, :, INDICES], views)
    _report(points, keypoints[:, :, INDICES], scores[:, :, INDICES], views)
    if given.heatmaps:
        _report_mixtures(filmed, keypoints[:, :, INDICES], scores[:, :, INDICES], views)
    np.savez_compressed(
        given.output,
        joints=np.array(JOINTS),
        points=points.astype(np.float32),
        poses=np.stack([to_camera(points, view) for view in views]).astype(np.float32),
        agreeing=agreeing,
        keypoints=keypoints.astype(np.float32),
        scores=scores.astype(np.float32),
        image_sizes=np.array([each.image_size for each in filmed]),
        **{name: np.stack([getattr(view, name) for view in views]) for name in View._fields},
    )
    print(f"wrote {given.output}: poses {points.shape} m of {', '.join(JOINTS)}")
    return 0


def _find(path: Path, heatmaps: bool) -> FilmedPeople:
    """The largest person of a video; prints how long it took."""
    begin = time.perf_counter()
    filmed = find_people(path, "largest", heatmaps=heatmaps)
    rate = len(filmed.times) / (time.perf_counter() - begin)
    share = len(filmed.tracks[0].frames) / len(filmed.times)
    print(f"{path.name}: {len(filmed.times)} frames, {100 * share:.0f} % tracked, {rate:.1f} frames per second")
    return filmed


def _arrays(filmed: FilmedPeople) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints `[T, 33, 2]` and scores `[T, 33]` of all frames; score 0 where the person was not found."""
    track = filmed.tracks[0]
    keypoints = np.zeros((len(filmed.times), *track.keypoints.shape[1:]))
    scores = np.zeros(keypoints.shape[:2])
    keypoints[track.frames], scores[track.frames] = track.keypoints, track.scores
    return keypoints, scores


def read_views(path: Path) -> list[View]:
    """Reads a calibration of Qualisys Track Manager: lengths in 1/64 pixel and millimetres."""
    views = []
    for camera in ElementTree.parse(path).getroot().iter("camera"):
        lens, pose = _numbers(camera.find("intrinsic")), _numbers(camera.find("transform"))
        rotation = np.array([[pose[f"r{row}{column}"] for column in (1, 2, 3)] for row in (1, 2, 3)])
        views.append(
            View(
                np.array([lens["focalLengthU"], lens["focalLengthV"]]) / 64,
                np.array([lens["centerPointU"], lens["centerPointV"]]) / 64,
                np.array([lens[f"{kind}Distortion{k}"] for kind in ("radial", "tangental") for k in (1, 2)]),
                # Qualisys' camera looks along its negative z axis, y up.
                np.diag([1.0, -1.0, -1.0]) @ rotation,
                np.array([pose[axis] for axis in "xyz"]) / 1000,
            )
        )
    return views


def _numbers(element: ElementTree.Element | None) -> dict[str, float]:
    assert element is not None
    return {name: float(value) for name, value in element.attrib.items()}


def to_camera(points: np.ndarray, view: View) -> np.ndarray:
    """Points `[..., 3]` (m) of the world in the camera's frame."""
    return (points - view.position) @ view.rotation.T


def project(points: np.ndarray, view: View) -> np.ndarray:
    """Pixels `[..., 2]` of points `[..., 3]` (m) of the world."""
    local = to_camera(points, view)
    return _distort(local[..., :2] / local[..., 2:], view) * view.focal + view.centre


def _distort(rays: np.ndarray, view: View) -> np.ndarray:
    """Brown's distortion of rays (x/z, y/z) `[..., 2]`, as OpenCV has it."""
    k1, k2, p1, p2 = view.distortion
    square = (rays**2).sum(axis=-1, keepdims=True)
    mixed = 2 * rays[..., :1] * rays[..., 1:]
    tangential = np.concatenate([p1 * mixed, p2 * mixed], axis=-1)
    tangential += np.array([p2, p1]) * (square + 2 * rays**2)
    return rays * (1 + k1 * square + k2 * square**2) + tangential


def undistort(pixels: np.ndarray, view: View) -> np.ndarray:
    """Rays (x/z, y/z) `[..., 2]` that are seen at pixels `[..., 2]`."""
    distorted = (pixels - view.centre) / view.focal
    rays = distorted
    for _ in range(20):
        rays = np.clip(rays - (_distort(rays, view) - distorted), -1, 1)
    return rays


def triangulate(keypoints: np.ndarray, scores: np.ndarray, views: list[View]) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate keypoints of several views robustly.

    Args:
        keypoints: `[V, T, J, 2]` pixels.
        scores: `[V, T, J]`.
        views: The V cameras.

    Returns:
        Points `[T, J, 3]` m in the world, NaN where no two views agree, and which views agree `[V, T, J]`.
    """
    rays = np.stack([undistort(pixels, view) for pixels, view in zip(keypoints, views, strict=True)])
    weights = np.where(scores >= MIN_SCORE, scores, 0.0)
    best, cost = np.full((*scores.shape[1:], 3), np.nan), np.full(scores.shape[1:], np.inf)
    for pair in itertools.combinations(range(len(views)), 2):
        chosen = np.zeros_like(weights)
        chosen[list(pair)] = weights[list(pair)] > 0
        points = _intersect(rays, chosen, views)
        errors = np.minimum(_errors(points, keypoints, views), TOLERANCE)
        here = np.where(chosen.sum(axis=0) == 2, (weights * errors).sum(axis=0), np.inf)
        best, cost = np.where((here < cost)[..., None], points, best), np.minimum(here, cost)
    for _ in range(3):
        agreeing = (_errors(best, keypoints, views) < TOLERANCE) & (weights > 0)
        enough = agreeing.sum(axis=0) >= 2
        best = np.where(enough[..., None], _intersect(rays, weights * agreeing, views), np.nan)
    return best, agreeing & enough


def _errors(points: np.ndarray, keypoints: np.ndarray, views: list[View]) -> np.ndarray:
    """Distances `[V, T, J]` in pixels of keypoints from the projections of points; inf where these are NaN."""
    away = [np.linalg.norm(project(points, view) - each, axis=-1) for view, each in zip(views, keypoints, strict=True)]
    return np.nan_to_num(np.stack(away), nan=np.inf)


def _intersect(rays: np.ndarray, weights: np.ndarray, views: list[View]) -> np.ndarray:
    """The points `[T, J, 3]` nearest to weighted rays `[V, T, J, 2]`: least squares in pixels of a mean focal length.

    A ray u = x/z of a camera with rows r1, r2, r3 says (r1 - u r3) (p - c) = 0, and v likewise. Divided by the depth
    the left side is the distance in the picture, so each round divides by the depth of the round before.
    """
    matrices = np.stack([view.rotation for view in views])
    positions = np.stack([view.position for view in views])
    rows = matrices[:, None, None, :2] - rays[..., None] * matrices[:, None, None, 2:]
    right = np.einsum("vtjkc,vc->vtjk", rows, positions)
    depth = np.ones(weights.shape)
    for _ in range(3):
        scale = np.sqrt(weights) / depth
        left = np.einsum("vtj,vtjkc->tjvkc", scale, rows)
        system = left.reshape(*left.shape[:2], -1, 3)
        target = np.einsum("vtj,vtjk->tjvk", scale, right).reshape(*left.shape[:2], -1)
        normal = np.einsum("tjnc,tjnd->tjcd", system, system) + 1e-12 * np.eye(3)
        points = np.linalg.solve(normal, np.einsum("tjnc,tjn->tjc", system, target)[..., None])[..., 0]
        depth = np.stack([np.maximum(to_camera(points, view)[..., 2], 0.1) for view in views])
    return points


def _report(points: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, views: list[View]) -> None:
    """Prints distances of keypoints from the points by view, and how constant limbs are."""
    print(f"triangulated: {100 * np.isfinite(points[..., 0]).mean():.1f} % of joints")
    errors = np.where(np.isfinite(points[..., 0]) & (scores > 0), _errors(points, keypoints, views), np.nan)
    for number, each in enumerate(errors, 1):
        middle, high = np.nanpercentile(each, [50, 90])
        print(f"camera {number}: median {middle:.1f}, 90th percentile {high:.1f} pixels from the reprojected point")
    for upper, lower in LIMBS:
        for side in ("left", "right"):
            ends = [points[:, JOINTS.index(f"{side}_{joint}")] for joint in (upper, lower)]
            lengths = 1000 * np.linalg.norm(ends[0] - ends[1], axis=-1)
            middle = np.nanmedian(lengths)
            spread = 1.4826 * np.nanmedian(np.abs(lengths - middle))
            print(
                f"{side} {upper} to {lower}: {middle:.0f} mm, robust standard deviation {100 * spread / middle:.1f} %"
            )
    _report_lasting(points, keypoints, views)


def _report_lasting(points: np.ndarray, keypoints: np.ndarray, views: list[View]) -> None:
    """Prints how far off keypoints are along an axis of the picture, at the person: for a whole film, and beside that.

    The median over the frames of a view lasts; what is left has the standard deviation of a Gaussian in the plane with
    the same median of squared distances, 2 log(2) of its variance.
    """
    depths = np.stack([to_camera(points, view)[..., 2:] / view.focal for view in views])
    away = (keypoints - np.stack([project(points, view) for view in views])) * depths
    lasting = np.nanmedian(away, axis=1)
    rest = np.nanmedian(np.square(away - lasting[:, None]).sum(axis=-1), axis=1) / (2 * np.log(2))
    for part in PARTS:
        joints = [index for index, joint in enumerate(JOINTS) if joint.endswith(part)]
        one, other = np.mean(np.square(lasting[:, joints])), np.mean(rest[:, joints])
        print(f"{part}: {100 * one**0.5:.1f} cm for a whole film, {100 * other**0.5:.1f} cm else, "
              f"{100 * (one + other) ** 0.5:.1f} cm together")  # fmt: skip


def _report_mixtures(filmed: list[FilmedPeople], keypoints: np.ndarray, scores: np.ndarray, views: list[View]) -> None:
    """Prints how often the 50 and 90 % ellipses of a view's mixtures hold what the other views triangulate."""
    joints = [H36M_17.joints.index(joint) for joint in JOINTS]
    for number, each in enumerate(filmed):
        others = [index for index in range(len(views)) if index != number]
        points, _ = triangulate(keypoints[others], scores[others], [views[index] for index in others])
        track = each.tracks[0]
        assert track.mixture is not None
        mean, covariance = (np.asarray(part, float)[:, joints] for part in track.mixture.mean_and_covariance())
        pixels = project(points, views[number])[track.frames]
        away = normalise_screen(pixels, each.image_size) - mean
        squared = np.einsum("tji,tji->tj", away, np.linalg.solve(covariance, away[..., None])[..., 0])
        squared = squared[np.isfinite(squared)]
        # Of a Gaussian in the plane the squared Mahalanobis distance is below -2 log(1 - p) with the probability p.
        held = [100 * np.mean(squared < -2 * np.log(1 - level)) for level in (0.5, 0.9)]
        print(f"camera {number + 1}: 50 / 90 % ellipses of the heatmaps hold {held[0]:.0f} / {held[1]:.0f} %")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
