"""Which joints of a sequence are hidden: the patterns of Rommel et al. (2023), section 5.2, and those of users.

A hidden joint lies at the centre of the normalised image, (0, 0), and its mask is zero. Patterns are drawn afresh for
every example, in training and in testing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Batch
from diffpose_jax.errors import UserError
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import COCO_17, Skeleton, layout_matrix

_LEG = ("right_hip", "right_knee", "right_ankle")
_ARM = ("left_shoulder", "left_elbow", "left_wrist")
_LIMBS = (_LEG, tuple(name.replace("right", "left") for name in _LEG),
          _ARM, tuple(name.replace("left", "right") for name in _ARM))  # fmt: skip
_HEAD = ("neck_nose", "head", "head_top", "nose")

# The patterns and their published rates, for sequences of F = 27 frames. With rate p, and n = int(p F):
#   none        nothing
#   random      each joint of each frame is hidden with probability p
#   arm_leg     left arm and right leg are hidden together, in each frame with probability p; the release hides them in
#               exactly n frames, drawn without replacement
#   leg_gap     the right leg is hidden in n = 10 consecutive frames, whose start is uniform in 0..F - n; the release
#               never draws the last start, so that the last frame always shows the leg
#   frame_gap   all joints are hidden in n = 5 consecutive frames, drawn likewise
PUBLISHED: dict[str, float] = {"none": 0.0, "random": 0.2, "arm_leg": 0.4, "leg_gap": 0.4, "frame_gap": 0.2}

# What is missing in keypoints from video, for windows of any number of frames. With rate p:
#   leg, arm    one leg, or one arm, of either side is hidden in all frames of an example with probability p
#   lower_body  likewise both legs and the pelvis, as where the picture ends at the waist
#   partial     the mixture to train with: with probability p something is hidden, in all frames or in a run of them:
#               the ends of some limbs, from any joint on; the lower body; the head; or joints at random. Half of the
#               time the joints that keypoints of COCO's layout would lack too go with them. The other people are shown
#               whole, so that a model does not get worse for those who are
PATTERNS: dict[str, float] = {**PUBLISHED, "leg": 1.0, "arm": 1.0, "lower_body": 1.0, "partial": 0.6}


class Draws(NamedTuple):
    """Where a pattern's random numbers come from: a key on the device, or numpy where a test replays the release."""

    uniform: Callable[[tuple[int, ...]], Any]  # numbers in [0, 1) of a shape
    choose: Callable[[int, int], Any]  # (total, count): count distinct indices [count] below a total


def occlude(
    key: jax.Array, batch: Batch, pattern: str, skeleton: Skeleton, rate: float | None = None, release: bool = False
) -> Batch:
    """Hide joints of a batch `[B, F, J, C]`, in each example by its own draw.

    Args:
        key: One key; an example's draw derives from it and the example's index.
        batch: The examples.
        pattern: One of `PATTERNS`, or 'any', which draws one of the published ones (none included) for each example.
        skeleton: The joint layout; joints are found by their names.
        rate: The share of frames or joints, at least 0 and below 1; None takes the pattern's published one.
        release: Do as the release where it differs from the paper (see `PATTERNS`).

    Returns:
        The batch with keypoints and mask zero at hidden joints; a mixture is there one Gaussian at the centre of the
        image, with a standard deviation of half of it.

    Raises:
        UserError: For an unknown pattern, a rate outside [0, 1), and mixtures of whole poses.
    """
    frames = batch.keypoints.shape[1]
    observed = _draw_masks(key, batch.index, pattern, frames, skeleton, rate, release).astype(batch.mask.dtype)
    keypoints = batch.keypoints * observed[..., None].astype(batch.keypoints.dtype)
    mixture = None if batch.mixture is None else _hide_mixture(batch.mixture, observed)
    return batch._replace(keypoints=keypoints, mask=batch.mask * observed, mixture=mixture)


def hide_clips(clips: ClipSet, pattern: str, frames: int, rate: float | None = None, seed: int = 0) -> ClipSet:
    """The same frames, in which joints that a pattern hides were not seen (score 0).

    Args:
        clips: The frames.
        pattern: As in `occlude`; drawn anew for every run of `frames` frames of a clip.
        frames: The length of these runs, that of a lifter's windows.
        rate: As in `occlude`.
        seed: The seed of all draws.

    Raises:
        UserError: For an unknown pattern and a rate outside [0, 1).
    """
    first = np.concatenate(
        [np.arange(0, n, frames) + start for start, n in zip(clips.clip_start, clips.clip_length, strict=True)]
    )
    draw = jax.jit(_draw_masks, static_argnums=(2, 3, 4, 5, 6))
    key, index = jax.random.key(seed), jnp.asarray(first, jnp.int32)
    masks = np.asarray(draw(key, index, pattern, frames, clips.skeleton, rate, False))
    # The run of a frame is the last one that does not begin after it.
    every = np.arange(clips.num_frames)
    run = np.searchsorted(first, every, side="right") - 1
    observed = masks[run, every - first[run]]
    scores = np.ones(observed.shape, np.float32) if clips.scores is None else clips.scores
    return dataclasses.replace(clips, scores=np.where(observed, scores, np.float32(0)))


def _draw_masks(
    key: jax.Array, index: jax.Array, pattern: str, frames: int, skeleton: Skeleton, rate: float | None, release: bool
) -> jax.Array:
    """The masks `[B, F, J]` of examples `[B]`, each by its own draw; the arguments are those of `occlude`."""

    def observe(index: jax.Array) -> jax.Array:
        example = jax.random.fold_in(key, index)
        if pattern != "any":
            return jnp.asarray(observed_joints(_device_draws(example), pattern, frames, skeleton, rate, release))
        which, example = jax.random.split(example)
        draws = _device_draws(example)
        masks = [observed_joints(draws, name, frames, skeleton, rate, release) for name in PUBLISHED]
        return jnp.stack(masks)[jax.random.randint(which, (), 0, len(masks))]

    return jax.vmap(observe)(index)


def observed_joints(
    draws: Draws, pattern: str, frames: int, skeleton: Skeleton, rate: float | None = None, release: bool = False
) -> Any:
    """Draw the mask `[F, J]` of one sequence, bool: false where the pattern hides a joint.

    Args:
        draws: Source of random numbers.
        pattern: One of `PATTERNS`.
        frames: F.
        skeleton: The joint layout.
        rate: As in `occlude`.
        release: As in `occlude`.

    Raises:
        UserError: For an unknown pattern and a rate outside [0, 1).
    """
    if pattern not in PATTERNS:
        raise UserError(f"occlusion pattern: expected one of {', '.join(PATTERNS)}, any, found {pattern!r}")
    if rate is not None and not 0 <= rate < 1:
        raise UserError(f"occlusion rate: expected at least 0 and below 1, found {rate}")
    rate = PATTERNS[pattern] if rate is None else rate
    hidden: Any = np.zeros((frames, skeleton.num_joints), bool)
    if pattern == "random":
        hidden = draws.uniform((frames, skeleton.num_joints)) <= rate
    elif pattern == "arm_leg" and release:
        chosen = draws.choose(frames, int(rate * frames))
        rows = (np.arange(frames)[:, None] == chosen[None]).any(axis=1)
        hidden = rows[:, None] & _named(skeleton, _LEG + _ARM)
    elif pattern == "arm_leg":
        hidden = (draws.uniform((frames,)) < rate)[:, None] & _named(skeleton, _LEG + _ARM)
    elif pattern in ("leg_gap", "frame_gap"):
        length = int(frames * rate)
        start = draws.choose(frames - length + (0 if release else 1), 1)
        row = np.arange(frames)
        gap = ((row >= start) & (row < start + length))[:, None]
        hidden = gap & _named(skeleton, _LEG if pattern == "leg_gap" else skeleton.joints)
    elif pattern in ("leg", "arm", "lower_body"):
        hidden = _draw_limb(draws, pattern, frames, skeleton, rate)
    elif pattern == "partial":
        hidden = _draw_partial(draws, frames, skeleton, rate)
    return ~hidden


def _draw_limb(draws: Draws, pattern: str, frames: int, skeleton: Skeleton, rate: float) -> Any:
    """The hidden joints `[F, J]` of 'leg', 'arm' and 'lower_body'."""
    happens, side = draws.uniform((2,))
    legs = [_named(skeleton, names) for names in _LIMBS[:2]]
    first, second = legs if pattern == "leg" else [_named(skeleton, names) for names in _LIMBS[2:]]
    if pattern == "lower_body":
        first = second = legs[0] | legs[1] | _named(skeleton, ("pelvis",))
    hidden = (happens < rate) & (((side < 0.5) & first) | ((side >= 0.5) & second))
    return hidden | np.zeros((frames, 1), bool)


def _draw_partial(draws: Draws, frames: int, skeleton: Skeleton, rate: float) -> Any:
    """The hidden joints `[F, J]` of 'partial'."""
    joints, limbs = skeleton.num_joints, len(_LIMBS)
    u = draws.uniform((8 + 2 * limbs + joints,))
    happens, kind, strength, made, whole, length, start, side = (u[i] for i in range(8))
    # Limbs: each of the four with probability 0.35, from its first, second or third joint on.
    chains: Any = np.zeros((joints,), bool)
    for limb, names in enumerate(_LIMBS):
        gone, cut = u[8 + 2 * limb] < 0.35, u[9 + 2 * limb]
        for place, name in enumerate(names):
            chains = chains | (gone & (3 * cut < place + 1) & _named(skeleton, (name,))[0])
    leg, other_leg = (_named(skeleton, names)[0] for names in _LIMBS[:2])
    one_leg = ((side < 0.5) & leg) | ((side >= 0.5) & other_leg)
    lower = leg | other_leg | _named(skeleton, ("pelvis",))[0]
    scattered = u[8 + 2 * limbs :] < 0.5 * strength
    # The kinds and their shares: limbs 35 %, one whole leg 30 %, the lower body 13 %, the head 7 %, single joints 15 %,
    # each of which is hidden with a probability that is drawn too, up to one half.
    hidden: Any = (kind < 0.35) & chains
    kinds = ((0.35, 0.65, one_leg), (0.65, 0.78, lower), (0.78, 0.85, _named(skeleton, _HEAD)[0]), (0.85, 1, scattered))
    for low, high, chosen in kinds:
        hidden = hidden | ((kind >= low) & (kind < high) & chosen)
    hidden = hidden | ((made < 0.35) & (hidden[None] & _made_of(skeleton)).any(axis=-1))
    # All frames, or a run of 1 to F of them.
    count = 1 + (length * frames).astype(np.int32)
    first = (start * (frames - count + 1).astype(np.float32)).astype(np.int32)
    row = np.arange(frames, dtype=np.int32)
    run = (whole < 0.5) | ((row >= first) & (row < first + count))
    return (happens < rate) & run[:, None] & hidden[None]


@functools.cache
def _made_of(skeleton: Skeleton) -> np.ndarray:
    """Whether a joint is made of another, which COCO has too, where keypoints are COCO's: `[J, J]`."""
    try:
        matrix = layout_matrix(COCO_17, skeleton) != 0
    except UserError:  # there is no map
        return np.zeros((skeleton.num_joints, skeleton.num_joints), bool)
    source = [COCO_17.joints.index(name) if name in COCO_17.joints else -1 for name in skeleton.joints]
    return np.stack([matrix[:, i] if i >= 0 else np.zeros(len(matrix), bool) for i in source], axis=-1)


def _hide_mixture(mixture: Mixture, observed: jax.Array) -> Mixture:
    """Mixtures per joint that say nothing of the joints that are not observed `[B, F, J]`."""
    weights, means, covariances = mixture
    if means.shape[-1] != 2:
        raise UserError("occlusion: expected mixtures per joint, found mixtures of whole poses")

    def choose(shown: jax.Array, hidden: np.ndarray) -> jax.Array:
        seen = observed.reshape(observed.shape + (1,) * (shown.ndim - observed.ndim)) > 0
        return jnp.where(seen, shown, jnp.broadcast_to(jnp.asarray(hidden, shown.dtype), shown.shape))

    wide = np.ones((1,) * (covariances.ndim - 1) + (2,)) if mixture.diagonal else np.eye(2)
    wide = wide.reshape((1,) * (covariances.ndim - wide.ndim) + wide.shape)
    return Mixture(weights, choose(means, np.zeros((1,) * means.ndim)), choose(covariances, wide))


def _device_draws(key: jax.Array) -> Draws:
    def choose(total: int, count: int) -> jax.Array:
        return jax.random.choice(key, total, (count,), replace=False)

    return Draws(lambda shape: jax.random.uniform(key, shape), choose)


def _named(skeleton: Skeleton, names: tuple[str, ...]) -> np.ndarray:
    return np.array([[joint in names for joint in skeleton.joints]])
