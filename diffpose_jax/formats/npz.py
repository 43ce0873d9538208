"""Reads the field's `.npz` files, pickled object arrays included, without executing them, and writes arrays in pieces.

The files of VideoPose3D and its descendants hold dictionaries of arrays as pickled object arrays (see `pickles`).
Plain arrays are read by numpy, after checking that the member holds as many bytes as its header says.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.pickle_machine import one_line
from diffpose_jax.formats.pickles import parse_pickle

MAX_MEMBER_BYTES = 16 << 30

_UNREADABLE = (
    *(ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, MemoryError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
# What reading an archive that is none, or a damaged one, can raise: from the zip, the arrays, or what describes them.
# A SystemError is Python's for a text with code points that do not exist.
DAMAGE = (*_UNREADABLE, AttributeError, IndexError, OverflowError, RecursionError, SystemError)
# A member may be this many times as large as its bytes in the file, beside what any may have.
_MAX_RATIO, _ANY_SIZE = 200, 64 << 20


def read_npz(path: str | os.PathLike, members: Sequence[str] = (), optional: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a `.npz` archive into `{member: array}`.

    Args:
        path: The file.
        members: Names of the members to read; all if empty.
        optional: Members to read beside them where they exist.

    Returns:
        The arrays by member; a pickled object of no dimensions as the object itself.

    Raises:
        UserError: The file is missing, damaged or of another kind, a member is missing, or a pickle holds more than
            arrays, containers, strings and numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected an .npz file, found no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in members if name not in found]
            if missing:
                raise UserError(f"{path}: expected member '{missing[0]}', found {', '.join(sorted(found)) or 'none'}")
            wanted = [name for name in [*members, *optional] if name in found] if members else list(found)
            return {name: _read_member(archive, found[name], f"{path}, member '{name}'") for name in wanted}
    except _UNREADABLE as error:
        raise UserError(f"{path}: expected an .npz file, found a damaged one ({one_line(error)})") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Any:
    if info.file_size > MAX_MEMBER_BYTES:
        raise UserError(f"{where}: expected at most {MAX_MEMBER_BYTES} bytes, found {info.file_size}")
    _check_ratio(info, where)
    return _read_array(archive.read(info), where)


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open archive by name, each read when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self._archive, self._path = archive, path
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for info in self._members.values():
            _check_ratio(info, f"{path}, member '{info.filename}'")

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        with self._archive.open(info) as stream:
            shape, dtype = _read_header(stream)
            if dtype.hasobject:
                raise ValueError(f"{name} with pickled objects")
            _check_size(shape, dtype, info.file_size - stream.tell())
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an archive without pickles, each read when it is asked for.

    Raises UserError where a member claims far more bytes than the file can reasonably hold: a megabyte of zeros in a
    zip file is a gigabyte in memory. Raises what is in `DAMAGE` where it is no archive or a damaged one, and where an
    array is said to be larger than its bytes.
    """
    with zipfile.ZipFile(path) as archive:
        yield _Arrays(archive, Path(path))


def _check_ratio(info: zipfile.ZipInfo, where: str) -> None:
    if info.file_size > _ANY_SIZE + _MAX_RATIO * info.compress_size:
        raise UserError(f"{where}: expected at most {_MAX_RATIO} times its {info.compress_size} bytes in the file, "
                        f"found {info.file_size}")  # fmt: skip


def _read_array(data: bytes, where: str) -> Any:
    stream = io.BytesIO(data)
    try:
        shape, dtype = _read_header(stream)
        if not dtype.hasobject:
            _check_size(shape, dtype, len(data) - stream.tell())
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise UserError(f"{where}: expected a numpy array, found {one_line(error)}") from error
    array = parse_pickle(stream, where)
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise UserError(f"{where}: expected a pickled array of shape {shape}, found {type(array).__name__}")
    return array.item() if array.shape == () else array


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type that an array's header says; the stream is then at its data."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        (3, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read(stream)
    return shape, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    """Raises ValueError where there are fewer bytes than an array takes, before it takes them."""
    if size < math.prod(shape) * dtype.itemsize:
        raise ValueError(f"fewer bytes than shape {shape} of {dtype} takes")


@contextlib.contextmanager
def open_array(
    archive: zipfile.ZipFile, name: str, shape: Sequence[int], dtype: np.typing.DTypeLike
) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends rows to a new array of an archive, so that only they are in memory.

    Args:
        archive: The archive, open for writing.
        name: The array's name; no other can be written to the archive meanwhile.
        shape: The shape of the whole array.
        dtype: Its type.

    Raises:
        ValueError: At the end, more or fewer numbers were written than the shape says.
    """
    kind, written = np.dtype(dtype), 0

    def write(rows: np.ndarray) -> None:
        nonlocal written
        written += np.size(rows)
        member.write(np.ascontiguousarray(rows, kind).reshape(-1).view(np.uint8).data)

    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_2_0(member, header)
        yield write
    if written != math.prod(shape):
        raise ValueError(f"{name}: {math.prod(shape)} numbers were announced, {written} written")


def write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Writes a whole array, which holds no objects, to an archive."""
    with open_array(archive, name, array.shape, array.dtype) as write:
        write(array)
