"""What `calibrate` found, as it is kept in a work directory: temperature, scales of the spread, conformal regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from diffpose_jax.errors import UserError
from diffpose_jax.lifters.scales import KINDS, Scales
from diffpose_jax.records import read_record, write_record

CALIBRATION = "calibration.json"
# Probabilities of the regions that are measured and fitted.
LEVELS = (0.5, 0.9)


class Regions(NamedTuple):
    """Conformal regions: balls around the mean of the hypotheses.

    Attributes:
        factors: For each of `LEVELS` one factor per joint, `[L][J]`.
        floor: What is added to the spread, m.
        guarantee: Of whom it is, 'subjects' or 'most_subjects' (`evaluation.conformal`).
        hidden: For each of `LEVELS` the factor of joints that were not seen, whichever they are; None where they have
            that of their joint.
    """

    factors: tuple[tuple[float, ...], ...]
    floor: float
    guarantee: str
    hidden: tuple[float, ...] | None = None

    def radii(self, spread: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
        """The radii `[..., L, J]`, m, of joints with this standard deviation of the hypotheses `[..., J]`, m.

        Which joints were seen is told by `seen`, bool `[..., J]`; all of them without it.
        """
        factors = np.asarray(self.factors, np.float32)
        if self.hidden is not None and seen is not None:
            own = np.asarray(self.hidden, np.float32)[:, None]
            # The root has a factor of 0, hidden or not: it is always right.
            factors = np.where(np.asarray(seen)[..., None, :] | (factors == 0), factors, own)
        return factors * (np.asarray(spread)[..., None, :] + np.float32(self.floor))


class Calibration(NamedTuple):
    """The calibration of a trained lifter.

    Attributes:
        step: The step of the variables that it is of.
        temperature: The temperature of the noise.
        scales: Factors of the spread after sampling, None where there are none.
        regions: The conformal regions, None where there are none.
        hypotheses: How many hypotheses it was fitted with; 0 where the file does not say it.
        errors: The lower Cholesky factor of the covariance that the errors of the hypotheses' mean have, `[D, D]` m,
            D = 3 (J - 1), None where there were too few frames.
        diffusion: The reverse steps that were chosen, as values of the config's section; empty where none were.
    """

    step: int
    temperature: float = 1.0
    scales: Scales | None = None
    regions: Regions | None = None
    hypotheses: int = 0
    errors: np.ndarray | None = None
    diffusion: Mapping[str, Any] = MappingProxyType({})

    def describe(self) -> str:
        """In words, as in 'calibrated temperature 1.57, calibrated scales of the spread'."""
        parts = [f"calibrated temperature {self.temperature:.2f}"] if self.temperature != 1 else []
        parts += ["calibrated scales of the spread"] if self.scales is not None else []
        parts += [f"{self.diffusion['sampling_steps']} chosen reverse steps"] if self.diffusion else []
        return ", ".join(parts or ["calibrated"])


def write_calibration(workdir: Path, found: Mapping[str, Any]) -> Path:
    """Writes the record of a calibration, replacing an earlier one; returns its path."""
    path = workdir / CALIBRATION
    write_record(path, "calibration", found, indent=2)
    return path


def read_calibration(workdir: Path, step: int, joints: int) -> Calibration | None:
    """The record in a work directory; None where there is none, or where it was made for another step.

    Records of versions that knew the temperature alone are read too.

    Args:
        workdir: The work directory.
        step: The step of its best variables.
        joints: The number of joints J.

    Raises:
        UserError: A file that is not such a record, or with values that are not finite and positive.
    """
    path = workdir / CALIBRATION
    if not path.exists():
        return None
    try:
        record = _parse(read_record(path, "calibration"), joints)
    except (UserError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: expected a file written by calibrate, found {what}; remove it") from error
    if record.step != step:
        logging.warning("%s is of step %d, the best is %d now: not used; calibrate again", path, record.step, step)
        return None
    return record


def _parse(found: Mapping[str, Any], joints: int) -> Calibration:
    scales, regions = found.get("scales"), found.get("regions")
    scales = None if scales is None else _parse_scales(scales, joints)
    regions = None if regions is None else _parse_regions(regions, joints)
    temperature, errors = _numbers([found["temperature"]], "temperature")[0], found.get("errors")
    errors = None if errors is None else _unpack_factor(errors, 3 * (joints - 1))
    (step,), (hypotheses,) = (_numbers([found.get(name, 0)], name, least=0.0) for name in ("step", "hypotheses"))
    diffusion = _parse_diffusion(found.get("diffusion") or {})
    return Calibration(int(step), temperature, scales, regions, int(hypotheses), errors, diffusion)


def _parse_diffusion(found: Any) -> Mapping[str, Any]:
    if not found:
        return MappingProxyType({})
    sampler, steps = found["sampler"], found["sampling_steps"]
    if sampler not in ("ddim", "ddpm") or type(steps) is not int or steps < 1:
        raise ValueError(f"diffusion: {sampler!r} with {steps!r} steps")
    return {"sampler": sampler, "sampling_steps": steps}


def _parse_scales(found: Any, joints: int) -> Scales:
    kinds = found["kinds"]
    # Earlier records have one kind of all hidden joints.
    factors = [kinds["hidden" if kind == "hidden_limb" and kind not in kinds else kind] for kind in KINDS]
    own, hidden = _numbers(found["joints"], "scales", joints), found.get("hidden")
    (tail,) = _numbers([found.get("tail", 0.0)], "tail", least=0.0)
    return Scales(own, _numbers(factors, "scales"), _numbers(hidden, "scales", joints) if hidden else (), tail)


def _parse_regions(found: Any, joints: int) -> Regions:
    levels = [str(level) for level in LEVELS]
    # A factor of 0 is that of a joint that is always right, as the root is.
    factors = tuple(_numbers(found["factors"][level], "regions", joints, least=0.0) for level in levels)
    floor, guarantee, hidden = _numbers([found["floor_m"]], "floor_m")[0], str(found["guarantee"]), found.get("hidden")
    common = None if hidden is None else _numbers([hidden[level] for level in levels], "regions")
    return Regions(factors, floor, guarantee, common)


def pack_factor(factor: np.ndarray) -> list[float]:
    """The lower triangle of a Cholesky factor `[D, D]` (m), row after row, to the micrometre."""
    return np.round(factor[np.tril_indices(len(factor))], 6).tolist()


def _unpack_factor(values: Sequence[Any], size: int) -> np.ndarray:
    numbers = _numbers(values, "errors", least=-math.inf)
    if len(numbers) != size * (size + 1) // 2:
        raise ValueError(f"errors of {len(numbers)} numbers instead of {size * (size + 1) // 2}")
    factor = np.zeros((size, size))
    factor[np.tril_indices(size)] = numbers
    return factor


def _numbers(
    values: Sequence[Any], name: str, count: int | None = None, least: float | None = None
) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if count is not None and len(numbers) != count:
        raise ValueError(f"{name} of {len(numbers)} joints instead of {count}")
    for number in numbers:
        # No error of a pose is as large, and squares of what is larger are infinite.
        if not abs(number) <= 1e6 or (number <= 0 if least is None else number < least):
            raise ValueError(f"{name}: {number}")
    return numbers
