"""Figures: the right artists in the right places, up is up, and the sides of the body keep their colours."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from diffpose_jax.skeleton import SKELETONS, get_skeleton
from diffpose_jax.viz.poses import (
    LEFT_COLOUR,
    RIGHT_COLOUR,
    SIDE_VIEW,
    View,
    colour_by_value,
    colour_joints,
    draw_floor,
    draw_pose_2d,
    draw_pose_3d,
    save_figure,
    view_points,
)
from diffpose_jax.viz.prediction import draw_prediction

SKELETON = get_skeleton("h36m17")


@pytest.fixture
def pose() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(17, 3)) * 0.4


@pytest.fixture
def axes():
    return Figure().subplots()


def test_the_camera_view_shows_x_to_the_right_and_minus_y_upwards(pose):
    seen = view_points(pose, View(0, 0))
    np.testing.assert_allclose(seen, pose * [1, -1, 1])


def test_a_view_keeps_distances(pose):
    distances = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (pose, view_points(pose, View(35, 20)))]
    np.testing.assert_allclose(*distances, atol=1e-12)


@pytest.mark.parametrize("azimuth", [0, 80, 200])
def test_the_head_is_above_the_feet_from_every_side(azimuth):
    head, foot = np.array([0.0, -0.7, 0.0]), np.array([0.0, 0.9, 0.0])
    assert view_points(head, View(azimuth))[1] > view_points(foot, View(azimuth))[1]


def test_side_view_looks_along_x():
    toward_the_back = view_points(np.array([0.0, 0.0, 1.0]), SIDE_VIEW)
    assert abs(toward_the_back[0]) > 0.9


def test_every_bone_and_joint_is_drawn_in_2d_with_y_down(pose, axes):
    bones, joints = draw_pose_2d(axes, pose[:, :2], SKELETON)
    assert len(bones.get_segments()) == 16
    assert bones in axes.collections
    np.testing.assert_allclose(joints.get_offsets(), pose[:, :2] * [1, -1])


def test_uncertain_joints_are_fainter(pose, axes):
    scores = np.linspace(0.2, 1, 17)
    _, joints = draw_pose_2d(axes, pose[:, :2], SKELETON, scores=scores)
    np.testing.assert_allclose(joints.get_facecolor()[:, 3], scores)


def test_near_bones_are_drawn_over_far_ones(pose, axes):
    bones, _ = draw_pose_3d(axes, pose, SKELETON, View(0, 0))
    depth = {tuple(np.round(point * [1, -1], 6)): z for point, z in zip(pose[:, :2], pose[:, 2], strict=True)}
    middles = [sum(depth[tuple(np.round(end, 6))] for end in segment) for segment in bones.get_segments()]
    assert middles == sorted(middles, reverse=True)


@pytest.mark.parametrize("name", SKELETONS)
def test_left_and_right_have_their_colours_in_every_layout(name, axes):
    skeleton = get_skeleton(name)
    colours = colour_joints(skeleton)
    assert {tuple(colours[joint]) for joint in skeleton.left} == {to_rgba(LEFT_COLOUR)}
    assert {tuple(colours[joint]) for joint in skeleton.right} == {to_rgba(RIGHT_COLOUR)}
    bones, _ = draw_pose_3d(axes, np.random.default_rng(0).normal(size=(skeleton.num_joints, 3)), skeleton)
    assert len(bones.get_segments()) == skeleton.num_joints - 1


def test_joint_values_colour_the_joint_they_belong_to(pose, axes):
    values, view = np.arange(17.0), View(0, 0)
    _, joints = draw_pose_3d(axes, pose, SKELETON, view)
    colour_by_value(joints, values, pose, view)
    shown = dict(zip(map(tuple, np.round(joints.get_offsets(), 6)), joints.get_array(), strict=True))
    for joint in range(17):
        assert shown[tuple(np.round(pose[joint, :2] * [1, -1], 6))] == joint
    assert joints.get_clim() == (0, 16)


def test_the_floor_lies_under_the_lowest_joint(pose, axes):
    lines = draw_floor(axes, pose, View(0, 0))
    np.testing.assert_allclose(lines[..., 1], -(pose[:, 1].max() + 0.02))


def test_the_figure_of_a_prediction_overlays_all_hypotheses_and_has_a_colour_bar_in_mm(pose, tmp_path):
    hypotheses = pose[None] + np.random.default_rng(1).normal(size=(5, 17, 3)) * 0.05
    spread = np.linspace(0, 60, 17)
    figure = draw_prediction(pose[:, :2], hypotheses, hypotheses.mean(0), spread, SKELETON, truth=pose)
    titles = {axes.get_title(): axes for axes in figure.axes}
    overlaid = next(axes for title, axes in titles.items() if title.startswith("5 hypotheses, camera"))
    skeletons = [c for c in overlaid.collections if isinstance(c, LineCollection) and len(c.get_segments()) == 16]
    assert len(skeletons) == 5
    assert all(c.get_edgecolor()[0, 3] < 1 for c in skeletons)
    aggregate = next(axes for title, axes in titles.items() if title.startswith("mean of 5, side"))
    assert len([c for c in aggregate.collections if isinstance(c, LineCollection) and len(c.get_segments()) == 16]) == 2
    coloured = titles["spread of the hypotheses"].collections
    assert any(c.get_array() is not None and sorted(c.get_array()) == sorted(spread) for c in coloured)
    assert any(axes.get_title(loc="left") == "std (mm)" for axes in titles["spread of the hypotheses"].child_axes)
    save_figure(figure, tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 1000
