"""Scales of hypotheses by what is known of their keypoints: factors of kinds and of hidden joints, and a tail."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffpose_jax.evaluation.calibration import Draws, fit_scales, fit_tail
from diffpose_jax.evaluation.intervals import bound_new_subject
from diffpose_jax.lifters.scales import HIDDEN, KINDS, Scales
from diffpose_jax.skeleton import Skeleton

# A kind of keypoint has a factor of its own if the sample has so many of its joints.
_ENOUGH = 200
# A hidden joint has a factor of its own if of a subject it was hidden so often.
_ENOUGH_HIDDEN = 25
# What is seen is fitted on people who are seen whole where these are at least this share.
_ENOUGH_WHOLE = 0.25


class Keypoints(NamedTuple):
    """What is known of keypoints without the root: their kinds `[M, J]`, and the subjects `[M]` that they are of."""

    kinds: np.ndarray
    subjects: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """Whether a joint is one of a person who is seen whole, `[M, J]`; of all, where few people are.

        Where something is hidden, what is seen is less certain too. Most people are seen whole, and it is for them that
        the regions of seen joints shall be right.
        """
        whole = np.all(self.kinds < HIDDEN, axis=1, keepdims=True)
        return np.broadcast_to(whole if whole.mean() >= _ENOUGH_WHOLE else True, self.kinds.shape)


def fit_kinds(
    draws: Draws, keypoints: Keypoints, joints: np.ndarray, skeleton: Skeleton, keep: bool = False
) -> Scales | None:
    """Scales of joints and kinds; None where there is one kind only, unless the joints' own are kept.

    Args:
        draws: The hypotheses that are scaled.
        keypoints: What is known of their keypoints.
        joints: Logarithms of the joints' own factors, `[J]`.
        skeleton: The layout, with the root that the arrays lack.
        keep: Whether the joints' own factors are needed whatever the kinds are.
    """
    kinds = keypoints.kinds
    # The last label takes the seen joints of people who are partly hidden; its factor is not used.
    labels = np.where(keypoints.whole | (kinds >= HIDDEN), kinds, len(KINDS))
    counts = np.bincount(labels.ravel(), minlength=len(KINDS) + 1)[:-1]
    factors, hidden = np.ones(len(KINDS)), np.ones(kinds.shape[1])
    if (counts >= _ENOUGH).sum() > 1:
        base = np.broadcast_to(np.exp(joints), kinds.shape)
        factors = fit_scales(draws.scaled(jnp.asarray(base, jnp.float32)), labels, len(KINDS) + 1)[:-1]
        # A kind that is rare here has the factor of the next better known one.
        for index, count in enumerate(counts):
            if count < _ENOUGH:
                factors[index] = factors[index - 1] if index else 1.0
        hidden = _fit_hidden(draws.scaled(jnp.asarray(base * factors[kinds], jnp.float32)), keypoints, skeleton)
    elif not keep:
        return None
    own, own_hidden = (tuple(np.insert(one, skeleton.root, 1.0).tolist()) for one in (np.exp(joints), hidden))
    return Scales(own, tuple(map(float, factors)), own_hidden)


def _fit_hidden(draws: Draws, keypoints: Keypoints, skeleton: Skeleton) -> np.ndarray:
    """The factors `[J]` of hidden joints on top of that of their kind, left and right alike.

    What nine in ten new subjects need no more than, by what the subjects need. Where a hidden limb is depends on what a
    person does, and people differ in that more than in anything that is seen: hypotheses that are right for the average
    of a few people are too sure for most of the others.
    """
    moving = np.delete(np.arange(skeleton.num_joints), skeleton.root)
    # Both sides of the body have one label, the lower index of the pair.
    pairs = np.minimum(moving, np.asarray(skeleton.flip_order)[moving])
    hidden, factors = keypoints.kinds >= HIDDEN, np.ones(len(moving))
    found = []
    for subject in np.unique(keypoints.subjects):
        own = hidden & (keypoints.subjects == subject)[:, None]
        counts = np.bincount(np.broadcast_to(pairs, own.shape)[own], minlength=skeleton.num_joints)
        fitted = fit_scales(draws, np.where(own, pairs, skeleton.num_joints), skeleton.num_joints + 1)[:-1]
        found.append(np.where(counts >= _ENOUGH_HIDDEN, fitted, np.nan)[pairs])
    known = ~np.isnan(found).all(axis=0)
    factors[known] = bound_new_subject(np.array(found)[:, known])
    return factors


def add_tail(draws: Draws, keypoints: Keypoints, scales: Scales | None, skeleton: Skeleton) -> Scales | None:
    """The scales with a tail where the hypotheses need one (`fit_tail`).

    Args:
        draws: The hypotheses, scaled.
        keypoints: What is known of their keypoints.
        scales: What they are scaled by.
        skeleton: The layout, with the root that the arrays lack.
    """
    tail, factor = fit_tail(draws, keypoints.whole)
    if not tail:
        return scales
    root, count = skeleton.root, skeleton.num_joints
    plain = scales or Scales((1.0,) * count)
    joints = tuple(one if joint == root else factor * one for joint, one in enumerate(plain.joints))
    return plain._replace(joints=joints, tail=tail)
