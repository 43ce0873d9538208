"""How joints that were not seen enter a method's network, and what becomes of the spread where they cannot."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffpose_jax.config import Options, option
from diffpose_jax.data.windows import Batch
from diffpose_jax.diffusion.hypotheses import hypothesis_keys
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys, standard_normal
from diffpose_jax.skeleton import Skeleton

Visibility = Literal["ignore", "zeros", "channel", "confidence"]

# Hypotheses of a method that cannot be told of hidden joints are widened. The direction of a bone that no frame within
# t seconds shows has, per coordinate and in units of its length, a standard deviation of TURN (1 - exp(-(t / TURN_TIME)
# ^2)), and of NEVER where no frame of the clip shows it. Thighs, shins, upper arms and forearms of CMU's valid split
# are off those halfway between frames 2 t apart by 0.01 to 0.02 at t = 0.04 s, 0.05 to 0.08 at 0.1, 0.12 to 0.18 at 0.2
# and 0.17 to 0.25 at 0.4, and off those of the other side by 0.33 to 0.39 (legs) and 0.56 to 0.63 (arms).
TURN, TURN_TIME, NEVER = 0.25, 0.17, 0.5
# Folded into a key beside hypotheses, which stay far below it.
_TURN_STREAM = 2**32 - 5


@dataclasses.dataclass(frozen=True)
class VisibilityOptions(Options):
    """What all methods have in common: what their network is told of joints that were not seen."""

    visibility: Visibility = option(
        "ignore",
        "what the network is told of joints that were not seen: nothing ('ignore'; their keypoints are filled in), "
        "keypoints of (0, 0) ('zeros'), these and a channel that is 1 where a joint was seen ('channel'), or one with "
        "the detector's score ('confidence'); all but 'ignore' want training with `data.occlusion`",
        source="ours; the papers have no such input",
    )

    @property
    def mask_channels(self) -> int:
        """How many channels the network's input has for it, 0 or 1."""
        return int(self.visibility in ("channel", "confidence"))


def visible_keypoints(batch: Batch, visibility: Visibility) -> Array:
    """What a network is given of keypoints and mask, `[B, F, J, 2]`, or `[B, F, J, 3]` with a channel for the mask.

    Except with 'ignore', nothing of a keypoint whose mask is 0 is left.
    """
    if visibility == "ignore":
        return batch.keypoints
    keypoints = jnp.where(batch.mask[..., None] > 0, batch.keypoints, 0.0)
    return append_mask(keypoints, batch, visibility)


def append_mask(features: Array, batch: Batch, visibility: Visibility) -> Array:
    """Features `[B, F, J, C]` with the mask as one more channel, where `visibility` has one."""
    if visibility not in ("channel", "confidence"):
        return features
    mask = (batch.mask > 0).astype(features.dtype) if visibility == "channel" else batch.mask.astype(features.dtype)
    return jnp.concatenate([features, mask[..., None]], axis=-1)


def believe_guesses(lifter: Any, batch: Batch) -> Batch:
    """The batch in which joints that were not seen count as seen where the lifter cannot be told: it reads the guesses
    in their place (`data.gaps`). Scores of those that were seen stay.
    """
    return batch if lifter.takes_mask else batch._replace(mask=jnp.where(batch.mask > 0, batch.mask, 1))


def check_context_visibility(visibility: Visibility, context: Any) -> None:
    """Raises UserError where a method is to be told of hidden joints and its context was not trained for them."""
    if visibility != "ignore" and context is not None and not context.takes_mask:
        raise UserError("config.lifter.visibility: expected 'ignore', because the context was not trained for hidden "
                        f"joints (its visibility is 'ignore'), found {visibility!r}")  # fmt: skip


def widen_unseen(poses: Array, gap: Array, key: Array, clip: Array, skeleton: Skeleton) -> Array:
    """Turns the bones of joints that were not seen, in each hypothesis by its own draw, without changing their lengths.

    The draw of a hypothesis is one for its whole clip, so that equal frames stay equal and a gap opens and closes
    smoothly: how far a bone turns grows with the time to the nearest frame that shows it.

    Args:
        poses: Hypotheses `[H, B, F, J, 3]`, root-relative metres.
        gap: That time, `[B, F, J]` s; 0 where a joint was seen.
        key: The key of all noise.
        clip: What tells the clips of the examples apart, `[B]` int32.
        skeleton: The joint layout.
    """
    std = jnp.where(jnp.isinf(gap), NEVER, TURN * -jnp.expm1(-jnp.square(gap / TURN_TIME)))[None, ..., None]
    keys = hypothesis_keys(example_keys(jax.random.fold_in(key, _TURN_STREAM), clip), len(poses))
    turns = jax.vmap(lambda one: standard_normal(one, (len(clip), 1, *poses.shape[-2:])))(keys)
    moved = [poses[..., joint, :] for joint in range(skeleton.num_joints)]
    for joint in _from_root(skeleton):
        parent = skeleton.parents[joint]
        bone = poses[..., joint, :] - poses[..., parent, :]
        length = jnp.linalg.norm(bone, axis=-1, keepdims=True)
        # Normal noise on the direction, then back to the bone's length: a small deviation turns the bone by about as
        # much, with a large one it may point anywhere.
        turned = bone + length * std[..., joint, :] * turns[..., joint, :]
        turned = turned * length / jnp.maximum(jnp.linalg.norm(turned, axis=-1, keepdims=True), 1e-6)
        moved[joint] = jnp.where(std[..., joint, :] > 0, moved[parent] + turned, moved[joint])
    return jnp.stack(moved, axis=-2)


def _from_root(skeleton: Skeleton) -> list[int]:
    """All joints but the root, each after its parent."""
    order = [skeleton.root]
    for joint in order:
        order += [child for child, parent in skeleton.bones if parent == joint]
    return order[1:]
