"""Names in a config become lifters and datasets: which options each method has, and how it is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffpose_jax import config as config_module
from diffpose_jax.data.clips import ClipSet, load_archive
from diffpose_jax.data.corruptions import corrupt_clipset
from diffpose_jax.data.synthetic import load_synthetic
from diffpose_jax.diffusion.samplers import Plan, ddim_plan, ddpm_plan
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.diffupose import diffupose
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.pose_losses import distance_and_absolute, squared_and_absolute
from diffpose_jax.lifters.supervised import supervised
from diffpose_jax.models.modulated_gcn import VARIANTS, DiffuPoseDenoiser, ModulatedGCN
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import Skeleton, get_skeleton

POSE_LOSSES = {"squared_and_absolute": squared_and_absolute, "distance_and_absolute": distance_and_absolute}

Builder = Callable[[ConfigDict, Skeleton, str | None], Lifter]


class Method(NamedTuple):
    """A method: how it is built, its options with their defaults, and the diffusion settings it was published with."""

    build: Builder
    options: Mapping[str, Any]
    diffusion: Mapping[str, Any] = {}


def config_for(name: str) -> ConfigDict:
    """The base config with the options and diffusion settings of the method called `name`."""
    method = _method(name)
    config = config_module.base_config({"name": name, **method.options})
    config.diffusion.update(method.diffusion)
    return config


def validate(config: ConfigDict) -> None:
    """Raises UserError with one clear line on anything in a config that is unknown, missing or makes no sense."""
    lifter, context = (_defaults_of(config.get(section)) for section in ("lifter", "context"))
    config_module.validate(config, lifter or config_module.DEFAULTS["lifter"], context)


def build_lifter(config: ConfigDict, axis_name: str | None = None) -> Lifter:
    """The lifter a config describes; `axis_name` is the device axis over which batch statistics are averaged."""
    return _method(config.lifter.name).build(config, get_skeleton(config.data.layout), axis_name)


def _defaults_of(section: Any) -> dict[str, Any]:
    if not isinstance(section, ConfigDict) or not section:
        return {}
    return {"name": "", **_method(section.get("name", "")).options}


def _method(name: str) -> Method:
    if name not in METHODS:
        raise UserError(f"config.lifter.name: expected one of {', '.join(METHODS)}, found {name!r}")
    return METHODS[name]


def build_context(config: ConfigDict) -> Lifter:
    """The frozen lifter that a config's `context` section describes. Raises UserError where it cannot serve as one."""
    if not config.context:
        raise UserError(
            "config.lifter.context: expected the work directory of a trained lifter (mixste, graformer, ...), found "
            f"{config.lifter.context!r}; train or convert one first"
        )
    inner = ConfigDict(config.to_dict())
    inner.lifter, inner.context = config.context, ConfigDict()
    lifter = build_lifter(inner)
    if lifter.features is None:
        raise UserError(f"config.lifter.context: expected a supervised lifter, found {config.context.name}")
    return lifter


# --- supervised lifters


def _supervised(config: ConfigDict, skeleton: Skeleton, network: nn.Module, **options: Any) -> Lifter:
    lifter = config.lifter
    if lifter.loss not in POSE_LOSSES:
        raise UserError(f"config.lifter.loss: expected one of {', '.join(POSE_LOSSES)}, found {lifter.loss!r}")
    return supervised(network, skeleton, POSE_LOSSES[lifter.loss], **options)


def _modulated_gcn(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    given = {name: options[name] for name in ("width", "num_layers", "dropout")}
    network = ModulatedGCN(
        skeleton=skeleton,
        axis_name=axis_name,
        dtype=_dtype(config),
        **{**_choice("variant", options.variant, VARIANTS), **given},
    )
    return _supervised(config, skeleton, network)


# --- diffusion lifters


def _diffupose(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = _choice("variant", options.variant, {"gcn": DiffuPoseDenoiser, "unet": UNetDenoiser})(
        skeleton=skeleton,
        width=options.width,
        num_layers=options.num_layers,
        dropout=options.dropout,
        axis_name=axis_name,
        dtype=_dtype(config),
    )
    return diffupose(
        network,
        skeleton,
        *_process(config),
        predict=config.diffusion.predict,
        clip=config.diffusion.clip,
        weight_2d=options.weight_2d,
        joint_weights=joint_weights(options.joint_weights, skeleton),
    )


# --- shared parts of the builders


def _dtype(config: ConfigDict) -> jnp.dtype:
    return jnp.dtype(config.lifter.compute_dtype)


def _choice(option: str, name: str, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise UserError(f"config.lifter.{option}: expected one of {', '.join(choices)}, found {name!r}")
    return choices[name]


def _process(config: ConfigDict, predict: str | None = None) -> tuple[Schedule, Plan]:
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
    return ddpm_plan(schedule, None if steps == diffusion.steps else steps)


_SUPERVISED = {"loss": "mpjpe", "joint_weights": "uniform", "scale_by_loss": False, "compute_dtype": "float32"}

METHODS: dict[str, Method] = {
    "diffupose": Method(
        _diffupose,
        {"variant": "gcn", "width": 384, "num_layers": 4, "dropout": 0.0, "weight_2d": 0.8,
         "joint_weights": "limb_ends", "compute_dtype": "float32"},
    ),
    "modulated_gcn": Method(
        _modulated_gcn,
        {**_SUPERVISED, "variant": "gt", "width": 128, "num_layers": 4, "dropout": 0.0, "loss": "squared_and_absolute"},
    ),
}  # fmt: skip


def load_dataset(data: ConfigDict, splits: Sequence[str]) -> dict[str, ClipSet]:
    """The named splits of the dataset a config's `data` section describes, with the detector simulation it asks for."""
    if data.source == "synthetic":
        everything = load_synthetic(seed=data.synthetic_seed)
        clips = {split: everything[split] for split in splits}
    else:
        clips = load_archive(data.source, splits)
    clips = {split: part.converted(get_skeleton(data.layout)) for split, part in clips.items()}
    if data.detector_strength > 0:
        clips = {split: corrupt_clipset(part, seed=0, strength=data.detector_strength) for split, part in clips.items()}
    return clips
