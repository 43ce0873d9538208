"""Names in a config become lifters and datasets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from diffpose_jax import config as config_module
from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_clips import with_heatmaps, with_quick_mixtures
from diffpose_jax.data.detector.keypoint_noise import corrupt_clipset
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.methods import METHODS
from diffpose_jax.lifters.parts import Method
from diffpose_jax.skeleton import get_skeleton


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


def load_dataset(data: ConfigDict, splits: Sequence[str], without_mixtures: Collection[str] = ()) -> dict[str, ClipSet]:
    """The named splits of the dataset a config's `data` section describes, with the detector simulation it asks for.

    Splits `without_mixtures` need none, whatever the config says: fitting them takes its time. Raises UserError where
    the data have no mixtures and should.
    """
    if data.source == "synthetic":
        everything = load_synthetic(seed=data.synthetic_seed)
        clips = {split: everything[split] for split in splits}
    else:
        clips = load_archive(data.source, splits)
    clips = {split: part.to_layout(get_skeleton(data.layout)) for split, part in clips.items()}
    for split, part in clips.items():
        mixtures = data.mixtures and split not in without_mixtures
        # Keypoints in an archive with mixtures are those of its heatmaps.
        if data.heatmaps and part.mixture is None:
            simulated = with_quick_mixtures if mixtures else with_heatmaps
            clips[split] = simulated(part, strength=data.detector_strength or 1.0, label=split)
        elif mixtures and part.mixture is None:
            raise UserError(
                f"{data.source}: expected mixtures fitted to heatmaps in split {split}, found none; make an archive "
                "with them by `python -m diffpose_jax.prepare mixtures`"
            )
    if data.detector_strength > 0 and not data.heatmaps:
        clips = {split: corrupt_clipset(part, seed=0, strength=data.detector_strength) for split, part in clips.items()}
    return clips
