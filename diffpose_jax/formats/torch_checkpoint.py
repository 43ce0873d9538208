"""Reads PyTorch checkpoints without PyTorch and without executing them.

A checkpoint is a pickle that describes nested containers and tensors, beside the raw elements of the storages that the
tensors are views of. There are two layouts. A zip archive since PyTorch 1.6, its members not compressed:

    <name>/data.pkl      the pickle; it refers to storages by their keys
    <name>/data/<key>    the elements of one storage
    <name>/byteorder     'little' or 'big'; little where it is missing

and before that, one file of consecutive parts:

    pickle               a magic number
    pickle               the protocol, 1001
    pickle               a dictionary about the system: byte order and sizes of types
    pickle               the data; it refers to storages by their keys
    pickle               the list of keys, in the order of the storages that follow
    per storage          the number of its elements as a little-endian int64, and the elements

The elements are mapped from the file, not read. `torch_pickle` builds what the pickle describes.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.pickle_machine import DAMAGED, Refused, one_line
from diffpose_jax.formats.torch_pickle import Opaque, TorchMachine, resolve_tensors

__all__ = ["Opaque", "read_checkpoint"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_UNREADABLE = (*DAMAGED, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile)


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Reads a checkpoint of either layout into dicts, lists, tuples, strings, numbers, `Opaque`s and numpy arrays.

    Arrays are read-only views of the mapped file in the dtype in which they were saved (bfloat16 as that of ml_dtypes).
    Raises UserError for a file of another kind, a damaged or truncated one, or one whose pickle asks for anything else
    to be built or called.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a PyTorch checkpoint, found no such file")
    if not path.stat().st_size:
        raise UserError(f"{path}: expected a PyTorch checkpoint, found an empty file")
    with path.open("rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        read = _read_zip if buffer[:4] == b"PK\x03\x04" else _read_legacy
        return resolve_tensors(read(path, buffer))
    except Refused as error:
        raise UserError(f"{path}: refused: its pickle holds {error}; only tensors and plain data are read") from None
    except _UNREADABLE as error:
        raise UserError(
            f"{path}: expected a PyTorch checkpoint, found a damaged or truncated one ({one_line(error)})"
        ) from error


def _read_zip(path: Path, buffer: mmap.mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    folders = [name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(folders) != 1 or f"{folders[0]}constants.pkl" in members:
        found = "a TorchScript program" if folders else "another zip archive"
        raise UserError(f"{path}: expected a PyTorch checkpoint (one data.pkl in a zip archive), found {found}")
    folder = folders[0]
    order = b"little"
    if f"{folder}byteorder" in members:
        order = _map_member(buffer, members[f"{folder}byteorder"]).tobytes()
    if order not in (b"little", b"big"):
        raise ValueError(f"the byte order {order[:20]!r}")
    machine = TorchMachine(io.BytesIO(_map_member(buffer, members[f"{folder}data.pkl"]).tobytes()))
    structure = machine.run()
    for key, storage in machine.storages.items():
        if f"{folder}data/{key}" not in members:
            raise ValueError(f"no storage {key[:40]!r} in the archive")
        storage.fill(_map_member(buffer, members[f"{folder}data/{key}"]), order == b"big")
    return structure


def _map_member(buffer: mmap.mmap, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a member of a zip archive, not copied: torch does not compress."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise Refused(f"the compressed or encrypted member {info.filename[:80]!r}")
    # The content follows the member's local header: 30 bytes that begin with a signature and end with two sizes, then
    # the file name and the extra fields (by which torch aligns the content) of these sizes.
    signature, name_size, extra_size = struct.unpack_from("<4s22xHH", buffer, info.header_offset)
    start = info.header_offset + 30 + name_size + extra_size
    if signature != b"PK\x03\x04" or start + info.file_size > len(buffer):
        raise ValueError(f"the member {info.filename[:80]!r} reaches beyond the file")
    raw = np.frombuffer(buffer, np.uint8, info.file_size, start)
    if zlib.crc32(raw.data) != info.CRC:
        raise ValueError(f"the checksum of {info.filename[:80]!r} is wrong")
    return raw


def _read_legacy(path: Path, buffer: mmap.mmap) -> Any:
    stream = cast(BinaryIO, buffer)  # a map has the methods that a machine calls: read, readline and tell
    if _MAGIC.to_bytes(10, "little") not in buffer[:32] or TorchMachine(stream).run() != _MAGIC:
        raise UserError(f"{path}: expected a PyTorch checkpoint, found {_describe_other(buffer)}")
    protocol, system = TorchMachine(stream).run(), TorchMachine(stream).run()
    if protocol != _PROTOCOL or type(system) is not dict:
        raise ValueError("an unknown protocol")
    machine = TorchMachine(stream)
    structure = machine.run()
    keys = TorchMachine(stream).run()
    if type(keys) is not list or not all(type(key) is str for key in keys) or set(keys) != machine.storages.keys():
        raise ValueError("storages that do not belong to its tensors")
    position = buffer.tell()
    for key in keys:
        storage = machine.storages[key]
        if struct.unpack_from("<q", buffer, position)[0] != storage.count:
            raise ValueError(f"a storage of another size than the {storage.count} numbers of its tensors")
        position += 8
        # numpy refuses an offset at the end of a buffer, where an empty storage may be the last.
        raw = np.frombuffer(buffer, np.uint8, offset=position) if position < len(buffer) else np.empty(0, np.uint8)
        storage.fill(raw)
        position += storage.num_bytes
    return structure


def _describe_other(buffer: mmap.mmap) -> str:
    beginning = buffer[:512].lstrip()
    if beginning[:1] == b"<":
        return "a web page (a download that failed?)"
    if beginning.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if buffer[257:262] == b"ustar":
        return "a tar archive (PyTorch 0.1, or one to unpack first)"
    return "neither a zip archive nor PyTorch's magic number"
