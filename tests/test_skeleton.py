"""Joint layouts are trees with mirror pairs, and the maps between them move joints to where they belong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import (
    BLAZEPOSE_33,
    COCO_17,
    H36M_16,
    H36M_17,
    HUMANEVA_15,
    MPI_INF_3DHP_17,
    SKELETONS,
    convert_layout,
    get_skeleton,
    layout_matrix,
)

every_layout = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS.keys())


@every_layout
def test_a_skeleton_is_one_tree(skeleton):
    assert skeleton.parents.count(-1) == 1
    assert len(skeleton.bones) == skeleton.num_joints - 1
    for joint in range(skeleton.num_joints):
        steps = 0
        while joint != skeleton.root:
            joint, steps = skeleton.parents[joint], steps + 1
            assert steps < skeleton.num_joints


@every_layout
def test_mirroring_twice_changes_nothing_and_maps_bones_to_bones(skeleton):
    flip = np.array(skeleton.flip_order)
    np.testing.assert_array_equal(flip[flip], np.arange(skeleton.num_joints))
    assert {(flip[a], flip[b]) for a, b in skeleton.bones} == set(skeleton.bones)
    for left, right in zip(skeleton.left, skeleton.right, strict=True):
        assert skeleton.joints[left].replace("left", "right") == skeleton.joints[right]


@every_layout
def test_adjacency_is_the_symmetric_bone_graph(skeleton):
    adjacency = skeleton.adjacency()
    np.testing.assert_array_equal(adjacency, adjacency.T)
    assert adjacency.dtype == np.float32
    assert adjacency.trace() == 0
    assert adjacency.sum() == 2 * len(skeleton.bones)


# The published lists (SemGCN, VideoPose3D and DiffuPose; P-STMO's left and right for MPI-INF-3DHP).
@pytest.mark.parametrize(
    ("skeleton", "parents", "left", "right"),
    [
        (
            H36M_17,
            (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
            (4, 5, 6, 11, 12, 13),
            (1, 2, 3, 14, 15, 16),
        ),
        (H36M_16, (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14), (4, 5, 6, 10, 11, 12), (1, 2, 3, 13, 14, 15)),
        (HUMANEVA_15, (-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1), (2, 3, 4, 8, 9, 10), (5, 6, 7, 11, 12, 13)),
        (
            MPI_INF_3DHP_17,
            (16, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
            (5, 6, 7, 11, 12, 13),
            (2, 3, 4, 8, 9, 10),
        ),
    ],
)
def test_layouts_are_the_published_ones(skeleton, parents, left, right):
    assert (skeleton.parents, skeleton.left, skeleton.right) == (parents, left, right)


def test_official_orders_of_detectors():
    assert COCO_17.joints[5:11] == (
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
    )
    assert COCO_17.joints[11:] == ("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle")
    at = {joint: BLAZEPOSE_33.joints.index(joint) for joint in ("left_ear", "left_shoulder", "right_hip", "left_heel")}
    assert at == {"left_ear": 7, "left_shoulder": 11, "right_hip": 24, "left_heel": 29}
    assert BLAZEPOSE_33.num_joints == 33


def _possible_maps():
    """Every pair of layouts that has a map, with its matrix."""
    for source in SKELETONS.values():
        for target in SKELETONS.values():
            try:
                yield pytest.param(source, target, layout_matrix(source, target), id=f"{source.name}->{target.name}")
            except UserError:
                continue


@pytest.mark.parametrize(("source", "target", "matrix"), list(_possible_maps()))
def test_maps_commute_with_shifts_and_mirrors(source, target, matrix):
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    mirrored = matrix[np.array(target.flip_order)][:, np.array(source.flip_order)]
    np.testing.assert_allclose(mirrored, matrix, atol=1e-7)


@pytest.mark.parametrize(("source", "target", "matrix"), list(_possible_maps()))
def test_converting_an_array_is_the_matrix_product_and_shared_joints_are_exact(source, target, matrix):
    array = np.random.default_rng(0).normal(size=(2, 3, source.num_joints, 2)).astype(np.float32)
    converted = convert_layout(array, source, target)
    assert isinstance(converted, np.ndarray)
    np.testing.assert_allclose(converted, np.einsum("ts,absc->abtc", matrix, array), atol=1e-6)
    for joint, name in enumerate(target.joints):
        if name in source.joints:
            np.testing.assert_array_equal(converted[..., joint, :], array[..., source.joints.index(name), :])
    np.testing.assert_allclose(
        jax.jit(lambda x: convert_layout(x, source, target))(jnp.asarray(array)), converted, atol=1e-6
    )


def test_every_layout_reaches_human36m():
    for source in SKELETONS.values():
        assert layout_matrix(source, H36M_17).shape == (17, source.num_joints)
        assert layout_matrix(source, H36M_16).shape == (16, source.num_joints)


def test_h36m16_is_h36m17_without_joint_nine():
    poses = np.arange(17 * 3.0).reshape(17, 3)
    np.testing.assert_array_equal(convert_layout(poses, H36M_17, H36M_16), np.delete(poses, 9, axis=0))


def test_3dhp_and_human36m_are_permutations_of_each_other():
    order = [14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4]  # as cross-dataset evaluations use it
    there = layout_matrix(MPI_INF_3DHP_17, H36M_17)
    np.testing.assert_array_equal(there, np.eye(17, dtype=np.float32)[order])
    np.testing.assert_array_equal(layout_matrix(H36M_17, MPI_INF_3DHP_17), there.T)


def test_a_standing_coco_person_becomes_a_plausible_human36m_person():
    front_view = {
        "nose": (0.0, 1.62),
        "eye": (0.03, 1.65),
        "ear": (0.07, 1.62),
        "shoulder": (0.18, 1.42),
        "elbow": (0.25, 1.15),
        "wrist": (0.27, 0.9),
        "hip": (0.13, 0.95),
        "knee": (0.14, 0.5),
        "ankle": (0.14, 0.08),
    }
    person = np.array(
        [
            np.array(front_view[name.split("_")[-1]]) * ((-1, 1) if name.startswith("right") else (1, 1))
            for name in COCO_17.joints
        ]
    )
    placed = dict(zip(H36M_17.joints, convert_layout(person, COCO_17, H36M_17), strict=True))
    heights = [placed[name][1] for name in ("pelvis", "spine", "thorax", "neck_nose", "head_top")]
    np.testing.assert_allclose(heights, [0.95, 1.185, 1.42, 1.5533, 1.66], atol=1e-3)
    assert all(abs(placed[name][0]) < 1e-12 for name in ("pelvis", "spine", "thorax", "neck_nose", "head_top"))


def test_a_missing_keypoint_spoils_only_what_is_made_of_it():
    person = np.zeros((17, 2))
    person[COCO_17.joints.index("left_eye")] = np.nan
    assert np.isfinite(convert_layout(person, COCO_17, H36M_17)).all()
    person[COCO_17.joints.index("left_hip")] = np.nan
    broken = np.isnan(convert_layout(person, COCO_17, H36M_17)).any(axis=-1)
    assert [H36M_17.joints[joint] for joint in np.flatnonzero(broken)] == ["pelvis", "left_hip", "spine"]


def test_mistakes_are_told_in_one_line():
    with pytest.raises(UserError, match=r"h36m17 has no nose, left_eye, right_eye, left_ear, right_ear$"):
        layout_matrix(H36M_17, COCO_17)
    with pytest.raises(UserError, match=r"expected \[..., 17, C\], found \[4, 16, 2\]"):
        convert_layout(np.zeros((4, 16, 2)), H36M_17, H36M_16)
    with pytest.raises(UserError, match=r"'openpose'.*h36m17.*blazepose33"):
        get_skeleton("openpose")
    assert get_skeleton("coco17") is COCO_17
