"""Stick figures in 2D and 3D, and the figure of a prediction: input, aggregate, hypotheses and their spread.

Everything draws on the `Axes` it is given; no pyplot state is touched. 3D poses are drawn on flat axes by an
orthographic view, bones sorted by depth, so that up is always up and metres are equal along both axes. The left side of
the body is one colour, the right side another, whatever the skeleton.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import Colormap, to_rgba
from matplotlib.figure import Figure

from diffpose_jax.skeleton import Skeleton

LEFT_COLOUR = "#d1495b"
RIGHT_COLOUR = "#2e6f95"
MIDDLE_COLOUR = "#4a4a4a"
TRUTH_COLOUR = "#9a9a9a"
SPREAD_COLOURS = "plasma"


class View(NamedTuple):
    """Where a 3D pose is seen from, in degrees: azimuth turns around the vertical, elevation lifts the eye.

    Azimuth 0 is the camera's own view; 90 sees the same person from the camera's right-hand side.
    """

    azimuth: float = 0.0
    elevation: float = 12.0


CAMERA_VIEW = View(0.0)
SIDE_VIEW = View(80.0)


def view_points(points: np.ndarray, view: View) -> np.ndarray:
    """Turns points `[..., 3]` (metres; x right, y down, z forward) into `[..., 3]`: right, up and depth of the view."""
    azimuth, elevation = np.radians(view.azimuth), np.radians(view.elevation)
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    right = np.cos(azimuth) * x + np.sin(azimuth) * z
    forward = np.cos(azimuth) * z - np.sin(azimuth) * x
    up = np.sin(elevation) * forward - np.cos(elevation) * y
    depth = np.cos(elevation) * forward + np.sin(elevation) * y
    return np.stack([right, up, depth], axis=-1)


def joint_colours(skeleton: Skeleton) -> np.ndarray:
    """The colour of every joint by the side of the body it belongs to, `[J, 4]` rgba."""
    colours = np.tile(to_rgba(MIDDLE_COLOUR), (skeleton.num_joints, 1))
    colours[list(skeleton.left)] = to_rgba(LEFT_COLOUR)
    colours[list(skeleton.right)] = to_rgba(RIGHT_COLOUR)
    return colours


def draw_pose_2d(
    axes: Axes,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    *,
    scores: np.ndarray | None = None,
    colour: Any = None,
    linewidth: float = 2.5,
    joint_size: float = 14.0,
    alpha: float = 1.0,
) -> tuple[LineCollection, PathCollection]:
    """Draws keypoints `[J, 2]` in any image units (y down, as in an image) and returns bones and joints.

    With scores `[J]` in 0..1, joints of low confidence are drawn fainter.
    """
    flat = np.asarray(keypoints, np.float64) * [1, -1]
    opacity = alpha if scores is None else alpha * np.clip(np.asarray(scores, np.float64), 0.15, 1)
    return _draw_flat(axes, flat, skeleton, colour, linewidth, joint_size, opacity)


def draw_pose_3d(
    axes: Axes,
    pose: np.ndarray,
    skeleton: Skeleton,
    view: View = CAMERA_VIEW,
    *,
    colour: Any = None,
    joint_values: np.ndarray | None = None,
    colour_map: str | Colormap = SPREAD_COLOURS,
    value_range: tuple[float, float] | None = None,
    linewidth: float = 2.5,
    joint_size: float = 14.0,
    alpha: float = 1.0,
) -> tuple[LineCollection, PathCollection]:
    """Draws a pose `[J, 3]` (metres, camera frame) as `view` sees it and returns bones and joints.

    `colour` overrides the colours of the sides of the body; `joint_values [J]` colours the joints by a colour map
    instead, and the returned joints then carry it for a colour bar.
    """
    seen = view_points(pose, view)
    bones, joints = _draw_flat(axes, seen[:, :2], skeleton, colour, linewidth, joint_size, alpha, depth=seen[:, 2])
    if joint_values is not None:
        order = np.argsort(-seen[:, 2])
        joints.set(array=np.asarray(joint_values)[order], cmap=colour_map, facecolor=None)
        joints.set_clim(*(value_range or (float(np.min(joint_values)), float(np.max(joint_values)))))
    return bones, joints


def _draw_flat(
    axes: Axes,
    flat: np.ndarray,
    skeleton: Skeleton,
    colour: Any,
    linewidth: float,
    joint_size: float,
    opacity: float | np.ndarray,
    depth: np.ndarray | None = None,
) -> tuple[LineCollection, PathCollection]:
    colours = joint_colours(skeleton) if colour is None else np.tile(to_rgba(colour), (skeleton.num_joints, 1))
    colours[:, 3] = opacity
    depth = np.zeros(skeleton.num_joints) if depth is None else depth
    far_first = sorted(skeleton.bones, key=lambda bone: -(depth[bone[0]] + depth[bone[1]]))
    child, parent = np.array(far_first).T
    bones = LineCollection(
        np.stack([flat[parent], flat[child]], axis=1), colors=colours[child], linewidths=linewidth, capstyle="round"
    )
    axes.add_collection(bones)
    order = np.argsort(-depth, kind="stable")
    joints = axes.scatter(
        *flat[order].T,
        s=joint_size,
        c=colours[order],
        linewidths=0.6,
        edgecolors="white" if joint_size else "none",
        zorder=2.5,
    )
    return bones, joints


def draw_floor(axes: Axes, poses: np.ndarray, view: View = CAMERA_VIEW, half_width: float = 0.5) -> np.ndarray:
    """Draws a floor grid under the lowest joint of poses `[..., J, 3]`, which says which way the view looks.

    Returns the ends of its lines on the axes, `[14, 2, 2]`.
    """
    lowest = float(np.max(np.asarray(poses)[..., 1])) + 0.02
    ticks = np.linspace(-half_width, half_width, 7)
    ends = np.array([-half_width, half_width])
    along = [[(x, lowest, z) for z in ends] for x in ticks] + [[(x, lowest, z) for x in ends] for z in ticks]
    lines = view_points(np.array(along), view)[..., :2]
    axes.add_collection(LineCollection(lines, colors="#dddddd", linewidths=0.6, zorder=0))
    return lines


def frame_axes(axes: Axes, points: np.ndarray, margin: float = 0.1, title: str = "") -> None:
    """Fits the axes around flat points `[..., 2]` with equal scales, without ticks or frame."""
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    low, high = flat.min(axis=0), flat.max(axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()), 1e-6) / 2 * (1 + margin)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=10)


def hypotheses_figure(
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
    """The figure of one predicted frame: 2D input, aggregate from two views, all hypotheses, joints coloured by spread.

    keypoints `[J, 2]` normalised image units; hypotheses `[H, J, 3]`, aggregate and truth `[J, 3]` metres, camera
    frame, root-relative; spread `[J]` millimetres.
    """
    hypotheses = np.asarray(hypotheses)
    everything = np.concatenate(
        [hypotheses, np.asarray(aggregate)[None], *([np.asarray(truth)[None]] if truth is not None else [])]
    )
    standing = np.asarray(aggregate if truth is None else truth)
    figure = Figure(figsize=(9.6, 7.4), layout="constrained")
    panels = figure.subplots(2, 3)
    if title:
        figure.suptitle(title, fontsize=11)
    draw_pose_2d(panels[0, 0], keypoints, skeleton)
    frame_axes(panels[0, 0], np.asarray(keypoints) * [1, -1], 0.15, "2D input")
    _draw_sides(panels[0, 0])
    _draw_spread(panels[1, 0], np.asarray(aggregate), np.asarray(spread), skeleton, everything)
    for column, (view, name) in enumerate([(CAMERA_VIEW, "camera view"), (SIDE_VIEW, "side view")], 1):
        upper, lower = panels[:, column]
        if truth is not None:
            draw_pose_3d(upper, truth, skeleton, view, colour=TRUTH_COLOUR, joint_size=0)
        draw_pose_3d(upper, aggregate, skeleton, view)
        for pose in hypotheses:
            draw_pose_3d(
                lower, pose, skeleton, view, alpha=_overlay_alpha(len(hypotheses)), joint_size=0, linewidth=1.6
            )
        label = "\n(ground truth grey)" if truth is not None else ""
        _frame_view(upper, everything, standing, view, f"{aggregation} of {len(hypotheses)}, {name}{label}")
        _frame_view(
            lower,
            everything,
            standing,
            view,
            f"{len(hypotheses)} {'hypotheses' if len(hypotheses) > 1 else 'hypothesis'}, {name}",
        )
    return figure


def _draw_spread(
    axes: Axes, aggregate: np.ndarray, spread: np.ndarray, skeleton: Skeleton, everything: np.ndarray
) -> None:
    _, joints = draw_pose_3d(
        axes,
        aggregate,
        skeleton,
        colour="#bbbbbb",
        joint_values=spread,
        value_range=(0.0, max(float(spread.max()), 1.0)),
        joint_size=58,
    )
    _frame_view(axes, everything, aggregate, CAMERA_VIEW, "spread of the hypotheses")
    bar = axes.figure.colorbar(joints, cax=axes.inset_axes([0.0, 0.15, 0.045, 0.6]))
    bar.ax.set_title("std (mm)", fontsize=8, loc="left")
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _draw_sides(axes: Axes) -> None:
    for height, (name, colour) in enumerate([("right side", RIGHT_COLOUR), ("left side", LEFT_COLOUR)]):
        axes.text(0.0, 0.02 + 0.05 * height, name, color=colour, fontsize=9, transform=axes.transAxes)


def _frame_view(axes: Axes, poses: np.ndarray, standing: np.ndarray, view: View, title: str) -> None:
    floor = draw_floor(axes, standing, view)
    seen = view_points(poses, view)[..., :2]
    frame_axes(axes, np.concatenate([seen.reshape(-1, 2), floor.reshape(-1, 2)]), 0.05, title)


def _overlay_alpha(count: int) -> float:
    return float(np.clip(2.5 / max(count, 1), 0.12, 0.9))


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 130) -> None:
    """Writes a figure to `path`; the suffix chooses the format."""
    figure.savefig(path, dpi=dpi, facecolor="white")
