"""The output folder of a job: results of units, what is done of those under way, and what failed.

    OUTPUT/units/NAME.json      the result of a unit, with the hash of its configuration
    OUTPUT/units/NAME.npz       its values of every frame
    OUTPUT/units/NAME.claim     who works at it
    OUTPUT/units/NAME.failed.json   why it could not be measured
    OUTPUT/frames/NAME/         what was predicted, in chunks of frames: kept until the unit is done, or for good

Every file appears whole or not at all, and none is believed whose hash or digest is not the expected one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.records import read_record, write_record
from diffpose_jax.whole_files import write_whole
from diffpose_jax.workdir.directory import writable_directory

UNITS, FRAMES = "units", "frames"
_FAILED = ".failed.json"


class OutputError(UserError):
    """The output folder cannot be written: no fault of the unit that is measured, and the end of the worker."""


class Unreadable(NamedTuple):
    """Why a result in the folder is not that of a unit."""

    reason: str


class Store:
    """The output folder of a job. Raises UserError where it cannot be made or written.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = writable_directory(folder)
        self.units = writable_directory(self.folder / UNITS)
        self._before = {path.name: _token(path) for path in self.units.glob(f"*{_FAILED}")}

    def read(self, name: str, configuration: str, predictions: bool = False) -> dict[str, Any] | Unreadable | None:
        """The result of a unit, None where there is none, or why what is there is no result of it.

        Args:
            name: The unit's name.
            configuration: The hash that its result has to have.
            predictions: Whether the poses of its frames have to be there too.
        """
        path = self.units / f"{name}.json"
        if not path.exists():
            return None
        try:
            found = read_record(path, "unit")
            if found.get("configuration") != configuration:
                return Unreadable("is of another configuration: the work directory, the data or the version changed")
            for file, digest in found["digests"].items():
                # Poses that nobody asks for any more may be removed to make room.
                if (predictions or not file.startswith(FRAMES)) and _digest(self.folder / file) != digest:
                    return Unreadable(f"names {file}, which is missing or damaged")
        except (UserError, AttributeError, KeyError, TypeError, OSError) as error:
            return Unreadable(f"is damaged: {error}")
        if predictions and not any(file.startswith(FRAMES) for file in found["digests"]):
            return Unreadable("has no predictions")
        if not any(file.startswith(FRAMES) for file in found["digests"]):
            shutil.rmtree(self.chunk_folder(name), ignore_errors=True)  # left by a worker that was killed just then
        return found

    def read_values(self, name: str) -> dict[str, np.ndarray]:
        """The values of every frame of a unit that is done. Raises UserError where they cannot be read."""
        return read_npz(self.units / f"{name}.npz")

    def write(self, name: str, record: Mapping[str, Any], values: Mapping[str, np.ndarray], predictions: bool) -> None:
        """Writes the result of a unit and removes what is only for those under way.

        Args:
            name: The unit's name.
            record: Its result, JSON, with 'configuration'.
            values: Its values of every frame.
            predictions: Whether the chunks of its frames are kept.

        Raises:
            OutputError: The files cannot be written.
        """
        write_arrays(self.units / f"{name}.npz", values)
        kept = [self.units / f"{name}.npz", *(sorted(self.chunk_folder(name).glob("*.npz")) if predictions else ())]
        digests = {path.relative_to(self.folder).as_posix(): _digest(path) for path in kept}
        try:
            write_record(self.units / f"{name}.json", "unit", {**record, "digests": digests})
        except UserError as error:
            raise OutputError(str(error)) from error
        if not predictions:
            shutil.rmtree(self.chunk_folder(name), ignore_errors=True)
        (self.units / f"{name}{_FAILED}").unlink(missing_ok=True)

    def chunk_folder(self, name: str) -> Path:
        """The folder of a unit's chunks."""
        return self.folder / FRAMES / name

    def write_failure(self, name: str, message: str, trace: str = "") -> None:
        """Writes down that a unit failed. Raises OutputError."""
        content = {"unit": name, "message": message, "trace": trace, "token": secrets.token_hex(8)}
        try:
            write_record(self.units / f"{name}{_FAILED}", "failed unit", content)
        except UserError as error:
            raise OutputError(str(error)) from error

    def read_failure(self, name: str) -> str | None:
        """Why a unit failed since this worker began, None where it did not: what failed before is tried again."""
        path = self.units / f"{name}{_FAILED}"
        try:
            found = read_record(path, "failed unit") if path.exists() else {}
        except UserError:
            return None
        if "message" not in found or self._before.get(path.name) == found.get("token"):
            return None
        return str(found["message"])

    def list_strangers(self, names: Iterable[str]) -> list[str]:
        """The results in the folder that are of none of the named units."""
        ours = set(names)
        found = {path.name.removesuffix(".json") for path in self.units.glob("*.json")}
        return sorted(name for name in found if not name.endswith(".failed") and name not in ours)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as one `.npz`, whole. Raises OutputError."""
    try:
        with write_whole(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except UserError as error:
        raise OutputError(str(error)) from error


def read_chunk(path: Path, configuration: str) -> dict[str, np.ndarray] | None:
    """The arrays of a chunk, None where there is none of that configuration that can be read."""
    try:
        found = read_npz(path)
        if str(found.pop("configuration")) != configuration or not all(
            isinstance(one, np.ndarray) for one in found.values()
        ):
            return None
        return found
    except (UserError, KeyError):
        return None


def read_predictions(folder: str | os.PathLike) -> Iterator[dict[str, np.ndarray]]:
    """The chunks of a unit's predictions in the order of frames, one at a time.

    Each holds 'frame', the indices `[m]` of frames in the split, 'clip', 'frame_of_clip', and the outputs by name:
    poses `[m, J, 3]` of aggregations in root-relative metres, and what describes the distribution. Raises UserError
    where one cannot be read.
    """
    for path in sorted(Path(folder).glob("*.npz")):
        found = read_npz(path)
        found.pop("configuration", None)
        yield found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _token(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("token")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
