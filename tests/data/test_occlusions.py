"""Occlusion patterns hide the joints they say, as often as they say, in each example by its own draw."""

from __future__ import annotations

import dataclasses
import functools
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.occlusions import PATTERNS, hide_clips, occlude
from diffpose_jax.data.windows import Batch
from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import H36M_16, H36M_17, Skeleton

FRAMES = 27
LEG, ARM = [1, 2, 3], [11, 12, 13]
KEY = jax.random.key(5)


def batch_of(size: int, skeleton: Skeleton = H36M_17) -> Batch:
    shape = (size, FRAMES, skeleton.num_joints)
    keypoints = np.random.default_rng(0).uniform(1, 2, (*shape, 2)).astype(np.float32)
    index = jnp.arange(size, dtype=jnp.int32) * 7
    return Batch(jnp.asarray(keypoints), jnp.zeros((*shape, 3)), jnp.ones(shape), index)


hide = jax.jit(occlude, static_argnames=("pattern", "skeleton", "rate", "release"))


@functools.cache
def occluded(pattern: str, release: bool) -> Batch:
    """3000 examples with joints hidden."""
    return jax.tree.map(np.asarray, hide(KEY, batch_of(3000), pattern, H36M_17, release=release))


def hidden_by(pattern: str, release: bool) -> np.ndarray:
    return occluded(pattern, release).mask == 0


@pytest.mark.parametrize("pattern", [*PATTERNS, "any"])
def test_a_hidden_joint_lies_at_zero_and_the_others_stay(pattern):
    batch, seen = batch_of(3000), occluded(pattern, True)
    np.testing.assert_array_equal(seen.keypoints, batch.keypoints * seen.mask[..., None])
    assert set(np.unique(seen.mask)) <= {0.0, 1.0}
    np.testing.assert_array_equal(seen.poses, batch.poses)


@pytest.mark.parametrize(
    ("pattern", "release", "share", "joints"),
    [
        ("none", False, 0.0, []),
        ("random", False, 0.2, range(17)),
        ("arm_leg", False, 0.4 * 6 / 17, LEG + ARM),
        ("arm_leg", True, 10 / 27 * 6 / 17, LEG + ARM),
        ("leg_gap", False, 10 / 27 * 3 / 17, LEG),
        ("leg_gap", True, 10 / 27 * 3 / 17, LEG),
        ("frame_gap", False, 5 / 27, range(17)),
        ("frame_gap", True, 5 / 27, range(17)),
    ],
)
def test_patterns_hide_their_joints_in_their_share_of_frames(pattern, release, share, joints):
    hidden = hidden_by(pattern, release)
    assert hidden.mean() == pytest.approx(share, rel=0.02)
    assert np.flatnonzero(hidden.any(axis=(0, 1))).tolist() == list(joints)


def test_gaps_are_consecutive_and_reach_the_last_frame_but_not_in_the_release():
    for pattern, length in (("leg_gap", 10), ("frame_gap", 5)):
        for release in (False, True):
            rows = hidden_by(pattern, release).any(axis=2)
            starts = rows.argmax(axis=1)
            assert (rows.sum(axis=1) == length).all()
            assert all(row[start : start + length].all() for row, start in zip(rows, starts, strict=True))
            assert set(starts) == set(range(FRAMES - length + (0 if release else 1)))


def test_in_the_release_arms_and_legs_go_in_exactly_ten_frames_and_otherwise_by_chance():
    exact, chance = (hidden_by("arm_leg", release).any(axis=2).sum(axis=1) for release in (True, False))
    assert set(exact) == {10}
    # Binomial with 27 trials: variance 27 * 0.4 * 0.6.
    assert chance.mean() == pytest.approx(10.8, rel=0.02)
    assert chance.var() == pytest.approx(6.48, rel=0.1)


def test_any_leaves_a_fifth_untouched():
    untouched = (~hidden_by("any", True)).all(axis=(1, 2)).mean()
    assert untouched == pytest.approx(0.2, abs=0.03)


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parents[1] / "parity" / "data" / "diffhpe_occlusions.npz", allow_pickle=False) as file:
        return {name.removeprefix("out_"): value for name, value in file.items() if name.startswith("out_")}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("random", "random"),
        ("arm_leg", "random_left_arm_right_leg"),
        ("leg_gap", "structured_joint"),
        ("frame_gap", "structured_frame"),
        ("any", "all"),
    ],
)
def test_the_devices_draws_are_distributed_as_the_releases(recorded, pattern, name):
    hidden = hidden_by(pattern, True)
    touched = np.bincount(hidden.any(axis=2).sum(axis=1), minlength=FRAMES + 1) / len(hidden)
    # The recorded shares are of 3000 draws too; their own chance is as large.
    np.testing.assert_allclose(hidden.mean(axis=(0, 1)), recorded[f"missing_rate_per_joint_{name}"], atol=0.02)
    np.testing.assert_allclose(hidden.mean(axis=(0, 2)), recorded[f"missing_rate_per_frame_{name}"], atol=0.05)
    np.testing.assert_allclose(touched, recorded[f"n_frames_touched_{name}"], atol=0.05)


def test_the_mask_belongs_to_the_example_and_the_key():
    batch = batch_of(8)
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    moved = Batch(*(part[order] for part in batch[:4]))
    mask = hide(KEY, batch, "random", H36M_17).mask
    np.testing.assert_array_equal(hide(KEY, moved, "random", H36M_17).mask, mask[order])
    assert np.any(hide(jax.random.key(6), batch, "random", H36M_17).mask != mask)


def test_what_was_hidden_before_stays_hidden():
    batch = batch_of(8)._replace(mask=batch_of(8).mask.at[:, :, 8].set(0))
    assert not np.any(hide(KEY, batch, "random", H36M_17).mask[:, :, 8])


def test_joints_are_found_by_name_in_another_layout():
    seen = occlude(KEY, batch_of(2, H36M_16), "arm_leg", H36M_16, 0.9)
    gone = np.flatnonzero((np.asarray(seen.mask) == 0).any(axis=(0, 1)))
    assert [H36M_16.joints[j] for j in gone] == [H36M_17.joints[j] for j in LEG + ARM]


def test_an_unknown_pattern_and_a_rate_of_one_are_refused():
    with pytest.raises(UserError, match=r"expected one of none, random, arm_leg, leg_gap, .*, any, found 'fog'"):
        occlude(KEY, batch_of(1), "fog", H36M_17)
    with pytest.raises(UserError, match="expected at least 0 and below 1, found 20"):
        occlude(KEY, batch_of(1), "random", H36M_17, 20)


def test_a_hidden_joints_heatmap_says_no_more_than_its_keypoint():
    batch = batch_of(1)
    means = jnp.broadcast_to(batch.keypoints[..., None, :], (1, FRAMES, 17, 2, 2))
    for covariances in (jnp.full((1, FRAMES, 17, 2, 2), 0.01), 0.01 * jnp.ones((1, FRAMES, 17, 2, 2, 2))):
        mixture = Mixture(jnp.ones((1, FRAMES, 17, 2)) / 2, means, covariances)
        seen = occlude(KEY, batch._replace(mixture=mixture), "random", H36M_17)
        gone = np.asarray(seen.mask) == 0
        assert gone.any()
        assert (np.asarray(seen.mixture.means)[gone] == 0).all()
        wide = np.ones(2) if mixture.diagonal else np.eye(2)
        np.testing.assert_array_equal(np.asarray(seen.mixture.covariances)[gone] - wide, 0)
        np.testing.assert_array_equal(np.asarray(seen.mixture.means)[~gone], np.asarray(means)[~gone])
        np.testing.assert_array_equal(np.asarray(seen.mixture.covariances)[~gone], np.asarray(covariances)[~gone])


def test_a_mixture_of_whole_poses_would_show_what_is_hidden_and_is_refused():
    whole = Mixture(jnp.ones((1, FRAMES, 1)), jnp.zeros((1, FRAMES, 1, 34)), jnp.ones((1, FRAMES, 1, 34)))
    with pytest.raises(UserError, match="occlusion: expected mixtures per joint, found mixtures of whole poses"):
        occlude(KEY, batch_of(1)._replace(mixture=whole), "random", H36M_17)


# --- what is missing in keypoints from video


@pytest.mark.parametrize(("pattern", "limbs"), [("leg", ([1, 2, 3], [4, 5, 6])), ("arm", ([11, 12, 13], [14, 15, 16]))])
def test_one_limb_of_either_side_is_hidden_throughout(pattern, limbs):
    hidden = hidden_by(pattern, False)
    assert (hidden == hidden[:, :1]).all()
    shares = [(hidden[:, 0][:, limb].all(axis=1) & (hidden[:, 0].sum(axis=1) == 3)).mean() for limb in limbs]
    assert sum(shares) == 1
    assert shares[0] == pytest.approx(0.5, abs=0.04)


def test_the_lower_body_is_both_legs_and_the_pelvis():
    assert np.flatnonzero(hidden_by("lower_body", False).all(axis=(0, 1))).tolist() == list(range(7))


def test_the_mixture_to_train_with_shows_many_people_whole_and_hides_a_leg_in_many():
    hidden = hidden_by("partial", False)
    assert 0.4 < (~hidden).all(axis=(1, 2)).mean() < 0.55
    legs = [hidden[..., side].all(axis=-1).any(axis=1).mean() for side in ([1, 2, 3], [4, 5, 6])]
    assert min(legs) > 0.1
    assert hidden.mean(axis=(0, 1)).min() > 0.03
    assert not hidden.all(axis=2).any(axis=1).mean() > 0.01
    # In some windows throughout, in others for a run of frames.
    touched = hidden.any(axis=2)
    runs = touched[touched.any(axis=1) & ~touched.all(axis=1)]
    assert len(runs) > 500
    changes = np.abs(np.diff(np.pad(runs, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
    assert (changes == 2).all()


def test_hidden_clips_have_a_pattern_of_its_own_for_every_run_of_frames():
    keypoints = np.random.default_rng(0).normal(size=(40, 17, 2)).astype(np.float32)
    clips = ClipSet.build([Clip(part, None, None, "S", "a") for part in np.split(keypoints, [13])], H36M_17)
    hidden = ~hide_clips(clips, "leg", 5, seed=3).seen
    assert (hidden.sum(axis=1) == 3).all()
    runs = [*range(0, 13, 5), *range(13, 40, 5), 40]
    for first, last in pairwise(runs):
        assert (hidden[first:last] == hidden[first]).all()
    assert len({tuple(row) for row in hidden}) == 2
    # What was hidden before stays hidden.
    scores = np.where(np.arange(17) == 10, 0, 0.5) * np.ones((40, 17))
    found = hide_clips(dataclasses.replace(clips, scores=scores.astype(np.float32)), "leg", 5, seed=3)
    np.testing.assert_array_equal(found.scores, np.where(hidden, 0, scores).astype(np.float32))
