"""The base config, its validation with one-line messages, and its JSON form."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffpose_jax.errors import UserError

# What may differ between the config of a work directory and the one that continues it.
FREE_TO_CHANGE = ("name", "training.log_every", "training.keep", "training.distributed", "evaluation")


# Every key there is, with its default.
DEFAULTS = {
    "name": "",
    "seed": 0,
    "data": {
        # 'synthetic': the embedded generator. Otherwise the path of an archive made by `prepare`.
        "source": "synthetic",
        "synthetic_seed": 0,
        # The joints the lifter works on; data in another layout are mapped to it.
        "layout": "h36m17",
        "flip": True,
        # Training examples: 'centred' (a window around every frame), 'tiled' (side by side) or 'random' (as many as fit
        # side by side, each anywhere in its clip, anew every epoch; 'random_release' never takes a clip's last start).
        "windows": "centred",
        # A pattern of `data.occlusions` that hides joints in training and evaluation; rate 0: the published one.
        "occlusion": "none",
        "occlusion_rate": 0.0,
        # Strength of the detector simulation on the keypoints of every split; 0 leaves them as they are.
        "detector_strength": 0.0,
        # Keypoints of every split are the estimates of heatmaps: simulated ones (of that strength, 1 where it is 0),
        # unless the archive already holds mixtures fitted to heatmaps.
        "heatmaps": False,
        # The method needs those mixtures: they must be in the archive, or are fitted to the simulated heatmaps.
        "mixtures": False,
    },
    # What the named method takes, see `registry.METHODS`; here only what all have.
    "lifter": {"name": ""},
    # The lifter section of the frozen lifter that `lifter.context` names; training fills it in.
    "context": {},
    "diffusion": {
        # 'cosine' (betas up to max_beta), 'linear', 'linear_rescaled' or 'quadratic' (from beta_start to beta_end).
        "schedule": "cosine",
        "steps": 100,
        "max_beta": 0.999,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "predict": "eps",
        # x0 is clipped to ±clip (metres, or units of lifter.scale) in every reverse step; 0: not clipped.
        "clip": 1.0,
        "sampler": "ddpm",
        # 0: as many as the schedule has.
        "sampling_steps": 0,
        # Which of them DDIM takes, below `span` (0: of all): 'linspace', 'even' or 'quadratic'.
        "spacing": "linspace",
        "span": 0,
        "eta": 0.0,
        # Flip averaging, where evaluation asks for it: inside every reverse step, or of two whole chains.
        "flip_inside": False,
    },
    "training": {
        "steps": 10_000,
        "batch_size": 1024,
        # Steps per dispatch to the device; every `*_every` and `steps` must be a multiple of it.
        "inner_steps": 20,
        "learning_rate": 4e-5,
        # 'constant', 'cosine' (to zero at `steps`), 'exponential' (`decay_rate` all at once every `decay_every` steps:
        # Gong et al. 2023 multiply by 0.9 every 60 epochs' worth of them) or 'plateau'.
        "decay": "constant",
        "decay_rate": 0.96,
        "decay_every": 100_000,
        # On a plateau the rate is multiplied by the factor, not below the minimum, when more than `plateau_patience`
        # validations in a row did not lower the valid MPJPE by the threshold, relative to the best. 'best' judges the
        # lowest MPJPE so far instead of the 'current' one (Rommel et al. 2023, released).
        "plateau_factor": 0.5,
        "plateau_patience": 11,
        "plateau_threshold": 0.1,
        "plateau_min_rate": 0.0,
        "plateau_feed": "current",
        "warmup_steps": 0,
        # 'adam' or 'amsgrad'.
        "optimizer": "adam",
        # Of every parameter: 'decoupled' (with adam this is AdamW) or 'l2', added to the gradient.
        "weight_decay": 0.0,
        "weight_decay_kind": "decoupled",
        # Multiplies every gradient by the loss, as the releases of MixSTE and of Shan et al. 2023 do.
        "scale_by_loss": False,
        # 0: no clipping.
        "clip_norm": 0.0,
        # The moving average that is evaluated; 0: the parameters themselves. The decay is 'grown' to its value or
        # 'constant', a copy up to step `ema_start`. Choi et al. 2023 release 0.995 every 10 steps after 101; 0.9995 per
        # step is as slow.
        "ema_decay": 0.9995,
        "ema_kind": "grown",
        "ema_every": 1,
        "ema_start": 0,
        "log_every": 100,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "keep": 3,
        # About this many frames of valid, evenly spread, with this many hypotheses.
        "valid_frames": 2048,
        "valid_hypotheses": 1,
        "distributed": False,
    },
    "evaluation": {
        # A name of `evaluation.protocols`; empty: that of the benchmark whose layout the data have.
        "protocol": "",
        "hypotheses": 10,
        "flip": True,
        # Every stride-th frame of each clip.
        "stride": 1,
        # Windows per device and compiled call.
        "batch_size": 256,
    },
}


def base_config(lifter: Mapping[str, Any] | None = None) -> ConfigDict:
    """A new config of `DEFAULTS` with this lifter section; `registry.config_for` gives that of a method."""
    return ConfigDict({**DEFAULTS, "lifter": dict(lifter or DEFAULTS["lifter"])})


def flat_items(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested config as `('training.steps', 10000)`."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict):
            yield from flat_items(value, name + ".")
        else:
            yield name, value


def validate(config: ConfigDict, lifter: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Raises UserError on an unknown or missing key, a value of the wrong type, or one that makes no sense.

    lifter and context are the sections of defaults that the config's methods take; `registry.validate` knows them.
    """
    expected = dict(flat_items({**DEFAULTS, "lifter": lifter, "context": context}))
    found = dict(flat_items(config))
    for name in sorted(found.keys() - expected.keys()):
        raise UserError(f"config.{name}: unknown key; known in that place: {_neighbours(name, expected)}")
    for name in sorted(expected.keys() - found.keys()):
        raise UserError(f"config.{name}: missing (was a whole section replaced by a flag?)")
    for name, default in expected.items():
        if not _same_type(found[name], default):
            raise UserError(f"config.{name}: expected {type(default).__name__}, found {found[name]!r}")
    _validate_ranges(found)
    _validate_steps(found)
    _validate_choices(found)


def _neighbours(name: str, expected: Mapping[str, Any]) -> str:
    section = name.rpartition(".")[0]
    inside = [key.rpartition(".")[2] for key in expected if key.rpartition(".")[0] == section]
    return ", ".join(sorted(inside or {key.partition(".")[0] for key in expected}))


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


# Lowest and highest allowed value of every number that has one.
_RANGES = {
    "data.detector_strength": (0, math.inf),
    "data.occlusion_rate": (0, 0.99),
    "lifter.frames": (1, math.inf),
    "lifter.width": (1, math.inf),
    "lifter.feature_width": (1, math.inf),
    "lifter.num_layers": (1, math.inf),
    "lifter.num_heads": (1, math.inf),
    "lifter.mlp_ratio": (0.01, math.inf),
    "lifter.dropout": (0, 0.99),
    "lifter.drop_path": (0, 0.99),
    "lifter.scale": (1e-6, math.inf),
    "lifter.weight_2d": (0, math.inf),
    "diffusion.steps": (1, math.inf),
    "diffusion.sampling_steps": (0, math.inf),
    "diffusion.eta": (0, 1),
    "diffusion.clip": (0, math.inf),
    "diffusion.max_beta": (1e-9, 0.9999999),
    "diffusion.beta_start": (1e-9, 0.9999999),
    "diffusion.beta_end": (1e-9, 0.9999999),
    "diffusion.span": (0, math.inf),
    "training.steps": (1, math.inf),
    "training.batch_size": (1, math.inf),
    "training.inner_steps": (1, math.inf),
    "training.learning_rate": (1e-12, math.inf),
    "training.decay_rate": (1e-12, 1),
    "training.decay_every": (1, math.inf),
    "training.plateau_factor": (1e-6, 1),
    "training.plateau_patience": (0, math.inf),
    "training.plateau_threshold": (0, 0.999),
    "training.plateau_min_rate": (0, math.inf),
    "training.warmup_steps": (0, math.inf),
    "training.weight_decay": (0, math.inf),
    "training.clip_norm": (0, math.inf),
    "training.ema_decay": (0, 0.9999999),
    "training.ema_every": (1, math.inf),
    "training.ema_start": (0, math.inf),
    "training.keep": (1, math.inf),
    "training.valid_frames": (1, math.inf),
    "training.valid_hypotheses": (1, math.inf),
    "evaluation.hypotheses": (1, math.inf),
    "evaluation.stride": (1, math.inf),
    "evaluation.batch_size": (1, math.inf),
}


def _validate_ranges(found: Mapping[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        if name in found and not low <= found[name] <= high:  # NaN fails too
            bound = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise UserError(f"config.{name}: expected {bound}, found {found[name]}")


def _validate_steps(found: Mapping[str, Any]) -> None:
    inner = found["training.inner_steps"]
    for name in ("steps", "log_every", "validate_every", "checkpoint_every"):
        value = found[f"training.{name}"]
        if value < 1 or value % inner:
            raise UserError(
                f"config.training.{name}: expected a multiple of training.inner_steps={inner}, found {value}"
            )
    most, steps = found["diffusion.steps"], found["diffusion.sampling_steps"]
    if steps > most:
        raise UserError(f"config.diffusion.sampling_steps: expected 0 to diffusion.steps={most}, found {steps}")


_CHOICES = {
    "data.occlusion": ("none", "random", "arm_leg", "leg_gap", "frame_gap", "any"),
    "lifter.compute_dtype": ("float32", "bfloat16"),
    "diffusion.predict": ("eps", "x0", "v", "next"),
    "diffusion.sampler": ("ddpm", "ddim"),
    "diffusion.schedule": ("cosine", "linear", "linear_rescaled", "quadratic"),
    "diffusion.spacing": ("linspace", "even", "quadratic"),
    "data.windows": ("centred", "tiled", "random", "random_release"),
    "training.decay": ("constant", "cosine", "exponential", "plateau"),
    "training.plateau_feed": ("current", "best"),
    "training.optimizer": ("adam", "amsgrad"),
    "training.weight_decay_kind": ("decoupled", "l2"),
    "training.ema_kind": ("grown", "constant"),
}


def _validate_choices(found: Mapping[str, Any]) -> None:
    for name, choices in _CHOICES.items():
        if name in found and found[name] not in choices:
            raise UserError(f"config.{name}: expected one of {', '.join(choices)}, found {found[name]!r}")


def save_config(config: ConfigDict, path: str | os.PathLike) -> None:
    """Writes the resolved config as JSON, at once: another process may be reading or writing it too."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    part.replace(path)


def load_config(path: str | os.PathLike) -> ConfigDict:
    """Reads what `save_config` wrote. Raises UserError on a missing or damaged file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected the config of a trained work directory, found no such file")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: expected a JSON config, found {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return ConfigDict(content)


def first_difference(config: ConfigDict, other: ConfigDict) -> str | None:
    """The first key, in order, that differs and is not free to change between runs of one work directory, or None."""
    ours, theirs = dict(flat_items(config)), dict(flat_items(other))
    for name, value in ours.items():
        free = any(name == key or name.startswith(key + ".") for key in FREE_TO_CHANGE)
        if not free and theirs.get(name) != value:
            return name
    return None
