"""Which joints of a sequence go unseen: the patterns of Rommel et al. (2023), and gaps that come and go by chance.

A hidden joint lies at the centre of the normalised image, (0, 0), and its mask is zero. Patterns are applied afresh to
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


class Draws(NamedTuple):
    """Where a pattern's random numbers come from; it draws once."""

    uniform: Callable[[tuple[int, ...]], Any]  # numbers in [0, 1) of a shape
    choose: Callable[[int, int], Any]  # count distinct whole numbers [count] below a total


class Pattern(NamedTuple):
    """How joints are hidden, `hidden(draws, frames, skeleton, rate, released) -> bool [F, J]`; the published rate."""

    hidden: Callable[[Draws, int, Skeleton, float, bool], Any]
    rate: float


def occlude(
    key: jax.Array,
    batch: Batch,
    pattern: str,
    skeleton: Skeleton,
    rate: float | None = None,
    released: bool = False,
) -> Batch:
    """Hide joints of a batch `[B, F, J, C]` by a pattern of `PATTERNS`, for each example by the key and its index.

    rate: None takes the published one of the pattern. 'any' draws one of all patterns, or none, per example. released
    keeps what the release does otherwise than the paper says: the arm and leg go in an exact number of frames instead
    of with a probability, and gaps never reach the last frame. An unknown pattern, a rate outside [0, 1) and a batch
    with mixtures are UserErrors.
    """
    if batch.mixture is not None:
        raise UserError("occlusion: expected data without mixtures, which would go on showing what is hidden")
    frames = batch.keypoints.shape[1]

    def observed(index: jax.Array) -> jax.Array:
        example = jax.random.fold_in(key, index)
        if pattern != "any":
            return observed_joints(_device_draws(example), pattern, frames, skeleton, rate, released)
        which, example = jax.random.split(example)
        draws = _device_draws(example)
        masks = [observed_joints(draws, name, frames, skeleton, rate, released) for name in PATTERNS]
        return jnp.stack(masks)[jax.random.randint(which, (), 0, len(masks))]

    kept = jax.vmap(observed)(batch.index).astype(batch.mask.dtype)
    keypoints = batch.keypoints * kept[..., None].astype(batch.keypoints.dtype)
    return batch._replace(keypoints=keypoints, mask=batch.mask * kept)


def observed_joints(
    draws: Draws, pattern: str, frames: int, skeleton: Skeleton, rate: float | None = None, released: bool = False
) -> Any:
    """The mask `[F, J]` of one sequence, boolean: false where the pattern hides a joint. See `occlude`."""
    if pattern not in PATTERNS:
        raise UserError(f"occlusion pattern: expected one of {', '.join(PATTERNS)}, any, found {pattern!r}")
    rate = PATTERNS[pattern].rate if rate is None else rate
    if not 0 <= rate < 1:
        raise UserError(f"occlusion rate: expected at least 0 and below 1, found {rate}")
    hidden = PATTERNS[pattern].hidden(draws, frames, skeleton, rate, released)
    return ~(hidden & np.ones((frames, skeleton.num_joints), bool))


def markov_gaps(
    key: jax.Array, shape: tuple[int, ...], rate: float, mean_length: float | None = None, keep: tuple[int, ...] = ()
) -> jax.Array:
    """Draws a mask of observed joints, float32 of `shape` `[..., F, J]`: 1 observed, 0 hidden.

    Every joint is hidden in a share `rate` < 1 of the frames, for `mean_length` frames on average (a two-state Markov
    chain in its stationary state, whose gaps cannot be shorter than rate / (1 - rate) frames); None hides every frame
    on its own. Joints in `keep` are always observed.
    """
    *leading, frames, joints = shape
    odds = rate / (1 - rate)
    mean_length = 1 + odds if mean_length is None else max(mean_length, 1, odds)
    hide = odds / mean_length
    draws = jax.random.uniform(key, (frames, *leading, joints))

    def step(hidden: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = jnp.where(hidden, draw >= 1 / mean_length, draw < hide)
        return hidden, hidden

    first = draws[0] < rate
    _, rest = jax.lax.scan(step, first, draws[1:])
    observed = jnp.moveaxis(~jnp.concatenate([first[None], rest]), 0, -2)
    always = jnp.array([joint in keep for joint in range(joints)])
    return jnp.logical_or(observed, jnp.broadcast_to(always, observed.shape)).astype(jnp.float32)


def _device_draws(key: jax.Array) -> Draws:
    def choose(total: int, count: int) -> jax.Array:
        return jax.random.choice(key, total, (count,), replace=False)

    return Draws(lambda shape: jax.random.uniform(key, shape), choose)


def _nothing(draws: Draws, frames: int, skeleton: Skeleton, rate: float, released: bool) -> Any:
    return np.zeros((frames, 1), bool)


def _every_joint_for_itself(draws: Draws, frames: int, skeleton: Skeleton, rate: float, released: bool) -> Any:
    return draws.uniform((frames, skeleton.num_joints)) <= rate


def _arm_and_leg(draws: Draws, frames: int, skeleton: Skeleton, rate: float, released: bool) -> Any:
    if released:
        chosen = draws.choose(frames, int(rate * frames))
        rows = (np.arange(frames)[:, None] == chosen[None]).any(axis=1)
    else:
        rows = draws.uniform((frames,)) < rate
    return rows[:, None] & _named(skeleton, _LEG + _ARM)


def _leg_gap(draws: Draws, frames: int, skeleton: Skeleton, rate: float, released: bool) -> Any:
    return _gap(draws, frames, rate, released) & _named(skeleton, _LEG)


def _frame_gap(draws: Draws, frames: int, skeleton: Skeleton, rate: float, released: bool) -> Any:
    return _gap(draws, frames, rate, released)


def _gap(draws: Draws, frames: int, rate: float, released: bool) -> Any:
    """Consecutive frames, `[F, 1]`."""
    length = int(frames * rate)
    start = draws.choose(frames - length + (0 if released else 1), 1)
    number = np.arange(frames)
    return ((number >= start) & (number < start + length))[:, None]


def _named(skeleton: Skeleton, names: tuple[str, ...]) -> np.ndarray:
    return np.array([[joint in names for joint in skeleton.joints]])


PATTERNS: dict[str, Pattern] = {
    "none": Pattern(_nothing, 0.0),
    "random": Pattern(_every_joint_for_itself, 0.2),
    "arm_leg": Pattern(_arm_and_leg, 0.4),
    "leg_gap": Pattern(_leg_gap, 0.4),
    "frame_gap": Pattern(_frame_gap, 0.2),
}
