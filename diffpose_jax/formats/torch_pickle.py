"""The pickles of PyTorch: plain data and tensors, built without PyTorch and without executing anything.

The machine of `pickles` builds plain data and numpy arrays; this module adds torch's description of tensors as strided
views of storages. Everything else is refused, or where it is known to be harmless and not needed, becomes an `Opaque`.
Every offset and size is checked against the size of its storage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import jax.numpy as jnp
import numpy as np

from diffpose_jax.formats.pickle_machine import Name, Refused, check_key
from diffpose_jax.formats.pickles import ArrayMachine, UnfinishedArray, UnfinishedDtype

_DTYPES = {
    **{name: np.dtype(name) for name in ("float64", "float32", "float16", "uint8", "bool")},
    **{name: np.dtype(name) for name in ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16")},
    "bfloat16": np.dtype(jnp.bfloat16),
}
_STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Untyped": "uint8"},
}
_STORAGE_NAME = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
# What training leaves in a checkpoint beside tensors. It is never built: an Opaque stands for each.
_INERT = re.compile(
    r"numpy\.random\.[\w.]+|torch\.device|argparse\.Namespace|builtins\.(dict|list|int|float|set)"
    rf"|torch\.({'|'.join(_DTYPES)})"
)
# A tensor may repeat the numbers of its storage (stride 0), but not without limit. The count is that of its elements.
_MOST_REPEATED = 1 << 24


@dataclass(frozen=True)
class Opaque:
    """Stands for an object that was not built because it is not needed, such as a random state."""

    name: str


class _Storage:
    """The elements that tensors are views of; `fill` sets them once the pickle has said where they are."""

    def __init__(self, dtype: np.dtype, count: int):
        self.dtype, self.count = dtype, count
        self.numbers = np.empty(0, dtype)

    @property
    def num_bytes(self) -> int:
        """The size in the file."""
        return self.count * self.dtype.itemsize

    def fill(self, raw: np.ndarray, big_endian: bool = False) -> None:
        """Takes the elements from bytes of the file, which may be more than the storage needs; no copy is made."""
        if len(raw) < self.num_bytes:
            raise ValueError(f"a storage of {self.num_bytes} bytes of which {len(raw)} are there")
        raw = raw[: self.num_bytes]
        if big_endian and self.dtype.itemsize > 1:
            raw = np.ascontiguousarray(raw.reshape(-1, self.dtype.itemsize)[:, ::-1]).reshape(-1)
        self.numbers = raw.view(self.dtype)


class _View:
    """A tensor before its storage is filled: its element `i` is element `offset + sum(i * strides)` of the storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None):
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        if type(shape) is not tuple or type(strides) is not tuple or not len(shape) == len(strides) <= 32:
            raise ValueError("a tensor whose shape and strides do not agree")
        if not all(type(number) is int and 0 <= number < 1 << 62 for number in (offset, *shape, *strides)):
            raise ValueError("a tensor whose offset, shape or strides are no natural numbers")
        self.storage, self.offset, self.shape, self.strides, self.dtype = storage, offset, shape, strides, dtype

    def to_array(self) -> np.ndarray:
        """The tensor as a read-only view of the storage, after checking that its last element is inside."""
        numbers, count = self.storage.numbers, math.prod(self.shape)
        if self.dtype is not None:
            numbers = numbers.view(self.dtype)
        if not count:
            return np.empty(self.shape, numbers.dtype)
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(numbers) or count > max(len(numbers), _MOST_REPEATED):
            raise ValueError(f"a tensor of shape {self.shape} in a storage of {len(numbers)} numbers")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    return _View(storage, offset, shape, strides)


def _rebuild_typed(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> _View:
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Name) else None
    if name not in _DTYPES:
        raise Refused("a tensor of unknown dtype")
    return _View(storage, offset, shape, strides, _DTYPES[name])


def _build_dict(pairs: Any = ()) -> dict:
    if isinstance(pairs, dict):
        return dict(pairs)
    built = {}
    for key, value in pairs:
        check_key(key)
        built[key] = value
    return built


# The names that a state_dict mentions, and what a call of each builds here. A Parameter is its tensor, and the hooks
# that torch writes beside one are not built.
_CONSTRUCTORS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _build_dict,
    "collections.Counter": _build_dict,
    "collections.defaultdict": lambda *_: {},
    "torch.Size": lambda sizes: tuple(sizes),
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}


def _storage_dtype(name: str) -> np.dtype | None:
    found = _STORAGE_NAME.fullmatch(name)
    return _DTYPES[_STORAGES[found.group(1)]] if found and found.group(1) in _STORAGES else None


class TorchMachine(ArrayMachine):
    """The machine that builds plain data, arrays and torch's tensors; `storages` collects the storages by their keys.

    A tensor stands in what it builds as a view of a storage without elements; `resolve_tensors` makes arrays of these
    when the storages are filled.
    """

    def __init__(self, stream: BinaryIO):
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def permit(self, name: str) -> str | None:
        """The name of a constructor or storage of torch, of what is known to be harmless, or of numpy's."""
        given = re.sub(r"^__builtin__\.", "builtins.", name)
        ours = given in _CONSTRUCTORS or _INERT.fullmatch(given) or _storage_dtype(given)
        return given if ours else super().permit(name)

    def call(self, name: str, arguments: tuple) -> Any:
        """Builds a container, a tensor, an array, or an Opaque for what is not needed."""
        if name in _CONSTRUCTORS:
            return _CONSTRUCTORS[name](*arguments)
        if _INERT.fullmatch(name):
            return Opaque(name)
        return super().call(name, arguments)

    def restore(self, target: Any, state: Any) -> Any:
        """Completes an array; the states of dictionaries and Opaques are dropped."""
        # The state of a state_dict has the versions of its modules, which are not needed.
        if isinstance(target, Opaque) or (type(target) is dict and type(state) is dict):
            return target
        return super().restore(target, state)

    def find_storage(self, identity: Any) -> _Storage:
        """The storage of a persistent id ('storage', type, key, device, number of elements[, None])."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise Refused("a persistent object that is no storage")
        kind, key, _, count = identity[1:5]
        dtype = _storage_dtype(kind.name) if isinstance(kind, Name) else None
        if dtype is None or identity[5:] not in ((), (None,)):
            raise Refused("a storage of unknown type")
        if type(key) is not str or type(count) is not int or not 0 <= count < 1 << 60:
            raise ValueError("a storage without key and size")
        known = self.storages.setdefault(key, _Storage(dtype, count))
        if (known.dtype, known.count) != (dtype, count):
            raise ValueError(f"two storages of the key {key[:40]!r}")
        return known

    # BINPERSID refers to a storage and to nothing else; NEWOBJ is a call by a permitted name, as of torch.Size.
    instructions: ClassVar = {
        **ArrayMachine.instructions,
        "BINPERSID": lambda machine, _: machine.push(machine.find_storage(machine.stack.pop())),
        "NEWOBJ": lambda machine, _: machine.reduce(),
    }


def resolve_tensors(structure: Any) -> Any:
    """Replaces tensors by arrays in what a machine built; dicts and lists change in place, tuples are built anew."""
    return _resolve(structure, {})


def _resolve(node: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(node, UnfinishedArray | UnfinishedDtype):
        raise Refused("an unfinished array as data")
    if isinstance(node, Name | _Storage):
        return Opaque(getattr(node, "name", "storage"))
    if not isinstance(node, dict | list | tuple | _View):
        return node
    if id(node) in done:
        return done[id(node)][1]
    resolved: Any = node
    if isinstance(node, _View):
        resolved = node.to_array()
    elif isinstance(node, tuple):
        resolved = tuple(_resolve(item, done) for item in node)
    # A part that stands in several places is resolved once, by its id. The part itself is stored beside the result,
    # because an id may be used again when its object is gone. Dicts and lists are entered before their items are
    # resolved: they may contain themselves.
    done[id(node)] = (node, resolved)
    if isinstance(node, dict):
        for key, item in list(node.items()):
            node[key] = _resolve(item, done)
    elif isinstance(node, list):
        node[:] = [_resolve(item, done) for item in node]
    return resolved
