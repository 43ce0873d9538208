"""Scores of distributions equal their definitions, do not depend on how many hypotheses there are, and are proper."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import energy_distance

from diffpose_jax.evaluation.coherence import bone_lengths
from diffpose_jax.evaluation.scores import (
    SCORES,
    best_at_equal_spread,
    crps,
    energy_score,
    limb_direction_distance,
    limb_length_error,
    score_hypotheses,
)
from diffpose_jax.skeleton import H36M_17, get_skeleton

RNG = np.random.default_rng(0)
SKELETON = get_skeleton("humaneva15")


def poses(*shape: int) -> np.ndarray:
    found = RNG.normal(0, 0.3, (*shape, 15, 3)).astype(np.float32)
    return found - found[..., SKELETON.root : SKELETON.root + 1, :]


def pairs(hypotheses: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(one, other) for i, one in enumerate(hypotheses) for k, other in enumerate(hypotheses) if i != k]


def test_the_energy_score_is_its_definition_over_all_pairs():
    hypotheses, target = poses(6, 4), poses(4)
    near = np.mean([np.linalg.norm((one - target).reshape(4, -1), axis=1) for one in hypotheses], axis=0)
    apart = np.mean([np.linalg.norm((one - other).reshape(4, -1), axis=1) for one, other in pairs(hypotheses)], axis=0)
    found = energy_score(jnp.asarray(hypotheses), jnp.asarray(target))
    np.testing.assert_allclose(found, near - apart / 2, rtol=1e-4)


def test_crps_is_its_definition_in_every_coordinate_but_the_roots():
    hypotheses, target = poses(5, 3), poses(3)
    near = np.mean([np.abs(one - target) for one in hypotheses], axis=0)
    apart = np.mean([np.abs(one - other) for one, other in pairs(hypotheses)], axis=0)
    expected = np.delete(near - apart / 2, SKELETON.root, axis=1).mean(axis=(1, 2))
    found = crps(jnp.asarray(hypotheses), jnp.asarray(target), SKELETON.root)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("score", [energy_score, crps])
def test_fair_scores_do_not_depend_on_the_number_of_hypotheses_and_the_true_spread_wins(score):
    target, drawn = RNG.standard_normal((2000, 4, 3)), RNG.standard_normal((20, 2000, 4, 3))
    means = {count: float(jnp.mean(score(jnp.asarray(drawn[:count]), jnp.asarray(target)))) for count in (2, 20)}
    assert means[2] == pytest.approx(means[20], rel=0.03)
    for factor in (0.5, 1.5):
        assert float(jnp.mean(score(jnp.asarray(factor * drawn), jnp.asarray(target)))) > 1.02 * means[20]


def test_the_energy_score_sees_that_joints_vary_together_and_crps_does_not():
    shared = RNG.standard_normal((11, 3000, 1, 3)).repeat(6, axis=2)
    own = RNG.standard_normal((11, 3000, 6, 3))
    target = jnp.asarray(shared[0])
    together, apart = (jnp.asarray(part[1:]) for part in (shared, own))
    assert float(jnp.mean(energy_score(together, target))) < 0.98 * float(jnp.mean(energy_score(apart, target)))
    assert float(jnp.mean(crps(together, target))) == pytest.approx(float(jnp.mean(crps(apart, target))), rel=0.03)


def test_limb_lengths_are_compared_with_the_persons():
    target = poses(3)
    found = limb_length_error(jnp.asarray(np.stack([1.1 * target, target])), jnp.asarray(target), SKELETON)
    lengths = np.asarray(bone_lengths(jnp.asarray(target), SKELETON.bones))
    np.testing.assert_allclose(found, 0.05 * lengths.mean(axis=-1), rtol=1e-4)


def test_the_best_of_n_gains_nothing_from_a_larger_spread():
    hypotheses, target = poses(8, 5), poses(5)
    mean = hypotheses.mean(axis=0)
    one = best_at_equal_spread(jnp.asarray(hypotheses), jnp.asarray(target), SKELETON.root)
    wide = best_at_equal_spread(jnp.asarray(mean + 3 * (hypotheses - mean)), jnp.asarray(target), SKELETON.root)
    np.testing.assert_allclose(one, wide, rtol=1e-4)
    deviations = np.delete(hypotheses - mean, SKELETON.root, axis=2)
    factor = 0.05 / np.sqrt((deviations**2).sum(-1).mean(axis=(0, 2)))
    scaled = mean + factor[:, None, None] * (hypotheses - mean)
    np.testing.assert_allclose(one, np.linalg.norm(scaled - target, axis=-1).mean(-1).min(axis=0), rtol=1e-4)
    assert np.isnan(best_at_equal_spread(jnp.zeros((3, 1, 15, 3)), jnp.zeros((1, 15, 3))))


def test_all_scores_come_in_the_order_of_their_names():
    hypotheses, target = jnp.asarray(poses(4, 2, 3)), jnp.asarray(poses(2, 3))
    found = score_hypotheses(hypotheses, target, SKELETON)
    assert found.shape == (2, 3, len(SCORES))
    np.testing.assert_allclose(found[..., list(SCORES).index("crps")], crps(hypotheses, target, SKELETON.root))


def test_directions_of_limbs_have_the_energy_distance_of_their_samples():
    bones = [(1, 0)]
    angles, shifted = RNG.uniform(0, 0.5, 400), RNG.uniform(0.4, 0.9, 400)

    def limb(angle):
        ends = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
        return np.stack([0 * ends, 0.3 * ends], axis=1)

    found = limb_direction_distance(limb(shifted), limb(angles), bones)
    # On a short arc chords are angles; scipy gives the root of the distance, with the pairs of equal indices in it.
    assert found == pytest.approx(energy_distance(angles, shifted) ** 2, rel=0.05)


def test_a_perfect_posterior_has_no_distance_of_directions_and_a_mean_of_many_has():
    centre = RNG.standard_normal((600, 17, 3))
    draws = centre[None] + 0.5 * RNG.standard_normal((11, 600, 17, 3))
    single = limb_direction_distance(draws[1], draws[0], H36M_17.bones)
    averaged = limb_direction_distance(draws[1:].mean(axis=0), draws[0], H36M_17.bones)
    assert abs(single) < 0.002
    assert limb_direction_distance(centre * [1, 1, 0.3], draws[0], H36M_17.bones) > 0.02
    assert averaged >= single - 0.002
    assert limb_direction_distance(draws[1, :1], draws[0, :1], H36M_17.bones) is None
