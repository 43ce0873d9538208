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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
DAMAGE = (*_UNREADABLE, AttributeError, IndexError, OverflowError, RecursionError)
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


def check_members(path: str | os.PathLike) -> None:
    """Raises UserError where a member of an archive claims far more bytes than the file can reasonably hold.

    A megabyte of zeros in a zip file is a gigabyte in memory. Raises what `zipfile` raises where it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check_ratio(info, f"{path}, member '{info.filename}'")


def _check_ratio(info: zipfile.ZipInfo, where: str) -> None:
    if info.file_size > _ANY_SIZE + _MAX_RATIO * info.compress_size:
        raise UserError(f"{where}: expected at most {_MAX_RATIO} times its {info.compress_size} bytes in the file, "
                        f"found {info.file_size}")  # fmt: skip


def _read_array(data: bytes, where: str) -> Any:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
            (3, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
        if not dtype.hasobject:
            if len(data) - stream.tell() < math.prod(shape) * dtype.itemsize:
                raise ValueError(f"fewer bytes than shape {shape} of {dtype} takes")
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise UserError(f"{where}: expected a numpy array, found {one_line(error)}") from error
    array = parse_pickle(stream, where)
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise UserError(f"{where}: expected a pickled array of shape {shape}, found {type(array).__name__}")
    return array.item() if array.shape == () else array


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
