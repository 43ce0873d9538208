"""What the methods are put together from as a config says: sizes of networks, schedules and reverse steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from diffpose_jax.diffusion.samplers import Plan, ddim_plan, ddpm_plan
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.skeleton import Skeleton

Builder = Callable[[ConfigDict, Skeleton, str | None], Lifter]


class Method(NamedTuple):
    """A method: how it is built, its options with their defaults, and the diffusion settings it was published with."""

    build: Builder
    options: Mapping[str, Any]
    diffusion: Mapping[str, Any] = {}


TRANSFORMER = {
    "frames": 243, "width": 512, "num_layers": 8, "num_heads": 8, "mlp_ratio": 2.0, "drop_path": 0.1,
    "compute_dtype": "float32",
}  # fmt: skip
GRAFORMER = {"width": 96, "num_layers": 5, "num_heads": 4, "dropout": 0.25, "compute_dtype": "float32"}


def compute_dtype(config: ConfigDict) -> jnp.dtype:
    """The type a network computes in."""
    return jnp.dtype(config.lifter.compute_dtype)


def clip_of(config: ConfigDict) -> float:
    """The bound of x0, infinite where the config's is 0."""
    return config.diffusion.clip or math.inf


def chosen(option: str, name: str, choices: Mapping[str, Any]) -> Any:
    """The choice called `name`. Raises UserError listing the names there are."""
    if name not in choices:
        raise UserError(f"config.lifter.{option}: expected one of {', '.join(choices)}, found {name!r}")
    return choices[name]


def transformer_sizes(config: ConfigDict, skeleton: Skeleton) -> dict[str, Any]:
    """The fields of MixSTE that a config names."""
    names = ("frames", "width", "num_layers", "num_heads", "mlp_ratio", "drop_path")
    sizes = {name: config.lifter[name] for name in names}
    if sizes["width"] % sizes["num_heads"]:
        raise UserError(f"config.lifter.width: expected a multiple of num_heads={sizes['num_heads']}, "
                        f"found {sizes['width']}")  # fmt: skip
    return {**sizes, "num_joints": skeleton.num_joints, "dtype": compute_dtype(config)}


def poseformer_sizes(config: ConfigDict, skeleton: Skeleton) -> dict[str, Any]:
    """The fields of PoseFormer that a config names: its width is that of a joint."""
    sizes = transformer_sizes(config, skeleton)
    return {"joint_width": sizes.pop("width"), **sizes}


def graph_sizes(config: ConfigDict, skeleton: Skeleton) -> dict[str, Any]:
    """The fields of GraFormer that a config names."""
    options = {name: config.lifter[name] for name in ("width", "num_layers", "num_heads", "dropout")}
    return {"skeleton": skeleton, **options, "dtype": compute_dtype(config)}


def process_of(config: ConfigDict, predict: str | None = None) -> tuple[Schedule, Plan]:
    """The schedule and the reverse steps; predict names the only target the method is defined for."""
    diffusion = config.diffusion
    if predict is not None and diffusion.predict != predict:
        raise UserError(f"config.diffusion.predict: expected {predict!r} for {config.lifter.name}, "
                        f"found {diffusion.predict!r}")  # fmt: skip
    names = {"cosine": {"max_beta": "max_beta"}}.get(diffusion.schedule, {"start": "beta_start", "end": "beta_end"})
    schedule = make_schedule(diffusion.schedule, diffusion.steps, **{to: diffusion[name] for to, name in names.items()})
    return schedule, make_plan(diffusion, schedule)


def make_plan(diffusion: ConfigDict, schedule: Schedule) -> Plan:
    """The reverse steps a config asks for; `sampling_steps` 0 walks the whole schedule."""
    steps = diffusion.sampling_steps or diffusion.steps
    if diffusion.sampler == "ddim":
        return ddim_plan(schedule, steps, diffusion.eta, diffusion.spacing, diffusion.span or None)
    # Both forms of the posterior mean agree unless x0 is clipped; then only the first one feels it.
    mean = "x0" if diffusion.clip else "eps"
    return ddpm_plan(schedule, None if steps == diffusion.steps else steps, mean)
