"""The sample sheet of a data set: 2D inputs with their 3D poses from two views, to look at before training."""

from __future__ import annotations

from collections.abc import Sequence

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
    draw_floor,
    draw_pose_2d,
    draw_pose_3d,
    frame_axes,
    view_points,
)


def draw_sample_sheet(
    keypoints: np.ndarray,
    poses: np.ndarray | None,
    labels: Sequence[str],
    skeleton: Skeleton,
    *,
    title: str = "",
    samples_per_row: int = 3,
    half_height: float | None = None,
) -> Figure:
    """Draw M samples in a grid: the whole image with the keypoints, and the pose from the camera and from the side.

    All 3D panels have one scale, so that wrong units, sizes or axes stand out.

    Args:
        keypoints: `[M, J, 2]`, normalised image units.
        poses: `[M, J, 3]`, metres, camera frame; None for keypoints only.
        labels: title of every sample.
        skeleton: the joints.
        title: title of the sheet.
        samples_per_row: samples beside each other.
        half_height: height over width of the image, whose frame is then drawn.

    Returns:
        The figure.
    """
    panels = 1 if poses is None else 3
    rows = -(-len(keypoints) // samples_per_row)
    columns = min(samples_per_row, len(keypoints))
    figure = Figure(figsize=(1.75 * (panels + 0.3) * columns + 0.6, 2.15 * rows + 0.7), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=10)
    for inch, side, colour in ((0.05, "left side", LEFT_COLOUR), (0.2, "right side", RIGHT_COLOUR)):
        figure.text(0.998, 1 - inch / figure.get_figheight(), side, color=colour, fontsize=8, va="top", ha="right")
    widths = ([1.3] + [1.0] * (panels - 1)) * columns
    grid = figure.subplots(rows, columns * panels, squeeze=False, width_ratios=widths)
    for axes in grid.ravel():
        axes.set_axis_off()
    for sample in range(len(keypoints)):
        row, column = divmod(sample, columns)
        cells = grid[row, column * panels : (column + 1) * panels]
        _draw_image(cells[0], keypoints[sample], skeleton, half_height, labels[sample])
        if poses is not None:
            reach = 1.05 * float(np.abs(poses - poses.mean(axis=1, keepdims=True)).max())
            _draw_view(cells[1], poses[sample], skeleton, CAMERA_VIEW, reach, "camera view")
            _draw_view(cells[2], poses[sample], skeleton, SIDE_VIEW, reach, "side view")
    return figure


def draw_comparison(poses: np.ndarray, truth: np.ndarray, skeleton: Skeleton, title: str = "") -> Figure:
    """Draw poses over the true ones in grey, from the camera and from the side.

    Args:
        poses: M poses `[M, J, 3]`, m, in the camera's frame.
        truth: The true poses, likewise.
        skeleton: The joints and bones.
        title: The line above.
    """
    step = 2.2 * float(np.abs(truth - truth.mean(axis=1, keepdims=True)).max())
    figure = Figure(figsize=(1.6 * len(poses) + 0.2, 3.6))
    axes = figure.add_axes((0, 0, 1, 0.92))
    for row, view in enumerate((CAMERA_VIEW, SIDE_VIEW)):
        azimuth = np.radians(view.azimuth)
        right = np.array([np.cos(azimuth), 0, np.sin(azimuth)])
        for column, (pose, true) in enumerate(zip(poses, truth, strict=True)):
            # Both stand on one place of the sheet, so that where the roots differ is left out, as in the error.
            place = column * step * right + [0, row * step, 0]
            draw_pose_3d(axes, true + place, skeleton, view, PoseStyle("#9a9a9a", 3.5, 0, 0.6))
            draw_pose_3d(axes, pose + place, skeleton, view, PoseStyle(linewidth=1.2, joint_size=3))
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    return figure


def _draw_image(axes: Axes, keypoints: np.ndarray, skeleton: Skeleton, half_height: float | None, label: str) -> None:
    draw_pose_2d(axes, keypoints, skeleton, PoseStyle(linewidth=1.0, joint_size=2))
    shown = keypoints * [1, -1]
    if half_height is not None:
        corners = half_height * np.array([-1, -1, 1, 1, -1])
        corners = np.stack([[-1, 1, 1, -1, -1], corners], axis=-1)
        axes.plot(*corners.T, color="#bbbbbb", linewidth=0.8)
        shown = np.concatenate([corners, shown])
    frame_axes(axes, shown, 0.03)
    axes.set_title(label, fontsize=7)


def _draw_view(axes: Axes, pose: np.ndarray, skeleton: Skeleton, view: View, reach: float, label: str) -> None:
    draw_floor(axes, pose, view)
    draw_pose_3d(axes, pose, skeleton, view, PoseStyle(linewidth=1.5, joint_size=5))
    centre = view_points(pose, view)[:, :2].mean(axis=0)
    frame_axes(axes, centre + reach * np.array([[-1, -1], [1, 1]]), 0.0)
    axes.set_title(label, fontsize=7)
