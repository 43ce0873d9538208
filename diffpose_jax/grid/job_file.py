"""Job files: `get_job()` of a Python file, or a YAML file with the fields of a grid."""

from __future__ import annotations

import dataclasses
import os
import runpy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffpose_jax.errors import UserError
from diffpose_jax.grid.units import Comparison, Grid, Unit

_DEEPEST = 20


@dataclasses.dataclass(frozen=True)
class Job:
    """The units of all grids of a job file, and what the summary compares.

    Attributes:
        units: Each unit once, with the grid that it comes from.
        comparisons: Those of all grids.
    """

    units: Mapping[Unit, Grid]
    comparisons: Sequence[Comparison]


def read_job(path: str | os.PathLike) -> Job:
    """The job that a file describes.

    A Python file is the user's own program: its `get_job()` returns a `Grid` or a list of them. A YAML file executes
    nothing; it holds the fields of a grid, or a list of such.

    Raises:
        UserError: The file is missing, is neither, or describes no grid.
    """
    path = Path(path)
    if path.suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"--job {path}: expected a file that ends in .py, .yaml or .yml")
    if not path.is_file():
        raise UserError(f"--job {path}: expected a job file, found no such file")
    try:
        found = _run_python(path) if path.suffix == ".py" else _read_yaml(path)
        grids = list(found) if isinstance(found, Sequence) and not isinstance(found, str) else [found]
        if not grids or not all(isinstance(grid, Grid) for grid in grids):
            raise UserError(f"expected a Grid or a list of them, found {type(found).__name__}")
        units: dict[Unit, Grid] = {}
        for grid in grids:
            for unit in grid.list_units():
                units.setdefault(unit, grid)
        return Job(units, [one for grid in grids for one in grid.list_comparisons()])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """Plain values, nested as deep as a grid's fields are and little more: deeper ones take minutes to refuse."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._depth > _DEEPEST:
            raise yaml.YAMLError("lists or fields nested too deeply")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _run_python(path: Path) -> Any:
    try:
        names = runpy.run_path(str(path))
        if not callable(names.get("get_job")):
            raise UserError("expected a function get_job, found none")
        return names["get_job"]()
    except UserError:
        raise
    except Exception as error:  # the user's own program can raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise UserError(f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}") from error


def _read_yaml(path: Path) -> list[Grid]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe one
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"expected YAML, found {error}") from error
    known = {field.name for field in dataclasses.fields(Grid)}
    grids = []
    for fields in found if isinstance(found, list) else [found]:
        if not isinstance(fields, dict):
            raise UserError(f"expected the fields of a grid, found {type(fields).__name__}")
        for name in fields:
            if name not in known:
                raise UserError(f"expected fields of {', '.join(sorted(known))}, found {name!r}")
        if "workdirs" not in fields:
            raise UserError("expected the field workdirs, found none")
        grids.append(Grid(**fields))
    return grids
