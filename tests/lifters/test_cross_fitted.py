"""A training frame is lifted by the context's version that has not seen its subject, anybody else by the full one."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffpose_jax.config import Options
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.diffusion.plans import ddpm_plan
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.lifters.base import Batch, ContextLifter, Lifter, Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.cross_fitted import CrossFitted, frame_folds, split_folds
from diffpose_jax.lifters.diffhpe import Conditioned, DiffHPE, DiffHPEOptions
from diffpose_jax.lifters.diffpose.initial_distribution import assume_statistics
from diffpose_jax.lifters.diffpose.method import DiffPose
from diffpose_jax.skeleton import H36M_17, Skeleton

from .toys import KEY, pose_batch

NO_OPTIONS = Options()


@dataclasses.dataclass(frozen=True)
class Constant(Lifter):
    """A context whose every coordinate and feature is its one weight."""

    options_type: ClassVar[type[Options]] = Options

    skeleton: Skeleton = H36M_17
    options: Options = NO_OPTIONS

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, key: jax.Array, batch: Batch) -> Any:
        return {"params": {"weight": jnp.zeros(())}}

    def loss(self, variables: Any, key: jax.Array, batch: Batch) -> Any:
        raise NotImplementedError

    def sample(self, variables: Any, key: jax.Array, batch: Batch, sampling: Sampling) -> jax.Array:
        return jnp.full((sampling.hypotheses, *batch.poses.shape), variables["params"]["weight"])

    def features(self, variables: Any, batch: Batch) -> jax.Array:
        return jnp.full((*batch.keypoints.shape[:-1], 4), variables["params"]["weight"])


CONTEXT = CrossFitted(Constant(), folds=3)
VARIABLES = {
    "full": {"params": {"weight": jnp.float32(9)}},
    "folds": {"params": {"weight": jnp.array([0.0, 1.0, 2.0])}},
}


def clips_of(**frames: int) -> ClipSet:
    parts = []
    for subject, count in frames.items():
        poses = np.zeros((count, 17, 3), np.float32)
        parts.append(Clip(poses[..., :2], poses, poses[:, 0], subject, "walk"))
    return ClipSet.build(parts, H36M_17)


def test_examples_of_a_fold_are_lifted_by_the_version_without_it():
    batch = pose_batch(4, 2)._replace(fold=jnp.array([2, 0, 1, 2], jnp.int32))
    poses = CONTEXT.sample(VARIABLES, KEY, batch, Sampling(3))
    assert poses.shape == (3, 4, 2, 17, 3)
    np.testing.assert_array_equal(poses[1, :, 1, 5, 2], [2, 0, 1, 2])
    features = CONTEXT.features(VARIABLES, batch)
    assert features.shape == (4, 2, 17, 4)
    np.testing.assert_array_equal(features[:, 1, 5, 2], [2, 0, 1, 2])
    np.testing.assert_array_equal(CONTEXT.features(VARIABLES, flip_batch(batch, H36M_17)), features)


def test_without_folds_the_full_version_lifts():
    batch = pose_batch(4, 2)
    np.testing.assert_array_equal(CONTEXT.sample(VARIABLES, KEY, batch, Sampling(3)), np.full((3, 4, 2, 17, 3), 9))
    np.testing.assert_array_equal(CONTEXT.features(VARIABLES, batch), np.full((4, 2, 17, 4), 9))


def test_it_is_a_context_like_the_one_inside():
    assert isinstance(CONTEXT, ContextLifter)
    assert (CONTEXT.frames, CONTEXT.stochastic, CONTEXT.skeleton) == (1, False, H36M_17)
    shapes = jax.tree.map(jnp.shape, CONTEXT.init(KEY, pose_batch(1, 1)))
    assert shapes == jax.tree.map(jnp.shape, VARIABLES)
    assert CrossFitted(Constant(), folds=3) == CONTEXT


@pytest.mark.parametrize("condition", ["pose", "features"])
def test_a_method_is_conditioned_on_the_versions_where_there_are_folds(condition):
    schedule = cosine(8)
    options = DiffHPEOptions(frames=1, condition=condition)
    lifter = DiffHPE(Conditioned(nn.Dense(3)), H36M_17, schedule, ddpm_plan(schedule), options, CONTEXT)
    batch = pose_batch(4, 1)
    folds = batch._replace(fold=jnp.array([2, 0, 1, 2], jnp.int32))
    np.testing.assert_array_equal(lifter.encode({"frozen": VARIABLES}, folds).condition[:, 0, 5, 0], [2, 0, 1, 2])
    np.testing.assert_array_equal(lifter.encode({"frozen": VARIABLES}, batch).condition[:, 0, 5, 0], [9, 9, 9, 9])


def test_diffposes_estimate_and_features_are_those_of_the_versions_where_there_are_folds():
    schedule = cosine(8)
    lifter = DiffPose(nn.Dense(3), H36M_17, schedule, ddpm_plan(schedule), CONTEXT)
    frozen = {"frozen": assume_statistics(VARIABLES, 17)}
    batch = pose_batch(4, 1)._replace(fold=jnp.array([2, 0, 1, 2], jnp.int32))
    condition = lifter.encode(frozen, batch)
    np.testing.assert_array_equal(condition.estimate[:, 0, 5, 0], [2, 0, 1, 2])
    np.testing.assert_array_equal(condition.features[:, 0, 5, 0], [2, 0, 1, 2])
    np.testing.assert_array_equal(lifter.encode(frozen, batch._replace(fold=None)).estimate, np.full((4, 1, 17, 3), 9))


def test_folds_are_subjects_of_about_as_many_frames():
    clips = clips_of(a=50, b=10, c=30, d=5, e=20, f=5)
    folds = split_folds(clips, 3)
    assert sorted(name for group in folds for name in group) == list("abcdef")
    lengths = dict(zip("abcdef", (50, 10, 30, 5, 20, 5), strict=True))
    assert sorted(sum(lengths[name] for name in group) for group in folds) == [35, 35, 50]
    assert split_folds(clips.select(reversed(range(6))), 3) == folds


@pytest.mark.parametrize(("folds", "expected"), [([["b"], ["a"]], [1, 1, 0]), ([["b"], ["x"]], [0, 0, 0])])
def test_every_frame_has_the_fold_of_its_subject_and_a_stranger_any(folds, expected):
    np.testing.assert_array_equal(frame_folds(clips_of(a=2, b=1), folds), expected)
