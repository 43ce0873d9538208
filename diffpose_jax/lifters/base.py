"""The contract that every method meets: pure methods over one kind of batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import Options
from diffpose_jax.data.windows import Batch
from diffpose_jax.lifters.sampling import Sampling
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton, mirror

__all__ = ["Aux", "Batch", "ContextLifter", "Lifter", "MeasuringLifter", "Sampling", "Variables"]

Variables = Mapping[str, Any]


class Aux(NamedTuple):
    """What a loss returns beside its value: scalars to log and the new batch statistics (`{}` where there are none)."""

    metrics: dict[str, Array]
    batch_stats: Mapping[str, Any]


class Lifter(Protocol):
    """A method: a frozen dataclass of its network, skeleton, schedule, reverse steps and options, with pure methods.

    Lifters with equal fields compare equal, so that what was compiled for one serves the other. A deterministic lifter
    is the case where all hypotheses agree. A class may inherit from this protocol for its defaults, or have all its
    members.
    """

    # The section of the config that the method takes, its diffusion settings, and whether it needs a frozen lifter.
    options_type: ClassVar[type[Options]]
    diffusion: ClassVar[DiffusionOptions] = DiffusionOptions()
    needs_context: ClassVar[bool] = False

    skeleton: Skeleton

    @property
    def frames(self) -> int:
        """Frames F of a window."""
        return 1

    @property
    def middle_frame(self) -> bool:
        """Whether only the middle frame of a window is lifted: poses are then `[H, B, 1, J, 3]`."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether hypotheses differ."""
        return True

    @property
    def averages_flips(self) -> bool:
        """Whether `sample` averages over the mirrored input itself where `sampling.flip` asks for it."""
        return False

    @classmethod
    def build(
        cls, config: ConfigDict, skeleton: Skeleton, context: ContextLifter | None, axis_name: str | None
    ) -> Lifter:
        """The method that a config describes.

        Args:
            config: A validated config; `config.lifter` holds the values of `options_type`.
            skeleton: The joints of `config.data.layout`.
            context: The frozen lifter that `config.lifter.context` names, None where there is none.
            axis_name: The device axis over which batch statistics are averaged, None on one device.
        """
        ...

    def init(self, key: Array, batch: Batch) -> Variables:
        """Variables `{'params', 'batch_stats'?, 'frozen'?}`; only the shapes of the batch matter."""
        ...

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """The loss of a batch, a scalar, and what is logged and kept beside it."""
        ...

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]`, root-relative metres in the camera's frame."""
        ...


@runtime_checkable
class ContextLifter(Lifter, Protocol):
    """A lifter whose features another method can be conditioned on."""

    def features(self, variables: Variables, keypoints: Array) -> Array:
        """Features `[B, F, J, C]` of keypoints `[B, F, J, 2]`."""
        ...


@runtime_checkable
class MeasuringLifter(Protocol):
    """A lifter that measures something with its context, once, before training."""

    def measure(self, frozen: Variables, train: Iterable[Batch], valid: Iterable[Batch]) -> Variables:
        """`variables['frozen']` of the context's variables and of batches that are spread over both splits."""
        ...


def apply_in_training(
    network: nn.Module, variables: Variables, key: Array, index: Array, *inputs: Any
) -> tuple[Array, Any]:
    """A network's output and its new batch statistics, with dropout.

    Args:
        network: Called as `network(*inputs, train=True, index=index)`.
        variables: Its variables; what is frozen is not the network's.
        key: The key of dropout.
        index: The identity of the examples `[B]`, from which each one's dropout derives.
        *inputs: What the network takes.
    """
    own, rngs = network_variables(variables), {"dropout": key}
    output, updates = network.apply(own, *inputs, train=True, index=index, rngs=rngs, mutable=["batch_stats"])
    found: Any = output
    return found, updates.get("batch_stats", {})


def apply_network(network: nn.Module, variables: Variables, *inputs: Any) -> Array:
    """A network's output, without dropout and with its running statistics."""
    output: Any = network.apply(network_variables(variables), *inputs, train=False)
    return output


def network_variables(variables: Variables) -> Variables:
    """The variables of a method's own network: all but those of a frozen context."""
    return {name: part for name, part in variables.items() if name != "frozen"}


def check_batch(batch: Batch, skeleton: Skeleton, frames: int) -> None:
    """Fails with the shapes, while tracing, where a batch is not `[B, F, J, C]` of this skeleton and frame count."""
    shape = (len(batch.index), frames, skeleton.num_joints)
    chex.assert_shape([batch.keypoints, batch.poses, batch.mask], [(*shape, 2), (*shape, 3), shape])


def example_batch(lifter: Lifter, size: int = 1) -> Batch:
    """A batch of zeros with a lifter's shapes, to initialise variables with."""
    shape = (size, lifter.frames, lifter.skeleton.num_joints)
    return Batch(jnp.zeros((*shape, 2)), jnp.zeros((*shape, 3)), jnp.ones(shape), jnp.arange(size, dtype=jnp.int32))


def lifted_frames(lifter: Lifter) -> slice:
    """Which frames of a batch `[B, F, J, C]` a lifter gives poses for."""
    return slice(lifter.frames // 2, lifter.frames // 2 + 1) if lifter.middle_frame else slice(None)


def lifted_part(lifter: Lifter, batch: Batch) -> Batch:
    """The batch reduced to the frames that a lifter gives poses for."""
    frames = lifted_frames(lifter)
    keypoints, poses, mask, mixture = jax.tree.map(lambda part: part[:, frames], (*batch[:3], batch.mixture))
    return Batch(keypoints, poses, mask, batch.index, mixture)


def zero_root(poses: Array, skeleton: Skeleton) -> Array:
    """Poses `[..., J, 3]` with the root set to zero and all other joints left where they are."""
    return poses.at[..., skeleton.root, :].set(0.0)


def subtract_root(poses: Array, skeleton: Skeleton) -> Array:
    """Poses `[..., J, 3]` moved so that the root is zero."""
    return poses - poses[..., skeleton.root : skeleton.root + 1, :]


def flip_batch(batch: Batch, skeleton: Skeleton) -> Batch:
    """The batch as a mirror shows it; the examples keep their identity."""
    return batch._replace(
        keypoints=mirror(batch.keypoints, skeleton),
        poses=mirror(batch.poses, skeleton),
        mask=batch.mask[..., np.array(skeleton.flip_order)],
        mixture=None if batch.mixture is None else flip_mixture(batch.mixture, skeleton),
    )


def flip_mixture(mixture: Mixture, skeleton: Skeleton) -> Mixture:
    """The mirror image of 2D mixtures per joint, means `[..., J, M, 2]`, or per pose, means `[..., M, 2 J]`."""
    weights, means, covariances = mixture
    order, sign = np.array(skeleton.flip_order), np.array([-1, 1], np.float32)
    if means.shape[-1] == 2:
        axis = means.ndim - 3
        weights, means, covariances = (jnp.take(part, order, axis=axis) for part in mixture)
    else:
        order = (2 * order[:, None] + np.arange(2)[None]).reshape(-1)
        sign = np.tile(sign, skeleton.num_joints)
        means, covariances = means[..., order], covariances[..., order]
        covariances = covariances if mixture.diagonal else jnp.take(covariances, order, axis=-2)
    means = means * jnp.expand_dims(sign, tuple(range(means.ndim - 1)))
    # With S = diag(-1, 1) the mirrored covariance is S C S: entries are multiplied by the signs of both coordinates.
    if not mixture.diagonal:
        covariances = covariances * jnp.expand_dims(np.outer(sign, sign), tuple(range(covariances.ndim - 2)))
    return Mixture(weights, means, covariances)
