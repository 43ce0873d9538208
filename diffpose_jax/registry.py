"""Names in a config become lifters and datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from diffpose_jax.data.clips import ClipSet, load_archive
from diffpose_jax.data.corruptions import corrupt_clipset
from diffpose_jax.data.synthetic import load_synthetic
from diffpose_jax.diffusion.samplers import Plan, ddim_plan, ddpm_plan
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.diffupose import diffupose
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.supervised import distance_and_absolute, squared_and_absolute, supervised
from diffpose_jax.models.modulated_gcn import VARIANTS, DiffuPoseDenoiser, ModulatedGCN
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import Skeleton, get_skeleton


def build_lifter(config: ConfigDict, axis_name: str | None = None) -> Lifter:
    """The lifter a config describes; `axis_name` is the device axis over which batch statistics are averaged."""
    skeleton = get_skeleton(config.data.layout)
    builder = LIFTERS.get(config.lifter.name)
    if builder is None:
        raise UserError(f"config.lifter.name: expected one of {', '.join(LIFTERS)}, found {config.lifter.name!r}")
    return builder(config, skeleton, axis_name)


def _diffupose(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    networks = {"gcn": DiffuPoseDenoiser, "unet": UNetDenoiser}
    if options.variant not in networks:
        raise UserError(f"config.lifter.variant: expected one of {', '.join(networks)}, found {options.variant!r}")
    network = networks[options.variant](
        skeleton=skeleton,
        width=options.width,
        num_layers=options.num_layers,
        dropout=options.dropout,
        axis_name=axis_name,
        dtype=jnp.dtype(options.compute_dtype),
    )
    schedule = make_schedule(config.diffusion.schedule, config.diffusion.steps)
    return diffupose(
        network,
        skeleton,
        schedule,
        make_plan(config.diffusion, schedule),
        predict=config.diffusion.predict,
        clip=config.diffusion.clip,
        weight_2d=options.weight_2d,
        joint_weights=joint_weights(options.joint_weights, skeleton),
    )


def _modulated_gcn(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    if options.variant not in VARIANTS:
        raise UserError(f"config.lifter.variant: expected one of {', '.join(VARIANTS)}, found {options.variant!r}")
    network = ModulatedGCN(
        skeleton=skeleton,
        axis_name=axis_name,
        dtype=jnp.dtype(options.compute_dtype),
        **{
            **VARIANTS[options.variant],
            "width": options.width,
            "num_layers": options.num_layers,
            "dropout": options.dropout,
        },
    )
    pose_loss = squared_and_absolute if options.variant == "gt" else distance_and_absolute
    return supervised(network, skeleton, pose_loss)


LIFTERS: dict[str, Callable[[ConfigDict, Skeleton, str | None], Lifter]] = {
    "diffupose": _diffupose,
    "modulated_gcn": _modulated_gcn,
}


def make_plan(diffusion: ConfigDict, schedule: Schedule) -> Plan:
    """The reverse steps a config asks for; `sampling_steps` 0 walks the whole schedule."""
    steps = diffusion.sampling_steps or diffusion.steps
    if diffusion.sampler == "ddim":
        return ddim_plan(schedule, steps, diffusion.eta)
    return ddpm_plan(schedule, None if steps == diffusion.steps else steps)


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
