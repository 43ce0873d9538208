"""From a heatmap to a distribution of 3D poses, in figures.

    python experiments/diffpose_pipeline.py --workdir runs/diffpose

Simulates the heatmaps of one clip of the embedded motion, fits mixtures to them and lifts one frame, whose wrist is
seen at two places, with a trained DiffPose. Writes the figures of experiments/diffpose_pipeline.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_clips import fit_quick_mixtures, simulate_clips
from diffpose_jax.data.detector.heatmaps import Heatmaps, draw_points, person_box, render
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.data.windows import Batch, device_clips, gather, training_windows
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.mixtures.fitting import fit_mixture
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.viz.poses import (
    SIDE_VIEW,
    PoseStyle,
    draw_pose_2d,
    draw_pose_3d,
    frame_axes,
    save_figure,
    view_points,
)
from diffpose_jax.workdir.trained import Trained, load_trained

FIGURES = Path(__file__).resolve().parent / "figures"
HYPOTHESES = 40
ENDS = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")


def main(arguments: list[str]) -> int:
    """Makes the figures and says where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="work directory of a trained diffpose_frame")
    parser.add_argument("--data", default="synthetic", help="archive with exact keypoints")
    parser.add_argument("--clip", type=int, default=3, help="clip of the test split")
    given = parser.parse_args(arguments)
    trained = load_trained(given.workdir)
    exact = load_synthetic() if given.data == "synthetic" else load_archive(given.data, ["test"])
    clip = exact["test"].to_layout(trained.lifter.skeleton).select([given.clip])
    _, _, heatmaps = next(simulate_clips(clip, 0))
    frame, joint = ambiguous(heatmaps, clip)
    seen = fit_quick_mixtures(clip)
    batch = gather(device_clips(seen), training_windows(seen, 1, "centred"), jnp.array([frame]), 1)
    paths = [heatmap_figure(heatmaps, clip, seen, frame, joint), pose_figure(trained, batch, joint)]
    print("figures: " + ", ".join(map(str, paths)))
    return 0


def ambiguous(heatmaps: Heatmaps, clip: ClipSet) -> tuple[int, int]:
    """The frame and the hand or foot whose heatmap is most undecided between two places."""
    joints = [clip.skeleton.joints.index(name) for name in ENDS]
    weights = heatmaps.weights[: clip.num_frames, joints]
    best = int(np.argmax(np.minimum(weights[..., 0], weights[..., 1:3].max(axis=-1))))
    frame, place = np.unravel_index(best, weights.shape[:2])
    return int(frame), joints[place]


def heatmap_figure(heatmaps: Heatmaps, clip: ClipSet, seen: ClipSet, frame: int, joint: int) -> Path:
    """The heatmap of one joint as a detector gives it, what is drawn from it, and the mixture fitted to that."""
    one = jax.tree.map(lambda part: jnp.asarray(part[frame : frame + 1]), heatmaps)
    box = person_box(one)
    extent = np.asarray(box.corner[0]), np.asarray(box.corner[0] + box.extent[0])
    shown = (extent[0][0], extent[1][0], extent[1][1], extent[0][1])
    points = draw_points(jax.random.split(jax.random.key(0), 1), one, 200)[0, joint]
    mixture = fit_mixture(jax.random.key(1), points, 5)

    figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    axes[0].set_title("keypoints: the heatmaps' estimates")
    draw_pose_2d(axes[0], seen.keypoints[frame], clip.skeleton)
    frame_axes(axes[0], seen.keypoints[frame] * [1, -1])
    axes[1].set_title(f"heatmap of the {clip.skeleton.joints[joint].replace('_', ' ')}")
    axes[1].imshow(np.asarray(render(one, box, 64))[0, joint] ** 0.5, extent=shown, cmap="magma")
    axes[2].set_title("200 draws and the mixture fitted by EM")
    axes[2].scatter(*np.asarray(points).T, s=4, color="0.6")
    for weight, mean, covariance in zip(*map(np.asarray, mixture), strict=True):
        axes[2].add_patch(_ellipse(mean, covariance, weight))
    for ax in axes[1:]:
        ax.plot(*clip.keypoints[frame, joint], "+", color="limegreen", markersize=12, label="truth")
        ax.plot(*seen.keypoints[frame, joint], "x", color="deepskyblue", markersize=9, label="estimate")
        (left, low), (right, high) = np.asarray(points).min(axis=0) - 0.02, np.asarray(points).max(axis=0) + 0.02
        ax.set(xlim=(left, right), ylim=(high, low), xticks=[], yticks=[], aspect="equal")
    axes[2].legend(loc="lower right")
    return _saved(figure, "diffpose_heatmap.png")


def _ellipse(mean: np.ndarray, covariance: np.ndarray, weight: float) -> Ellipse:
    values, vectors = np.linalg.eigh(covariance)
    width, height = 4 * np.sqrt(values)
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    return Ellipse(mean, width, height, angle=angle, fill=False, lw=0.7 + 4 * weight, color="crimson")


def pose_figure(trained: Trained, batch: Batch, joint: int) -> Path:
    """Hypotheses from the side: drawn from H_K, after every reverse step, and the truth."""
    skeleton, plan = trained.lifter.skeleton, trained.lifter.plan
    states = [_hypotheses_after(trained, plan, batch, done) for done in range(len(plan.step) + 1)]
    truth = np.asarray(batch.poses)[0, 0]
    figure, axes = plt.subplots(1, len(states) + 1, figsize=(1.7 * (len(states) + 1), 2.7), layout="constrained")
    titles = ["drawn from H_K", *(f"step {done} of {len(plan.step)}" for done in range(1, len(states)))]
    for ax, poses, title in zip(axes, states, titles, strict=False):
        _overlay(ax, poses, skeleton, joint, title)
    draw_pose_3d(axes[-1], truth, skeleton, view=SIDE_VIEW)
    axes[-1].set_title("truth")
    everything = np.concatenate([*(poses.reshape(-1, 3) for poses in states[1:]), truth])
    for ax in axes:
        frame_axes(ax, view_points(everything, SIDE_VIEW)[:, :2])
    return _saved(figure, "diffpose_reverse.png")


def _hypotheses_after(trained: Trained, plan: Plan, batch: Batch, steps: int) -> np.ndarray:
    """The hypotheses `[H, J, 3]` after the first `steps` reverse steps."""
    begun = Plan(plan.step[:steps], plan.table[:steps])
    sampling = Sampling(HYPOTHESES, temperature=trained.temperature or 1.0, plan=begun)
    return np.asarray(trained.lifter.sample(trained.variables, jax.random.key(0), batch, sampling))[:, 0, 0]


def _overlay(ax: Axes, poses: np.ndarray, skeleton: Skeleton, joint: int, title: str) -> None:
    for pose in poses:
        draw_pose_3d(ax, pose, skeleton, SIDE_VIEW, PoseStyle(alpha=0.12, linewidth=1.2, joint_size=1.0))
    ax.scatter(*view_points(poses[:, joint], SIDE_VIEW)[:, :2].T, s=8, color="crimson", zorder=5)
    ax.set_title(title)


def _saved(figure: plt.Figure, name: str) -> Path:
    FIGURES.mkdir(exist_ok=True)
    save_figure(figure, FIGURES / name)
    return FIGURES / name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
