"""What methods are built of as a config says: the options that several share, the schedule and the reverse steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
from ml_collections import ConfigDict

from diffpose_jax.config import OptionError, option
from diffpose_jax.diffusion.plans import Plan, ddim_plan, ddpm_plan
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.visibility import VisibilityOptions
from diffpose_jax.skeleton import Skeleton

Precision = Literal["float32", "bfloat16"]
PRECISION_DOC = "type that the network computes in; parameters, statistics and losses are float32"


@dataclasses.dataclass(frozen=True)
class TransformerOptions(VisibilityOptions):
    """The sizes of MixSTE and of the networks that descend from it."""

    frames: int = option(243, "frames of a window", low=1, unit="frames")
    width: int = option(512, "channels of a token", low=4)
    num_layers: int = option(8, "pairs of a spatial and a temporal block", low=1)
    num_heads: int = option(8, "attention heads", low=1)
    mlp_ratio: float = option(2.0, "width of a block's hidden layer over its own", low=0.01)
    drop_path: float = option(
        0.1, "rate at which the last block is dropped; it grows linearly from 0", low=0, high=0.99
    )
    compute_dtype: Precision = option("float32", PRECISION_DOC)

    def check(self) -> None:
        """Every head has the same width, and the hidden layer has any."""
        if self.width % self.num_heads:
            raise OptionError("width", f"a multiple of num_heads={self.num_heads}", self.width)
        if self.width * self.mlp_ratio < 1:
            raise OptionError("mlp_ratio", f"at least 1 / width={self.width}", self.mlp_ratio)

    def network_fields(self, skeleton: Skeleton) -> dict[str, Any]:
        """The fields of `models.mixste.MixSTE`."""
        names = ("frames", "width", "num_layers", "num_heads", "mlp_ratio", "drop_path")
        sizes = {name: getattr(self, name) for name in names}
        return {**sizes, "num_joints": skeleton.num_joints, "dtype": jnp.dtype(self.compute_dtype)}


@dataclasses.dataclass(frozen=True)
class GraFormerOptions(VisibilityOptions):
    """The sizes of GraFormer."""

    width: int = option(96, "channels of a joint", low=4)
    num_layers: int = option(5, "pairs of an attention and a graph block", low=1)
    num_heads: int = option(4, "attention heads", low=1)
    dropout: float = option(0.25, "rate of dropout in the attention blocks", low=0, high=0.99)
    compute_dtype: Precision = option("float32", PRECISION_DOC)

    def check(self) -> None:
        """Every head has the same width, and the graph's layers half of it."""
        if self.width % (2 * self.num_heads):
            raise OptionError("width", f"a multiple of twice num_heads={self.num_heads}", self.width)

    def network_fields(self, skeleton: Skeleton) -> dict[str, Any]:
        """The fields of `models.graformer.GraFormer`."""
        sizes = {name: getattr(self, name) for name in ("width", "num_layers", "num_heads", "dropout")}
        return {"skeleton": skeleton, **sizes, "dtype": jnp.dtype(self.compute_dtype)}


def clip_bound(config: ConfigDict) -> float:
    """The bound of x0, infinite where the config's is 0."""
    return config.diffusion.clip or math.inf


def make_process(config: ConfigDict, *targets: str) -> tuple[Schedule, Plan]:
    """The schedule and the reverse steps of a config; `targets` are what the method's network can be trained to
    predict.
    """
    diffusion = config.diffusion
    if diffusion.predict not in targets:
        raise UserError(f"config.diffusion.predict: expected {' or '.join(targets)} for {config.lifter.name}, "
                        f"found {diffusion.predict!r}")  # fmt: skip
    schedule = make_schedule_of(diffusion)
    return schedule, make_plan(diffusion, schedule)


def make_schedule_of(diffusion: ConfigDict) -> Schedule:
    """The noise schedule of a config's diffusion section."""
    cosine = diffusion.schedule == "cosine"
    limits = {"max_beta": diffusion.max_beta} if cosine else {"start": diffusion.beta_start, "end": diffusion.beta_end}
    return make_schedule(diffusion.schedule, diffusion.steps, **limits)


def make_plan(diffusion: ConfigDict, schedule: Schedule, steps: int | None = None) -> Plan:
    """The reverse steps that a config asks for, or so many of the same kind."""
    steps = steps or diffusion.sampling_steps or diffusion.steps
    if diffusion.sampler == "ddim":
        return ddim_plan(schedule, steps, diffusion.eta, diffusion.spacing, diffusion.num_timesteps or None)
    # DDPM's posterior mean can be written with x0 or with eps. Both are the same number unless x0 is clipped: only the
    # first form then has the clipped value in it.
    mean = "x0" if diffusion.clip else "eps"
    return ddpm_plan(schedule, None if steps == diffusion.steps else steps, mean)
