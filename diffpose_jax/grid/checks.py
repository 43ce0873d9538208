"""What is checked before a job begins: every work directory, every file, every choice, and the memory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax

from diffpose_jax import __version__, parallel
from diffpose_jax.data.archives import read_layouts
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import check_aggregates
from diffpose_jax.evaluation.protocols import get_protocol
from diffpose_jax.grid.job_file import Job
from diffpose_jax.grid.units import Grid, Unit
from diffpose_jax.records import digest_json, read_json_object
from diffpose_jax.skeleton import layout_matrix
from diffpose_jax.workdir.releases import locate
from diffpose_jax.workdir.seals import digest_leaves
from diffpose_jax.workdir.trained import Trained, load_trained

_GB = 1 << 30


class Planned(NamedTuple):
    """A unit that was checked.

    Attributes:
        unit: The unit.
        grid: The grid that it comes from.
        configuration: The hash of all that its numbers depend on: its fields, weights, data and version.
        lifter: The hash of its weights, config and calibration.
        data: That of its data.
        stochastic: Whether its lifter draws hypotheses.
    """

    unit: Unit
    grid: Grid
    configuration: str
    lifter: str
    data: str
    stochastic: bool


class _Opened(NamedTuple):
    """What stays of a work directory after it was opened."""

    trained: Trained
    identity: str
    stochastic: bool


def plan_job(job: Job) -> list[Planned]:
    """Checks a job and returns its units, those of supervised lifters once.

    Raises:
        UserError: The first mistake: a work directory that cannot be loaded, a file that is missing, a choice that
            makes no sense, a unit that cannot fit into memory. Nothing was measured yet.
    """
    opened: dict[str, _Opened] = {}
    planned: dict[Unit, Planned] = {}
    for unit, grid in job.units.items():
        try:
            if unit.workdir not in opened:
                opened[unit.workdir] = _open(unit.workdir)
            one = opened[unit.workdir]
            unit = unit if one.stochastic else _without_draws(unit, one.trained.config.data.occlusion)
            if unit in planned:
                continue
            data = _check_choices(unit, one.trained, grid.batch_size)
            _check_memory(unit, one.trained, grid)
        except UserError as error:
            raise UserError(f"{unit.title}: {error}") from error
        content = {"unit": unit.describe(), "workdir": one.identity, "data": data, "version": __version__}
        planned[unit] = Planned(unit, grid, digest_json(content), one.identity, data, one.stochastic)
    return list(planned.values())


def _without_draws(unit: Unit, occlusion: str) -> Unit:
    """The unit of a supervised lifter: hypotheses and their steps are nothing to it, `occlusion` is its own."""
    seed = unit.seed if (unit.occlusion or occlusion) != "none" else None
    return dataclasses.replace(unit, hypotheses=None, steps=None, seed=seed, aggregations=None)


def _open(workdir: str) -> _Opened:
    trained = load_trained(workdir)
    # The weights are let go of: a job may have more work directories than fit into memory.
    return _Opened(trained._replace(variables={}), identify_lifter(workdir, trained), trained.lifter.stochastic)


def identify_lifter(workdir: str, trained: Trained) -> str:
    """The hash of what a work directory was loaded with: config, weights and calibration."""
    calibration = locate(workdir) / "calibration.json"
    content = {
        "config": trained.config.to_dict(),
        "step": trained.step,
        "leaves": digest_leaves(trained.variables),
        "calibration": read_json_object(calibration) if calibration.is_file() else None,
    }
    return digest_json(content)


def _check_choices(unit: Unit, trained: Trained, batch_size: int | None) -> str:
    """Checks what a unit chooses; returns the identity of its data."""
    evaluation = unit.evaluation(batch_size)
    evaluation.check(trained)
    check_aggregates(unit.aggregations or ())
    data = evaluation.data_section(trained.config)
    if unit.protocol:
        get_protocol(unit.protocol)
    if data.source != "synthetic":
        layouts = read_layouts(data.source)
        if unit.split not in layouts:
            raise UserError(f"{data.source}: expected split '{unit.split}', found {', '.join(layouts)}")
        layout_matrix(layouts[unit.split], trained.lifter.skeleton)
    return identify_data(data.source)


def identify_data(source: str) -> str:
    """The hash of an archive; 'synthetic' is its own. Raises UserError where the file is gone."""
    if source == "synthetic":
        return source
    try:
        state = os.stat(source)
        return _digest_file(source, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=256)
def _digest_file(path: str, size: int, changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_memory(unit: Unit, trained: Trained, grid: Grid) -> None:
    """Raises UserError where the least that a unit needs is more than there is."""
    evaluation = unit.evaluation(grid.batch_size)
    source = evaluation.data_section(trained.config).source
    host = 0 if source == "synthetic" else 2 * _unpacked_size(source, unit.split)
    job = evaluation.make_job(trained)
    # One window's hypotheses are there as samples, as what they become in a reverse step, and sorted for the scores.
    poses = job.sampling.hypotheses * trained.lifter.frames * trained.lifter.skeleton.num_joints * 3 * 4
    device = 3 * job.batch_size * poses
    free = _free_device_memory()
    if free is None:
        host, device = host + parallel.local_device_count() * device, 0
    for need, have, what in ((host, _free_host_memory(), "host"), (device, free, "device")):
        if have is not None and need > have:
            raise UserError(f"memory of the {what}: expected at least {need / _GB:.1f} GB, found {have / _GB:.1f} GB; "
                            "try a smaller batch_size or fewer hypotheses")  # fmt: skip


def _unpacked_size(path: str, split: str) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist() if info.filename.startswith(f"{split}/"))


def _free_host_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1024 * (found["MemAvailable"] + found.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _free_device_memory() -> int | None:
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(limit) - int(stats.get("bytes_in_use", 0))
