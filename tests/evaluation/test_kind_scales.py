"""Factors and tails by what is known of keypoints make coverage nominal, of every kind of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.evaluation.calibration import Draws, coverage
from diffpose_jax.evaluation.kind_scales import Keypoints, fit_kinds, fit_tails
from diffpose_jax.lifters.scales import KINDS, scale_hypotheses, tail_weights
from diffpose_jax.skeleton import H36M_17

FRAMES, JOINTS = 400, 16
SIDES = KINDS.index("left_or_right")


@pytest.fixture(scope="module")
def known() -> Keypoints:
    """One joint in ten is of left or right."""
    kinds = np.where(np.random.default_rng(1).random((FRAMES, JOINTS)) < 0.1, SIDES, KINDS.index("sharp"))
    return Keypoints(kinds, np.repeat(["a", "b"], FRAMES // 2))


@pytest.fixture(scope="module")
def draws(known) -> Draws:
    """Gaussian hypotheses; of joints of left or right one truth in five lies far away."""
    rng = np.random.default_rng(0)
    hypotheses, target = rng.standard_normal((20, FRAMES, JOINTS, 3)), rng.standard_normal((FRAMES, JOINTS, 3))
    swapped = (known.kinds == SIDES) & (rng.random((FRAMES, JOINTS)) < 0.2)
    target = target + 4 * swapped[..., None] * rng.standard_normal((FRAMES, JOINTS, 1))
    return Draws(jnp.asarray(0.7 * hypotheses, jnp.float32), jnp.asarray(target, jnp.float32))


def held(draws: Draws, where: np.ndarray) -> list[float]:
    return list(coverage(draws.ranks()[where]).values())


def test_joints_of_left_or_right_have_a_factor_and_a_tail_of_their_own(draws, known):
    scales = fit_kinds(draws, known, np.zeros(JOINTS), H36M_17)
    assert scales is not None
    kinds = jnp.asarray(known.kinds)
    plain = draws.scaled(scales.factors(jnp.insert(kinds, H36M_17.root, 0, axis=1))[:, 1:])
    # One factor cannot make both levels nominal where most errors are small and some are very large.
    half, most = held(plain, known.kinds == SIDES)
    assert half > 0.52
    assert most < 0.87
    scales = fit_tails(plain, known, scales, H36M_17)
    assert scales is not None
    assert scales.tail < 0.1
    assert scales.left_or_right_tail is not None
    assert scales.left_or_right_tail > 0.3
    factors = scales.factors(jnp.insert(kinds, H36M_17.root, 0, axis=1))[:, 1:]
    weights = tail_weights(jax.random.key(0), jnp.arange(FRAMES), 20, scales.tails(kinds))
    after = draws._replace(hypotheses=scale_hypotheses(draws.hypotheses, factors, weights))
    for kind in (SIDES, KINDS.index("sharp")):
        np.testing.assert_allclose(held(after, known.kinds == kind), [0.5, 0.9], atol=0.03)


def test_a_rare_kind_has_the_factor_of_a_better_known_one(draws, known):
    few = np.where(np.arange(FRAMES)[:, None] < 50, known.kinds, 0)
    few[:, 3] = KINDS.index("ambiguous")
    scales = fit_kinds(draws, Keypoints(few, known.subjects), np.zeros(JOINTS), H36M_17)
    assert scales is not None
    assert scales.kinds[SIDES] == scales.kinds[KINDS.index("ambiguous")] != scales.kinds[0]
    scales = fit_tails(draws, Keypoints(few, known.subjects), scales, H36M_17)
    assert scales is None or scales.left_or_right_tail is None
