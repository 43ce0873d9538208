"""Files as torch.save writes them, by torch or without it: both layouts, little-endian, float and integer tensors."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {"float32": "Float", "float64": "Double", "int64": "Long"}


def save(structure: Any, path: Path, form: str) -> None:
    """Writes nested dicts, lists, strings, numbers and arrays as 'zip', 'legacy', 'torch zip' or 'torch legacy'.

    The last two are written by torch itself; the test is skipped where that is not installed.
    """
    if form.startswith("torch"):
        _save_with_torch(structure, path, form == "torch zip")
        return
    storages: list[np.ndarray] = []
    body = b"\x80\x02" + _pickle(structure, storages, form == "legacy") + b"."
    if form == "legacy":
        head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
        keys = pickle.dumps([str(index) for index in range(len(storages))], 2)
        raw = b"".join(struct.pack("<q", run.size) + run.tobytes() for run in storages)
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + body + keys + raw)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", b"little")
        for index, run in enumerate(storages):
            archive.writestr(f"archive/data/{index}", run.tobytes())
        archive.writestr("archive/version", b"3\n")


def _pickle(node: Any, storages: list[np.ndarray], legacy: bool) -> bytes:
    if isinstance(node, dict):
        items = b"".join(_pickle(part, storages, legacy) for pair in node.items() for part in pair)
        return b"ccollections\nOrderedDict\n)R(" + items + b"u"
    if isinstance(node, list):
        return b"](" + b"".join(_pickle(item, storages, legacy) for item in node) + b"e"
    if not isinstance(node, np.ndarray):
        # Without the header, the memo and the end: a scalar or a string.
        return (
            pickle.dumps(node, 2)[2:-1].replace(b"q\x00", b"") if isinstance(node, str) else pickle.dumps(node, 2)[2:-1]
        )
    strides = [stride // node.itemsize for stride in np.ascontiguousarray(node).strides] if node.ndim else []
    key, kind = str(len(storages)), f"ctorch\n{_KINDS[node.dtype.name]}Storage\n".encode()
    storages.append(np.ascontiguousarray(node))
    numbers = [_pickle(number, storages, legacy) for number in (node.size, 0)]
    identity = b"(" + _pickle("storage", storages, legacy) + kind + _pickle(key, storages, legacy)
    identity += _pickle("cpu", storages, legacy) + numbers[0] + (b"N" if legacy else b"") + b"tQ"
    sizes = [b"(" + b"".join(_pickle(int(n), storages, legacy) for n in part) + b"t" for part in (node.shape, strides)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + numbers[1] + sizes[0] + sizes[1] + b"\x89}tR"


def _save_with_torch(structure: Any, path: Path, zipped: bool) -> None:
    import pytest

    torch = pytest.importorskip("torch")

    def tensors(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: tensors(value) for key, value in node.items()}
        if isinstance(node, list):
            return [tensors(value) for value in node]
        return torch.from_numpy(np.array(node)) if isinstance(node, np.ndarray) else node

    torch.save(tensors(structure), path, _use_new_zipfile_serialization=zipped)
