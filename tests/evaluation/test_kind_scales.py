"""Factors by what is known of keypoints make coverage nominal for each kind of them, and a tail both levels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.evaluation.calibration import Draws, coverage
from diffpose_jax.evaluation.kind_scales import Keypoints, add_tail, fit_kinds
from diffpose_jax.lifters.scales import HIDDEN, KINDS, scale_hypotheses, tail_weights
from diffpose_jax.skeleton import H36M_17

FRAMES, JOINTS = 400, 16
SHARP, WIDE, AMBIGUOUS = (KINDS.index(kind) for kind in ("sharp", "wide", "ambiguous"))


@pytest.fixture(scope="module")
def known() -> Keypoints:
    """One joint in four has a wide heatmap."""
    kinds = np.where(np.random.default_rng(1).random((FRAMES, JOINTS)) < 0.25, WIDE, SHARP)
    return Keypoints(kinds, np.repeat(["a", "b"], FRAMES // 2))


@pytest.fixture(scope="module")
def draws(known) -> Draws:
    """Hypotheses of one width; truths of joints with wide heatmaps lie three times as far from the mean."""
    rng = np.random.default_rng(0)
    hypotheses, target = rng.standard_normal((20, FRAMES, JOINTS, 3)), rng.standard_normal((FRAMES, JOINTS, 3))
    target = target * np.where(known.kinds == WIDE, 3.0, 1.0)[..., None]
    return Draws(jnp.asarray(0.7 * hypotheses, jnp.float32), jnp.asarray(target, jnp.float32))


def held(draws: Draws, where: np.ndarray) -> list[float]:
    return list(coverage(draws.ranks()[where]).values())


def test_every_kind_has_the_factor_that_makes_its_coverage_nominal(draws, known):
    scales = fit_kinds(draws, known, np.zeros(JOINTS), H36M_17)
    assert scales is not None
    assert scales.kinds[SHARP] == pytest.approx(1 / 0.7, rel=0.1)
    assert scales.kinds[WIDE] == pytest.approx(3 / 0.7, rel=0.1)
    factors = scales.factors(jnp.insert(jnp.asarray(known.kinds), H36M_17.root, 0, axis=1))[:, 1:]
    for kind in (SHARP, WIDE):
        np.testing.assert_allclose(held(draws.scaled(factors), known.kinds == kind), [0.5, 0.9], atol=0.03)


def test_a_rare_kind_has_the_factor_of_the_next_better_known_one(draws, known):
    kinds = known.kinds.copy()
    kinds[:10, 3] = AMBIGUOUS
    scales = fit_kinds(draws, known._replace(kinds=kinds), np.zeros(JOINTS), H36M_17)
    assert scales is not None
    assert scales.kinds[AMBIGUOUS] == scales.kinds[WIDE] != scales.kinds[SHARP]


def test_what_is_seen_of_people_who_are_partly_hidden_does_not_count(draws, known):
    # In every second frame a joint is hidden; what is seen there has a kind that occurs nowhere else.
    kinds = known.kinds.copy()
    kinds[::2] = AMBIGUOUS
    kinds[::2, 5] = HIDDEN
    partly = known._replace(kinds=kinds)
    np.testing.assert_array_equal(partly.whole[:, 0], np.arange(FRAMES) % 2 == 1)
    scales = fit_kinds(draws, partly, np.zeros(JOINTS), H36M_17)
    assert scales is not None
    assert scales.kinds[AMBIGUOUS] == scales.kinds[WIDE]
    # The hidden joint has what the needier of two people needs or more, and the others' factor of hidden ones is 1.
    assert scales.hidden[6] >= 1.0
    np.testing.assert_allclose(np.delete(scales.hidden, [6, 0, H36M_17.flip_order[6]]), 1.0)


def test_one_kind_alone_needs_no_scales(draws, known):
    alone = known._replace(kinds=np.full_like(known.kinds, SHARP))
    assert fit_kinds(draws, alone, np.zeros(JOINTS), H36M_17) is None
    kept = fit_kinds(draws, alone, np.full(JOINTS, np.log(2.0)), H36M_17, keep=True)
    assert kept is not None
    np.testing.assert_allclose(np.delete(kept.joints, H36M_17.root), 2.0)


def test_a_tail_comes_with_a_factor_of_all_joints_but_the_root(draws, known):
    # Narrow and wide ones together, with one factor: the truths are a mixture of two widths.
    plain = draws.scaled(jnp.full((FRAMES, JOINTS), 1.9))
    scales = add_tail(plain, known, None, H36M_17)
    assert scales is not None
    assert scales.tail > 0.2
    assert scales.joints[H36M_17.root] == 1.0
    weights = tail_weights(jax.random.key(0), jnp.arange(FRAMES), 20, scales.tail)
    factors = jnp.full((FRAMES, JOINTS), scales.joints[1])
    after = plain._replace(hypotheses=scale_hypotheses(plain.hypotheses, factors, weights))
    np.testing.assert_allclose(held(after, np.ones((FRAMES, JOINTS), bool)), [0.5, 0.9], atol=0.02)
