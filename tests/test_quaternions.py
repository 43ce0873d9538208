"""Quaternions against scipy, and at half turns and no turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from diffpose_jax import quaternions

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None, derandomize=True)


def to_scipy(quaternion: np.ndarray) -> Rotation:
    return Rotation.from_quat(np.roll(np.asarray(quaternion), -1, axis=-1))


def random_quaternions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    q = rng.normal(size=(*shape, 4))
    return (q / np.linalg.norm(q, axis=-1, keepdims=True)).astype(np.float32)


@given(seeds)
@few
def test_quaternion_algebra_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    first, second = random_quaternions(rng, 6), random_quaternions(rng, 6)
    vectors = rng.normal(size=(6, 3)).astype(np.float32)
    r1, r2 = to_scipy(first), to_scipy(second)
    np.testing.assert_allclose(quaternions.rotate(first, vectors), r1.apply(vectors), atol=1e-5)
    np.testing.assert_allclose(quaternions.to_matrix(first), r1.as_matrix(), atol=1e-6)
    product = quaternions.multiply(first, second)
    np.testing.assert_allclose(quaternions.to_matrix(product), (r1 * r2).as_matrix(), atol=1e-6)
    inverse = quaternions.multiply(first, quaternions.conjugate(first))
    np.testing.assert_allclose(inverse, np.tile([1.0, 0, 0, 0], (6, 1)), atol=1e-6)
    back = quaternions.from_matrix(r1.as_matrix().astype(np.float32))
    np.testing.assert_allclose(back, first * np.sign(first[:, :1]), atol=1e-6)
    axis_angle = rng.normal(size=(6, 3)).astype(np.float32) * 2
    expected = Rotation.from_rotvec(axis_angle).as_matrix()
    turned = quaternions.to_matrix(quaternions.from_axis_angle(axis_angle))
    np.testing.assert_allclose(turned, expected, atol=1e-5)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 2, 3]])
def test_half_turns_survive_the_matrix(axis):
    quaternion = np.array([0, *(np.array(axis) / np.linalg.norm(axis))], np.float32)
    matrix = quaternions.to_matrix(quaternion)
    np.testing.assert_allclose(quaternions.to_matrix(quaternions.from_matrix(matrix)), matrix, atol=1e-6)


def test_no_rotation_has_a_derivative():
    jacobian = jax.jacobian(quaternions.from_axis_angle)(jnp.zeros(3))
    np.testing.assert_allclose(jacobian, np.eye(4, 3, -1) / 2, atol=1e-7)


@given(seeds, st.floats(0, 1))
@few
def test_slerp_agrees_with_scipy_and_is_exact_for_equal_ends(seed, fraction):
    start, end = random_quaternions(np.random.default_rng(seed), 2)
    between = quaternions.slerp(start, end, np.float32(fraction))
    expected = Slerp([0, 1], to_scipy(np.stack([start, end])))(fraction)
    np.testing.assert_allclose(quaternions.to_matrix(between), expected.as_matrix(), atol=1e-5)
    np.testing.assert_allclose(quaternions.slerp(start, -start, np.float32(fraction)), start, atol=1e-6)
