"""Stick figures in 2D and 3D.

3D poses are drawn on flat axes by an orthographic view, bones sorted by depth, so that up is always up and metres are
equal along both axes. The left side of the body is one colour, the right side another, in every layout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.typing import ColorType

from diffpose_jax.skeleton import Skeleton
from diffpose_jax.whole_files import write_whole

LEFT_COLOUR = "#d1495b"
RIGHT_COLOUR = "#2e6f95"
MIDDLE_COLOUR = "#4a4a4a"


class View(NamedTuple):
    """Direction from which a 3D pose is viewed, in degrees.

    Attributes:
        azimuth: turn around the vertical; 0 is the camera's own view, 90 that from the camera's right-hand side.
        elevation: height of the eye above the horizontal.
    """

    azimuth: float = 0.0
    elevation: float = 12.0


CAMERA_VIEW = View(0.0)
SIDE_VIEW = View(80.0)


class PoseStyle(NamedTuple):
    """How a stick figure is drawn.

    Attributes:
        colour: one colour for everything; None for the colours of the sides of the body.
        linewidth: of the bones, in points.
        joint_size: area of a joint in square points; 0 for bones only.
        alpha: opacity in 0..1.
    """

    colour: ColorType | None = None
    linewidth: float = 2.5
    joint_size: float = 14.0
    alpha: float = 1.0


DEFAULT_STYLE = PoseStyle()


def view_points(points: np.ndarray, view: View) -> np.ndarray:
    """Turn points `[..., 3]` (metres; x right, y down, z forward) into `[..., 3]`: right, up and depth of the view."""
    azimuth, elevation = np.radians(view.azimuth), np.radians(view.elevation)
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    # A turn by the azimuth around the vertical axis y, then one by the elevation around the new horizontal axis; y
    # points down, so up is -y.
    right = np.cos(azimuth) * x + np.sin(azimuth) * z
    forward = np.cos(azimuth) * z - np.sin(azimuth) * x
    up = np.sin(elevation) * forward - np.cos(elevation) * y
    depth = np.cos(elevation) * forward + np.sin(elevation) * y
    return np.stack([right, up, depth], axis=-1)


def colour_joints(skeleton: Skeleton) -> np.ndarray:
    """Return the colour of every joint by the side of the body it belongs to, `[J, 4]` rgba."""
    colours = np.tile(to_rgba(MIDDLE_COLOUR), (skeleton.num_joints, 1))
    colours[list(skeleton.left)] = to_rgba(LEFT_COLOUR)
    colours[list(skeleton.right)] = to_rgba(RIGHT_COLOUR)
    return colours


def draw_pose_2d(
    axes: Axes,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    style: PoseStyle = DEFAULT_STYLE,
    scores: np.ndarray | None = None,
) -> tuple[LineCollection, PathCollection]:
    """Draw keypoints as a stick figure.

    Args:
        axes: axes to draw on.
        keypoints: `[J, 2]` in any image units, y down.
        skeleton: their joints.
        style: colour, sizes and opacity.
        scores: confidence of the joints `[J]` in 0..1; joints of low confidence are drawn fainter.

    Returns:
        The bones and the joints.
    """
    opacity = 1.0 if scores is None else np.clip(np.asarray(scores, np.float64), 0.15, 1)
    return _draw_flat(axes, _flip_y(keypoints), skeleton, style, np.zeros(skeleton.num_joints), opacity)


def draw_pose_3d(
    axes: Axes, pose: np.ndarray, skeleton: Skeleton, view: View = CAMERA_VIEW, style: PoseStyle = DEFAULT_STYLE
) -> tuple[LineCollection, PathCollection]:
    """Draw a pose as a stick figure, near bones over far ones.

    Args:
        axes: axes to draw on.
        pose: `[J, 3]`, metres, camera frame.
        skeleton: its joints.
        view: direction from which it is viewed.
        style: colour, sizes and opacity.

    Returns:
        The bones and the joints, far ones first.
    """
    points = view_points(pose, view)
    return _draw_flat(axes, points[:, :2], skeleton, style, points[:, 2])


def colour_by_value(joints: PathCollection, values: np.ndarray, pose: np.ndarray, view: View = CAMERA_VIEW) -> None:
    """Colour the joints that `draw_pose_3d` returned by a value each, from 0 up, so that a colour bar can be added.

    Args:
        joints: the joints of a drawn pose.
        values: `[J]`, not negative.
        pose: the pose that was drawn, `[J, 3]`.
        view: the view it was drawn in.
    """
    order = _sort_far_first(view_points(pose, view)[:, 2])
    joints.set(array=np.asarray(values)[order], cmap="plasma", facecolor=None)
    joints.set_clim(0, max(float(np.max(values)), 1.0))


def _draw_flat(
    axes: Axes,
    flat: np.ndarray,
    skeleton: Skeleton,
    style: PoseStyle,
    depth: np.ndarray,
    opacity: float | np.ndarray = 1.0,
) -> tuple[LineCollection, PathCollection]:
    if style.colour is None:
        colours = colour_joints(skeleton)
    else:
        colours = np.tile(to_rgba(style.colour), (skeleton.num_joints, 1))
    colours[:, 3] = style.alpha * opacity
    # The painter's algorithm: what is near is drawn over what is far.
    far_first = sorted(skeleton.bones, key=lambda bone: -(depth[bone[0]] + depth[bone[1]]))
    child, parent = np.array(far_first).T
    segments = list(np.stack([flat[parent], flat[child]], axis=1))
    bones = LineCollection(segments, colors=colours[child], linewidths=style.linewidth, capstyle="round")
    axes.add_collection(bones)
    order, edge = _sort_far_first(depth), "white" if style.joint_size else "none"
    x, y = flat[order].T
    joints = axes.scatter(x, y, s=style.joint_size, c=colours[order], linewidths=0.6, edgecolors=edge, zorder=2.5)
    return bones, joints


def _sort_far_first(depth: np.ndarray) -> np.ndarray:
    return np.argsort(-depth, kind="stable")


def _flip_y(keypoints: np.ndarray) -> np.ndarray:
    return np.asarray(keypoints, np.float64) * [1, -1]


def draw_floor(axes: Axes, poses: np.ndarray, view: View = CAMERA_VIEW, half_width: float = 0.5) -> np.ndarray:
    """Draw a floor grid under the lowest joint, which shows the direction of the view.

    Args:
        axes: axes to draw on.
        poses: `[..., J, 3]`, metres, camera frame.
        view: direction from which it is viewed.
        half_width: half the width of the floor, metres.

    Returns:
        The ends of its lines on the axes, `[14, 2, 2]`.
    """
    lowest = float(np.max(np.asarray(poses)[..., 1])) + 0.02
    ticks = np.linspace(-half_width, half_width, 7)
    ends = np.array([-half_width, half_width])
    along = [[(x, lowest, z) for z in ends] for x in ticks] + [[(x, lowest, z) for x in ends] for z in ticks]
    lines = view_points(np.array(along), view)[..., :2]
    axes.add_collection(LineCollection(list(lines), colors="#dddddd", linewidths=0.6, zorder=0))
    return lines


def frame_axes(axes: Axes, points: np.ndarray, margin: float = 0.1, title: str = "") -> None:
    """Fit the axes around points with equal scales, without ticks or frame.

    Args:
        axes: axes to fit.
        points: `[..., 2]` on the axes.
        margin: share of the larger extent that is left free around them.
        title: title of the axes; none if empty.
    """
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    low, high = flat.min(axis=0), flat.max(axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()), 1e-6) / 2 * (1 + margin)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=10)


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 130) -> None:
    """Write a figure to `path`, whole; the suffix chooses the format. Raises UserError where it cannot be written."""
    # Names of subjects and files are no formulas, even with a dollar sign.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with write_whole(Path(path)) as part:
        figure.savefig(part, dpi=dpi, facecolor="white")
