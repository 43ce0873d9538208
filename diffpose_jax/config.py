"""Options as data: documented dataclass fields from which config sections, defaults, validation and messages derive.

A section of a config is a frozen dataclass that inherits from `Options` and whose fields are made by `option`. What a
field's metadata says is all there is to know of it: the sections of the config (`diffpose_jax.sections`), those of the
methods (`diffpose_jax.lifters`), their defaults, the checks and the reference in the documentation are made from it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import typing
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from diffpose_jax.errors import UserError
from diffpose_jax.records import read_json_object
from diffpose_jax.whole_files import write_text

FORMAT = "diffpose_jax config 1"

# What may differ between the config of a work directory and the one that continues it.
FREE_TO_CHANGE = ("name", "training.log_every", "training.keep", "training.distributed", "training.non_finite",
                  "training.skips_in_a_row", "evaluation")  # fmt: skip

# Keys of configs that were saved by version 0.1, and where their values stand now.
MOVED_KEYS = {
    "diffusion.flip_inside": "lifter.flip_inside",
    "diffusion.span": "diffusion.num_timesteps",
    "lifter.released_weight": "lifter.weight_release",
    "lifter.released_eps": "lifter.eps_release",
    "lifter.assignment": "lifter.component",
}
# Values that options had before, and what they are called now.
MOVED_VALUES: dict[str, dict[Any, str]] = {
    "lifter.component": {"posterior": "responsibility", "prior": "weight"},
    "evaluation.flip": {True: "average", False: "none", "true": "average", "false": "none"},
}


class OptionError(UserError):
    """An option's value that makes no sense: 'key: expected ..., found ...'."""

    def __init__(self, key: str, expected: str, found: object):
        super().__init__(f"{key}: expected {expected}, found {found!r}")


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    unit: str = "",
    source: str = "",
) -> Any:
    """A field of an `Options` dataclass; the choices of a word are those of its `Literal` type.

    Args:
        default: The value where a config does not say otherwise; its source is the paper's unless `source` says more.
        doc: What the option is, one sentence without a full stop.
        low: Least value of a number.
        high: Greatest value of a number.
        above: A bound that a number has to exceed.
        unit: The unit of a number, such as 'm' or 'frames'.
        source: Where the default comes from: a paper's section, a release's file, a measurement.
    """
    metadata = {"doc": doc, "low": low, "high": high, "above": above, "unit": unit, "source": source}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """The base of all sections: checks types, choices and ranges wherever one is made. Raises OptionError."""

    def __post_init__(self) -> None:
        # To mypy the __hash__ of the instances stands in the way of that of the class.
        hints = _hints(type(self))  # type: ignore[arg-type]
        for field in dataclasses.fields(self):
            hint, value = hints[field.name], getattr(self, field.name)
            _check_value(field, hint, value)
            if hint is float:  # a whole number is one too, but JAX takes its type for that of the result
                object.__setattr__(self, field.name, float(value))
        self.check()

    def check(self) -> None:
        """Raises OptionError where options do not fit together; a subclass says which must."""


Section = TypeVar("Section", bound=Options)


@cache
def _hints(section: type[Options]) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _check_value(field: dataclasses.Field, hint: Any, value: object) -> None:
    choices = typing.get_args(hint)
    if choices:
        if value not in choices:
            raise OptionError(field.name, f"one of {', '.join(choices)}", value)
        return
    accepted = (int, float) if hint is float else (hint,)
    # True is an int to Python, and never what somebody means who gives a number of steps.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise OptionError(field.name, hint.__name__, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(field.name, field.metadata, value)


def _check_range(name: str, bounds: Mapping[str, Any], value: float) -> None:
    low, high, above = bounds.get("low"), bounds.get("high"), bounds.get("above")
    inside = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    if inside and math.isfinite(value):  # NaN fails here too
        return
    parts = [f"above {above}"] if above is not None else [f"at least {low}"] if low is not None else []
    parts += [f"at most {high}"] if high is not None else []
    raise OptionError(name, " and ".join(parts) or "a finite number", value)


def read_options(section: type[Section], found: Mapping[str, Any] | ConfigDict, where: str) -> Section:
    """The typed options that a section of a config holds.

    Args:
        section: The dataclass of the section.
        found: The section's keys and values; `name`, where a lifter's section has one, is not an option.
        where: The section's place, as in 'lifter', for messages.

    Raises:
        UserError: A key is unknown or missing, or a value has the wrong type or makes no sense.
    """
    known = {field.name for field in dataclasses.fields(section)}
    values = {key: found[key] for key in found if key != "name"}
    for key in sorted(values.keys() - known):
        raise UserError(f"config.{where}.{key}: unknown key; known in that place: {', '.join(sorted(known))}")
    for key in sorted(known - values.keys()):
        raise UserError(f"config.{where}.{key}: missing (was a whole section replaced by a flag?)")
    try:
        return section(**values)
    except OptionError as error:
        raise UserError(f"config.{where}.{error}") from None


def flat_items(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested config as `('training.steps', 10000)`."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict):
            yield from flat_items(value, name + ".")
        else:
            yield name, value


def copy_config(config: ConfigDict, **sections: Mapping[str, Any]) -> ConfigDict:
    """A config of its own with some values changed: `copy_config(config, evaluation={"stride": 5})`."""
    copy = ConfigDict(config.to_dict())
    for name, values in sections.items():
        copy[name].update(values)
    return copy


def save_config(config: ConfigDict, path: str | os.PathLike) -> None:
    """Writes the resolved config as JSON, at once: another process may be reading or writing it too."""
    write_text(Path(path), json.dumps({"format": FORMAT, **config.to_dict()}, indent=2) + "\n")


def load_config(path: str | os.PathLike) -> ConfigDict:
    """Reads what `save_config` wrote, also that of earlier versions. Raises UserError on a missing or damaged file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected the config of a trained work directory, found no such file")
    try:
        content = read_json_object(path)
        if content.pop("format", FORMAT) != FORMAT:
            raise UserError(f"{path}: expected the format {FORMAT!r}, found another; a later release made it")
        return ConfigDict(_move_keys(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # keys with dots, sections that are none
        raise UserError(f"{path}: expected a JSON config, found {type(error).__name__}: {error}") from error


def _move_keys(content: dict[str, Any]) -> dict[str, Any]:
    """A config of an earlier version in the keys and values of today; what only some methods take now is dropped from
    the others.
    """
    lifter = content.get("lifter")
    takes_flips = isinstance(lifter, dict) and lifter.get("name") in ("d3dp", "diff3dhpe")
    for old, new in MOVED_KEYS.items():
        (old_section, old_key), (new_section, new_key) = old.split("."), new.split(".")
        section = content.get(old_section)
        if not isinstance(section, dict) or old_key not in section:
            continue
        value = section.pop(old_key)
        if new_key != "flip_inside" or takes_flips:
            content[new_section].setdefault(new_key, value)
    for name in MOVED_VALUES:
        section_name, key = name.split(".")
        section = content.get(section_name)
        if isinstance(section, dict) and key in section:
            section[key] = current_value(name, section[key])
    return content


def current_value(name: str, value: Any) -> Any:
    """The value of the option `name`, such as 'evaluation.flip', where an earlier version called it `value`."""
    old = value.lower() if isinstance(value, str) else value
    known = MOVED_VALUES.get(name, {})
    # A list or a number is no value of before; True equals 1 to a dict.
    return known.get(old, value) if isinstance(old, str | bool) else value


def first_difference(config: ConfigDict, other: ConfigDict, free: Collection[str] = ()) -> str | None:
    """The first key, in order, that differs and is not free to change between runs of one work directory, or None.

    Those in `FREE_TO_CHANGE` are free, and those in `free`.
    """
    ours, theirs = dict(flat_items(config)), dict(flat_items(other))
    for name, value in ours.items():
        may_change = any(name == key or name.startswith(key + ".") for key in (*FREE_TO_CHANGE, *free))
        if not may_change and theirs.get(name) != value:
            return name
    return None
