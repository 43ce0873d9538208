"""How hypotheses are drawn: the typed record that every method's `sample` takes, and what the methods do with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import get_args

import jax
from jax import Array
from jax.sharding import Mesh

from diffpose_jax.diffusion.hypotheses import sample_hypotheses
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.samplers import Denoiser, initial_noise
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys
from diffpose_jax.sections import Flip, Noise


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature"],
    meta_fields=["hypotheses", "flip", "noise", "plan", "wrapper", "chunk", "mesh"],
)
@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is asked of a sampler. A pytree: another temperature needs no compilation, anything else does.

    Attributes:
        hypotheses: How many are drawn, H.
        temperature: Standard deviation of the noise that they start from. Above 1 they spread more, below 1 less;
            `calibrate` finds the one at which coverage is nominal.
        flip: How the mirrored input enters (see `wrappers.with_flips`). 'none': not at all; 'half': every second
            hypothesis is of the mirrored input, mirrored back; 'average': the average of both, in the method's own way.
        noise: 'frame': every frame has noise of its own. 'clip': a hypothesis keeps its noise through a clip. The
            examples of a clip then have one index, and methods that lift the frames of a window one by one take the
            same noise for all of them; methods that lift sequences take the same window of noise for every window.
        plan: Reverse steps in place of the method's own.
        wrapper: denoiser -> denoiser, applied to the method's last: a place for constraints.
        chunk: How many hypotheses are in memory at once on a device; None: all of them.
        mesh: The devices that share the hypotheses of every example; None: one device draws them all.
    """

    hypotheses: int = 1
    temperature: float | Array = 1.0
    flip: Flip = "none"
    noise: Noise = "frame"
    plan: Plan | None = None
    wrapper: Callable[[Denoiser], Denoiser] | None = None
    chunk: int | None = None
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        for name, choices in (("flip", get_args(Flip)), ("noise", get_args(Noise))):
            found = getattr(self, name)
            if found not in choices:
                raise UserError(f"sampling.{name}: expected one of {', '.join(choices)}, found {found!r}")

    @property
    def averages_flips(self) -> bool:
        """Whether the input and its mirror image are averaged."""
        return self.flip == "average"

    def replace(self, **changes: object) -> Sampling:
        """The same record with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def draw_noise(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """The noise `[B, ...]` that hypotheses start from, by one key per example `[B]`."""
        # Only the noise at the start is scaled. That which a stochastic sampler adds in its steps keeps the variance
        # that the plan says.
        return self.temperature * initial_noise(keys, shape)

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser within `wrapper`."""
        return denoiser if self.wrapper is None else self.wrapper(denoiser)


def draw_hypotheses(draw_one: Callable[[Array], Array], key: Array, index: Array, sampling: Sampling) -> Array:
    """Hypotheses `[H, B, F, J, 3]`, each independent of H, of the other examples of the batch and of the chunks.

    Args:
        draw_one: keys `[B]` -> one hypothesis of every example, `[B, F, J, 3]`.
        key: One key; the key of hypothesis h of an example folds in the example's index and h.
        index: The identity of each example, `[B]`.
        sampling: How many hypotheses, in which chunks and on which devices.
    """
    keys = example_keys(key, index)
    return sample_hypotheses(draw_one, keys, sampling.hypotheses, sampling.chunk, sampling.mesh)
