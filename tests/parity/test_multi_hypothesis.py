"""The four multi-hypothesis errors against loops in numpy, plain and aligned before the selection."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.geometry import procrustes

from .multi_hypothesis import multi_hypothesis_errors


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    poses, target = rng.standard_normal((5, 2, 3, 17, 3)), rng.standard_normal((2, 3, 17, 3))
    poses = target + 0.5 * poses
    for array in (poses, target):
        array[..., 0, :] = 0
    return poses.astype(np.float32), target.astype(np.float32), rng.random((5, 2, 3, 17)).astype(np.float32)


@pytest.mark.parametrize("aligned", [False, True])
def test_the_four_errors_by_loops(drawn, aligned):
    poses, target, distances = drawn
    fitted = np.stack([np.asarray(procrustes(one, target)) for one in poses]) if aligned else poses
    mean = poses.mean(axis=0)
    errors = np.linalg.norm(fitted - target, axis=-1)
    expected = {
        "p_best": errors[int(np.argmin(errors.mean(axis=(1, 2, 3))))].mean(axis=-1),
        "j_best": errors.min(axis=0).mean(axis=-1),
        "p_agg": np.linalg.norm((np.asarray(procrustes(mean, target)) if aligned else mean) - target, axis=-1).mean(-1),
        "j_agg": np.take_along_axis(errors, distances.argmin(axis=0)[None], axis=0)[0].mean(axis=-1),
    }
    found = multi_hypothesis_errors(*map(jnp.asarray, drawn), aligned)
    assert set(found) == set(expected)
    for name, error in expected.items():
        np.testing.assert_allclose(found[name], error, rtol=1e-4, err_msg=name)


def test_without_distances_nothing_is_chosen_by_them(drawn):
    poses, target, _ = map(jnp.asarray, drawn)
    assert set(multi_hypothesis_errors(poses, target)) == {"p_best", "j_best", "p_agg"}
