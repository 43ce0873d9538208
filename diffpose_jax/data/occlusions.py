"""Which joints of a sequence are hidden: the occlusion patterns of Rommel et al. (2023), section 5.2.

A hidden joint lies at the centre of the normalised image, (0, 0), and its mask is zero. Patterns are drawn afresh for
every example, in training and in testing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.windows import Batch
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import Skeleton

_LEG = ("right_hip", "right_knee", "right_ankle")
_ARM = ("left_shoulder", "left_elbow", "left_wrist")

# The patterns and their published rates, for sequences of F = 27 frames. With rate p, and n = int(p F):
#   none        nothing
#   random      each joint of each frame is hidden with probability p
#   arm_leg     left arm and right leg are hidden together, in each frame with probability p; the release hides them in
#               exactly n frames, drawn without replacement
#   leg_gap     the right leg is hidden in n = 10 consecutive frames, whose start is uniform in 0..F - n; the release
#               never draws the last start, so that the last frame always shows the leg
#   frame_gap   all joints are hidden in n = 5 consecutive frames, drawn likewise
PATTERNS: dict[str, float] = {"none": 0.0, "random": 0.2, "arm_leg": 0.4, "leg_gap": 0.4, "frame_gap": 0.2}


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
        pattern: One of `PATTERNS`, or 'any', which draws one of them (none included) for each example.
        skeleton: The joint layout; joints are found by their names.
        rate: The share of frames or joints, at least 0 and below 1; None takes the pattern's published one.
        release: Do as the release where it differs from the paper (see `PATTERNS`).

    Returns:
        The batch with keypoints and mask set to zero at hidden joints.

    Raises:
        UserError: For an unknown pattern, a rate outside [0, 1), and a batch with mixtures.
    """
    if batch.mixture is not None:
        raise UserError("occlusion: expected data without mixtures, which would go on showing what is hidden")
    frames = batch.keypoints.shape[1]

    def observe(index: jax.Array) -> jax.Array:
        example = jax.random.fold_in(key, index)
        if pattern != "any":
            return observed_joints(_device_draws(example), pattern, frames, skeleton, rate, release)
        which, example = jax.random.split(example)
        draws = _device_draws(example)
        masks = [observed_joints(draws, name, frames, skeleton, rate, release) for name in PATTERNS]
        return jnp.stack(masks)[jax.random.randint(which, (), 0, len(masks))]

    observed = jax.vmap(observe)(batch.index).astype(batch.mask.dtype)
    keypoints = batch.keypoints * observed[..., None].astype(batch.keypoints.dtype)
    return batch._replace(keypoints=keypoints, mask=batch.mask * observed)


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
    rate = PATTERNS[pattern] if rate is None else rate
    if not 0 <= rate < 1:
        raise UserError(f"occlusion rate: expected at least 0 and below 1, found {rate}")
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
    return ~hidden


def _device_draws(key: jax.Array) -> Draws:
    def choose(total: int, count: int) -> jax.Array:
        return jax.random.choice(key, total, (count,), replace=False)

    return Draws(lambda shape: jax.random.uniform(key, shape), choose)


def _named(skeleton: Skeleton, names: tuple[str, ...]) -> np.ndarray:
    return np.array([[joint in names for joint in skeleton.joints]])
