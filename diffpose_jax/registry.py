"""Tables of names: methods and data sets. What a config names becomes lifters and clips."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffpose_jax.config import read_options
from diffpose_jax.data.archives import load_archive, read_layouts
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.error_model import CPN_LIKE
from diffpose_jax.data.detector.heatmap_clips import detect_in_heatmaps, fit_quick_mixtures
from diffpose_jax.data.detector.keypoint_noise import add_keypoint_noise
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import ContextLifter, Lifter
from diffpose_jax.lifters.cross_fitted import CrossFitted
from diffpose_jax.lifters.d3dp import D3DP
from diffpose_jax.lifters.diff3dhpe import Diff3DHPE
from diffpose_jax.lifters.diffhpe import DiffHPE
from diffpose_jax.lifters.diffpose.method import DiffPose
from diffpose_jax.lifters.diffpose.release import DiffPoseRelease
from diffpose_jax.lifters.diffupose import DiffuPose
from diffpose_jax.lifters.mixture_density import MixtureDensity
from diffpose_jax.lifters.person_centred import with_view
from diffpose_jax.lifters.supervised import (
    GraFormerLifter,
    MixSTELifter,
    ModulatedGCNLifter,
    PoseFormerLifter,
    ResidualMLPLifter,
)
from diffpose_jax.sections import SECTIONS
from diffpose_jax.skeleton import Skeleton, get_skeleton

METHODS: dict[str, type[Lifter]] = {
    "diffpose": DiffPose,
    "diffpose_release": DiffPoseRelease,
    "diffupose": DiffuPose,
    "diffhpe": DiffHPE,
    "diff3dhpe": Diff3DHPE,
    "d3dp": D3DP,
    "mixture_density": MixtureDensity,
    "mixste": MixSTELifter,
    "poseformer": PoseFormerLifter,
    "graformer": GraFormerLifter,
    "modulated_gcn": ModulatedGCNLifter,
    "residual_mlp": ResidualMLPLifter,
}


class DataSet(NamedTuple):
    """A data set that configs know by name: its 2D inputs (or targets), the first one the default, and its layout."""

    inputs: tuple[str, ...] = ()
    layout: str = "h36m17"


DATA_SETS: dict[str, DataSet] = {
    "synthetic": DataSet(),
    "cmu": DataSet(),
    "mocap": DataSet(),
    "human36m": DataSet(("gt", "cpn", "hr")),
    "mpi_inf_3dhp": DataSet(("annot3", "univ_annot3"), "mpi_inf_3dhp17"),
    "humaneva": DataSet(("gt", "cpn"), "humaneva15"),
}


def get_method(name: object) -> type[Lifter]:
    """The method of a name in `METHODS`, or of an import path such as 'mypackage.mymethod'.

    A path leads to the class itself, or to a module that names it `METHOD`. Raises UserError where there is none.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    expected = f"config.lifter.name: expected one of {', '.join(METHODS)}, or the import path of a method"
    if not isinstance(name, str) or "." not in name:
        raise UserError(f"{expected}, found {name!r}")
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{expected}, found {name!r}: {error}") from error
    found = getattr(found, "METHOD", found)
    if not isinstance(found, type) or not all(hasattr(found, part) for part in ("options_type", "build", "loss")):
        raise UserError(f"{expected}, found {name!r}, which has no options_type, build and loss")
    return found


def config_for(name: str) -> ConfigDict:
    """The base config with the options and diffusion settings of a method, by its name or import path."""
    return complete_config(ConfigDict({"lifter": {"name": name}}))


def complete_config(config: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    """A config with the defaults of what it does not say: sections, options, diffusion settings of its method.

    For configs that name just their method, and for those that were saved before an option existed.
    """
    given = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    lifter = _lifter_section(given.get("lifter", {}), "lifter")
    method = get_method(lifter["name"])
    defaults: dict[str, Any] = {"name": "", "seed": 0, "context": {}}
    defaults |= {name: dataclasses.asdict(section()) for name, section in SECTIONS.items()}
    defaults |= {"lifter": lifter, "diffusion": dataclasses.asdict(method.diffusion)}
    if given.get("context"):
        defaults["context"] = _lifter_section(given["context"], "context")
    for name, value in given.items():
        both = isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        defaults[name] = {**defaults[name], **value} if both else value
    return ConfigDict(defaults)


def _lifter_section(given: object, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"config.{where}: expected a section, found {given!r}")
    name = given.get("name", "")
    return {"name": name, **dataclasses.asdict(get_method(name).options_type())}


def validate(config: ConfigDict) -> None:
    """Raises UserError with one clear line on anything in a config that is unknown, missing or makes no sense."""
    known = {"name", "seed", "lifter", "context", *SECTIONS}
    for key in sorted(set(config) ^ known):
        found = "unknown key" if key in config else "missing"
        raise UserError(f"config.{key}: {found}; known in that place: {', '.join(sorted(known))}")
    kinds = {"name": ("str", str), "seed": ("int", int)}
    for key in known:
        expected, kind = kinds.get(key, ("a section", ConfigDict))
        if not isinstance(config[key], kind) or isinstance(config[key], bool):
            raise UserError(f"config.{key}: expected {expected}, found {config[key]!r}")
    for key in ("lifter", "context") if config.context else ("lifter",):
        options = {name: value for name, value in config[key].items() if (key, name) != ("context", "folds")}
        read_options(get_method(config[key].get("name")).options_type, options, key)
    for name, section in SECTIONS.items():
        read_options(section, config[name], name)


def build_lifter(config: ConfigDict, axis_name: str | None = None) -> Lifter:
    """The lifter that a config describes; `axis_name` is the device axis over which batch statistics are averaged."""
    method, skeleton = get_method(config.lifter.name), get_skeleton(config.data.layout)
    context: ContextLifter | None = None
    if method.needs_context or config.lifter.get("context"):
        context = _build_context(config)
    return with_view(method.build(config, skeleton, context, axis_name), config.data.view)


def _build_context(config: ConfigDict) -> ContextLifter:
    """The frozen lifter that a config's `context` section describes. Raises UserError where it cannot serve as one."""
    if not config.context:
        raise UserError(
            "config.lifter.context: expected the work directory of a trained lifter (mixste, graformer, ...), found "
            f"{config.lifter.context!r}; train or convert one first"
        )
    section = config.context.to_dict()
    folds = section.pop("folds", [])
    inner = ConfigDict({**config.to_dict(), "lifter": section, "context": {}})
    inner.data.view = "screen"  # it is given what its method sees
    unfit = UserError(f"config.lifter.context: expected a supervised lifter, found {config.context.name}")
    if not hasattr(get_method(config.context.name), "features"):
        raise unfit
    context = build_lifter(inner)
    if context.stochastic or not isinstance(context, ContextLifter):
        raise unfit
    # The wrapper has the methods of what it wraps.
    return CrossFitted(context, len(folds)) if folds else context  # type: ignore[return-value]


def load_source(data: ConfigDict, splits: Sequence[str], optional: Collection[str] = ()) -> dict[str, ClipSet]:
    """The named splits of a config's `data.source` as they are there: in their own layout, with their own keypoints.

    Those that are `optional` may be missing.
    """
    if data.source == "synthetic":
        everything = load_synthetic(seed=data.synthetic_seed)
        return {split: everything[split] for split in splits}
    return load_archive(data.source, splits, optional)


def source_layout(data: ConfigDict, split: str) -> Skeleton:
    """The joint layout that one split of a config's `data.source` has there. Raises UserError where it has none."""
    if data.source == "synthetic":
        return get_skeleton("h36m17")
    layouts = read_layouts(data.source)
    if split not in layouts:
        raise UserError(f"{data.source}: expected split '{split}', found {', '.join(layouts)}")
    return layouts[split]


def load_dataset(
    data: ConfigDict, splits: Sequence[str], without_mixtures: Collection[str] = (), optional: Collection[str] = ()
) -> dict[str, ClipSet]:
    """The named splits of the dataset a config's `data` section describes, with the detector simulation it asks for.

    Args:
        data: The section.
        splits: Their names.
        without_mixtures: Those that need no mixtures, whatever the config says: fitting them takes its time.
        optional: Those that may be missing.

    Raises:
        UserError: The data cannot be read, have not all splits, or no mixtures and should.
    """
    clips = load_source(data, splits, optional)
    clips = {split: part.to_layout(get_skeleton(data.layout)) for split, part in clips.items()}
    for split, part in clips.items():
        mixtures = data.mixtures and split not in without_mixtures
        # Keypoints in an archive with mixtures are those of its heatmaps.
        if data.heatmaps and part.mixture is None:
            simulated = fit_quick_mixtures if mixtures else detect_in_heatmaps
            clips[split] = simulated(part, strength=data.detector_strength or 1.0, label=split)
        elif mixtures and part.mixture is None:
            raise UserError(
                f"{data.source}: expected mixtures fitted to heatmaps in split {split}, found none; make an archive "
                "with them by `python -m diffpose_jax.prepare mixtures`"
            )
    if data.detector_strength > 0 and not data.heatmaps:
        settings = CPN_LIKE._replace(strength=data.detector_strength, bias=data.detector_bias)
        # Examples that are filmed anew are detected anew too (`data.augmentation`).
        exact = ("train",) if data.cameras == "random" else ()
        clips = {
            split: part if split in exact else add_keypoint_noise(part, 0, settings) for split, part in clips.items()
        }
    return clips
