"""Bones that keep their length and match left to right, against plain numpy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.evaluation import coherence
from diffpose_jax.evaluation.coherence import WINDOW
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17, HUMANEVA_15, MPI_INF_3DHP_17


@pytest.fixture
def poses() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, (3, WINDOW, 17, 3)).astype(np.float32)


@pytest.mark.parametrize("skeleton", [H36M_17, H36M_16, HUMANEVA_15, MPI_INF_3DHP_17, COCO_17], ids=lambda s: s.name)
def test_paired_bones_are_mirror_images(skeleton):
    bones = coherence.list_bones(skeleton)
    flip = skeleton.flip_order
    for left, right in zip(bones.left, bones.right, strict=True):
        child, parent = bones.joints[left]
        assert skeleton.joints[child].startswith("left_")
        if skeleton != COCO_17 or skeleton.joints[child] != "left_shoulder":
            assert (flip[child], flip[parent]) == bones.joints[right]


def test_the_released_list_differs_from_the_skeleton_in_both_shoulders_only():
    right, released = coherence.list_bones(H36M_17), coherence.list_bones_release()
    changed = {(one, other) for one, other in zip(right.joints, released.joints, strict=True) if one != other}
    assert changed == {((11, 8), (11, 7)), ((14, 8), (14, 7))}
    assert (
        (released.left, released.right) == (right.left, right.right) == ((3, 4, 5, 10, 11, 12), (0, 1, 2, 13, 14, 15))
    )


def test_a_rigid_symmetric_person_is_coherent_however_it_moves(poses):
    symmetric = poses[0, 0].copy()
    symmetric[list(H36M_17.right)] = symmetric[list(H36M_17.left)] * [-1, 1, 1]
    middle = [j for j in range(17) if j not in H36M_17.left + H36M_17.right]
    symmetric[middle, 0] = 0
    angles = np.linspace(0, 2, WINDOW)
    turns = np.array([[[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in angles])
    moving = jnp.asarray((symmetric @ turns + angles[:, None, None]).astype(np.float32))
    bones = coherence.list_bones(H36M_17)
    np.testing.assert_allclose(coherence.symmetry_gaps(moving, bones), 0, atol=1e-6)
    np.testing.assert_allclose(coherence.segment_stds(moving, bones), 0, atol=1e-6)


def test_lengths_gaps_and_deviations_are_those_of_the_equations(poses):
    bones = coherence.list_bones(H36M_17)
    lengths = np.stack([np.linalg.norm(poses[..., c, :] - poses[..., p, :], axis=-1) for c, p in bones.joints], axis=-1)
    np.testing.assert_allclose(coherence.bone_lengths(jnp.asarray(poses), bones.joints), lengths, rtol=1e-5)
    gaps = np.abs(lengths[..., [3, 4, 5, 10, 11, 12]] - lengths[..., [0, 1, 2, 13, 14, 15]])
    np.testing.assert_allclose(coherence.symmetry_gaps(jnp.asarray(poses), bones), gaps, atol=1e-6)
    for unbiased in (False, True):
        found = coherence.segment_stds(jnp.asarray(poses), bones, unbiased=unbiased)
        np.testing.assert_allclose(found, lengths.std(axis=1, ddof=int(unbiased)), rtol=1e-4)


def test_runs_of_frames_are_cut_into_whole_windows_and_the_rest_is_left_out():
    lengths = [2 * WINDOW + 3, WINDOW - 1, WINDOW, 1]
    follows = np.concatenate([[False] + [True] * (length - 1) for length in lengths])
    window = coherence.index_windows(follows)
    expected = [0] * WINDOW + [1] * WINDOW + [-1] * 3 + [-1] * (WINDOW - 1) + [2] * WINDOW + [-1]
    np.testing.assert_array_equal(window, expected)
    np.testing.assert_array_equal(coherence.index_windows(np.zeros(60, bool)), -1)


@pytest.mark.parametrize("unbiased", [False, True])
def test_every_frame_has_the_deviation_of_its_window(poses, unbiased):
    bones = coherence.list_bones(H36M_17)
    frames = jnp.asarray(np.concatenate([poses[0], poses[1, :4], poses[2]]))
    window = jnp.asarray([0] * WINDOW + [-1] * 4 + [1] * WINDOW, jnp.int32)
    found = np.asarray(coherence.segment_std_of_frames(frames, window, bones, unbiased=unbiased))
    expected = coherence.segment_stds(jnp.asarray(poses[[0, 2]]), bones, unbiased=unbiased).mean(axis=-1)
    np.testing.assert_allclose(found[:WINDOW], expected[0], rtol=1e-5)
    assert np.isnan(found[WINDOW:-WINDOW]).all()
    np.testing.assert_allclose(found[-WINDOW:], expected[1], rtol=1e-5)
