"""The contract that every method meets: pure methods over one kind of batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import Options
from diffpose_jax.data.windows import Batch
from diffpose_jax.lifters.sampling import Sampling
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton

__all__ = [
    "Aux",
    "Batch",
    "Context",
    "ContextLifter",
    "Lifter",
    "MeasuringLifter",
    "Sampling",
    "ValidatingLifter",
    "Variables",
]

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
    options: Options

    @property
    def frames(self) -> int:
        """Frames F of a window: the option of that name, 1 where there is none."""
        return getattr(getattr(self, "options", None), "frames", 1)

    @property
    def middle_frame(self) -> bool:
        """Whether only the middle frame of a window is lifted: poses are then `[H, B, 1, J, 3]`."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether hypotheses differ."""
        return True

    @property
    def diffuses(self) -> bool:
        """Whether hypotheses come from reverse steps, those of its `plan`."""
        return hasattr(self, "plan")

    @property
    def averages_flips(self) -> bool:
        """Whether `sample` averages over the mirrored input itself where `sampling.flip` is 'average'.

        Its hypotheses must then be samples too: averages within a reverse step are, averages of whole samples are not.

        By default where an option `flip_inside` says so.
        """
        return getattr(getattr(self, "options", None), "flip_inside", False)

    @property
    def takes_mask(self) -> bool:
        """Whether the network is told which joints were not seen: an option `visibility` other than 'ignore'."""
        return getattr(getattr(self, "options", None), "visibility", "ignore") != "ignore"

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
        """The loss of a batch, a scalar, and what is logged and kept beside it.

        Args:
            variables: As `init` returns them; gradients are taken of `variables['params']`.
            key: The key of timesteps, noise and dropout; each example folds in its `batch.index`.
            batch: Keypoints and poses.
        """
        ...

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]`, root-relative metres in the camera's frame.

        Args:
            variables: As `init` returns them.
            key: The key of all noise; hypothesis h of an example folds in its `batch.index` and h.
            batch: Keypoints; the poses are not read.
            sampling: How many hypotheses, and how they are drawn.
        """
        ...


@runtime_checkable
class ContextLifter(Lifter, Protocol):
    """A lifter whose features another method can be conditioned on."""

    def features(self, variables: Variables, batch: Batch) -> Array:
        """Features `[B, F, J, C]` of a batch's keypoints, as the lifter's own `network_input` has them."""
        ...


# The frozen lifter that a method builds on, None where there is none.
Context = ContextLifter | None


@runtime_checkable
class MeasuringLifter(Protocol):
    """A lifter that measures something with its context, once, before training."""

    def measure(self, frozen: Variables, train: Iterable[Batch], valid: Iterable[Batch]) -> Variables:
        """`variables['frozen']` of the context's variables and of batches that are spread over both splits."""
        ...


@runtime_checkable
class ValidatingLifter(Lifter, Protocol):
    """A lifter whose loss can be measured on the valid split, for the learning rate schedule 'plateau'."""

    def valid_loss(self, variables: Variables, key: Array, batch: Batch) -> Array:
        """The loss of a batch, a scalar, without dropout and with running statistics."""
        ...
