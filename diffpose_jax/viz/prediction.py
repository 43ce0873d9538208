"""The figure of a prediction: 2D input, aggregate, hypotheses and their spread."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpose_jax.skeleton import Skeleton
from diffpose_jax.viz.poses import (
    CAMERA_VIEW,
    LEFT_COLOUR,
    RIGHT_COLOUR,
    SIDE_VIEW,
    PoseStyle,
    View,
    colour_by_value,
    draw_floor,
    draw_pose_2d,
    draw_pose_3d,
    frame_axes,
    view_points,
)

TRUTH = PoseStyle(colour="#9a9a9a", joint_size=0)


def draw_prediction(
    keypoints: np.ndarray,
    hypotheses: np.ndarray,
    aggregate: np.ndarray,
    spread: np.ndarray,
    skeleton: Skeleton,
    *,
    truth: np.ndarray | None = None,
    aggregation: str = "mean",
    title: str = "",
) -> Figure:
    """Draw one predicted frame: 2D input, joints coloured by spread, aggregate and hypotheses from two views.

    Args:
        keypoints: `[J, 2]`, normalised image units.
        hypotheses: `[H, J, 3]`, root-relative metres, camera frame.
        aggregate: the pose that is reported, `[J, 3]`, likewise.
        spread: standard deviation of the hypotheses of every joint `[J]`, millimetres.
        skeleton: the joints.
        truth: ground truth `[J, 3]`, drawn in grey behind the aggregate.
        aggregation: name of the aggregate, for its title.
        title: title of the figure.

    Returns:
        The figure.
    """
    hypotheses, aggregate = np.asarray(hypotheses), np.asarray(aggregate)
    standing = aggregate if truth is None else np.asarray(truth)
    everything = np.concatenate([hypotheses, aggregate[None], standing[None]])
    figure = Figure(figsize=(9.6, 7.4), layout="constrained")
    panels = figure.subplots(2, 3)
    if title:
        figure.suptitle(title, fontsize=11)
    draw_pose_2d(panels[0, 0], keypoints, skeleton)
    frame_axes(panels[0, 0], np.asarray(keypoints) * [1, -1], 0.15, "2D input")
    _label_sides(panels[0, 0])
    _draw_spread(panels[1, 0], aggregate, np.asarray(spread), skeleton, everything)
    count, label = len(hypotheses), "" if truth is None else "\n(ground truth grey)"
    overlay = PoseStyle(linewidth=1.6, joint_size=0, alpha=float(np.clip(2.5 / max(count, 1), 0.12, 0.9)))
    for column, (view, name) in enumerate([(CAMERA_VIEW, "camera view"), (SIDE_VIEW, "side view")], 1):
        upper, lower = panels[:, column]
        if truth is not None:
            draw_pose_3d(upper, truth, skeleton, view, TRUTH)
        draw_pose_3d(upper, aggregate, skeleton, view)
        for pose in hypotheses:
            draw_pose_3d(lower, pose, skeleton, view, overlay)
        _frame_view(upper, everything, standing, view, f"{aggregation} of {count}, {name}{label}")
        _frame_view(lower, everything, standing, view, f"{count} hypothes{'i' if count == 1 else 'e'}s, {name}")
    return figure


def _draw_spread(
    axes: Axes, aggregate: np.ndarray, spread: np.ndarray, skeleton: Skeleton, everything: np.ndarray
) -> None:
    _, joints = draw_pose_3d(axes, aggregate, skeleton, style=PoseStyle(colour="#bbbbbb", joint_size=58))
    colour_by_value(joints, spread, aggregate)
    _frame_view(axes, everything, aggregate, CAMERA_VIEW, "spread of the hypotheses")
    bar = axes.figure.colorbar(joints, cax=axes.inset_axes((0.0, 0.15, 0.045, 0.6)))
    bar.ax.set_title("std (mm)", fontsize=8, loc="left")
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _label_sides(axes: Axes) -> None:
    for height, (name, colour) in enumerate([("right side", RIGHT_COLOUR), ("left side", LEFT_COLOUR)]):
        axes.text(0.0, 0.02 + 0.05 * height, name, color=colour, fontsize=9, transform=axes.transAxes)


def _frame_view(axes: Axes, poses: np.ndarray, standing: np.ndarray, view: View, title: str) -> None:
    floor = draw_floor(axes, standing, view)
    shown = view_points(poses, view)[..., :2]
    frame_axes(axes, np.concatenate([shown.reshape(-1, 2), floor.reshape(-1, 2)]), 0.05, title)
