"""Reads pickles of plain data and numpy arrays without executing them.

`pickle_machine` builds dicts, lists, tuples, strings and numbers. The machine here adds the few constructors with which
numpy (1 and 2, Python 2 and 3, protocols 0 to 5) describes arrays, dtypes and scalars. Arrays are built from shape,
dtype and bytes, after checking that these agree. Every other global, and every instruction that would build an object
of another class, is refused before anything is looked up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.pickle_machine import DAMAGED, Machine, Name, Refused, one_line

_KNOWN = "numpy arrays, dicts, lists, tuples, strings and numbers"
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,6}|O8?)")
_MOST_DIMENSIONS = 64
# How deep the parts of an object may be nested, and how many it may have; shared ones count wherever they stand.
_MOST_NESTED = 100
_MOST_PARTS, _MOST_PARTS_PER_STEP = 1 << 20, 16


def parse_pickle(stream: BinaryIO, where: str) -> Any:
    """Builds the object that a pickle describes, executing nothing; `where` names the file in a UserError."""
    try:
        machine = ArrayMachine(stream)
        value = machine.run()
        _check_parts(value, _MOST_PARTS + _MOST_PARTS_PER_STEP * machine.steps)
        return value
    except Refused as error:
        raise UserError(f"{where}: refused: its pickle holds {error}; only {_KNOWN} are read") from None
    except DAMAGED as error:
        raise UserError(f"{where}: expected a pickle of {_KNOWN}, found a damaged one ({one_line(error)})") from error


class UnfinishedDtype:
    """A dtype under construction: numpy writes its type string first, and its byte order as a state."""

    def __init__(self, kind: Any, *_: Any):
        if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
            raise Refused(f"an array of dtype {repr(kind[:40]) if isinstance(kind, str) else type(kind).__name__}")
        self.dtype = np.dtype(kind)

    def set_state(self, state: tuple) -> None:
        """Sets the byte order from numpy's state (version, order, subarray, names, fields, ...)."""
        order, subarray, names, fields = state[1:5]
        if subarray is not None or names is not None or fields is not None:
            raise Refused("a structured dtype")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class UnfinishedArray:
    """An array before its state has arrived; `slots` are the memo entries that refer to it."""

    def __init__(self) -> None:
        self.slots: list[int] = []


def _build_array(shape: Any, dtype: Any, raw: Any, fortran: bool) -> np.ndarray:
    if type(shape) is not tuple or len(shape) > _MOST_DIMENSIONS or not all(type(size) is int for size in shape):
        raise Refused("an array whose shape is no tuple of a few whole numbers")
    if not all(0 <= size < 1 << 63 for size in shape):
        raise ValueError("an array whose shape is negative or beyond all memory")
    if not isinstance(dtype, UnfinishedDtype):
        raise ValueError("an array without a dtype")
    count = math.prod(shape)
    if dtype.dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise ValueError(f"an object array of shape {shape} without its {count} items")
        flat = np.empty(count, object)
        for i, item in enumerate(raw):
            flat[i] = item
    else:
        raw = _view_bytes(raw)
        if len(raw) != count * dtype.dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and {dtype.dtype} in {len(raw)} bytes")
        flat = np.frombuffer(raw, dtype.dtype) if count else np.empty(0, dtype.dtype)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def _view_bytes(raw: Any) -> bytes | memoryview:
    # Python 2 wrote bytes as strings, which are read as latin-1.
    return raw.encode("latin-1") if isinstance(raw, str) else memoryview(raw).cast("B")


def _build_scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, UnfinishedDtype) or dtype.dtype.hasobject:
        raise Refused("a scalar of object dtype")
    return _build_array((), dtype, raw, False)[()]


def _build_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _build_array(shape, dtype, raw, order == "F")


def _encode(text: str, encoding: str) -> bytes:
    if not isinstance(encoding, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in another encoding than latin-1")
    return text.encode("latin-1")


def _build_complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _build_bytes(raw: bytes = b"", encoding: str = "latin-1") -> bytes:
    return bytes(_encode(raw, encoding) if isinstance(raw, str) else memoryview(raw))


# The names that a pickle of plain data and arrays mentions, and what a call of each builds here: an array is written as
# `_reconstruct(ndarray, (0,), b'b')` and a state, or by protocol 5 as `_frombuffer(...)`; a numpy number as `scalar`;
# bytes are encoded text in protocols 0 to 2. None: the name is only ever an argument.
_CONSTRUCTORS: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": UnfinishedDtype,
    "numpy._core.multiarray._reconstruct": lambda *_: UnfinishedArray(),
    "numpy._core.multiarray.scalar": _build_scalar,
    "numpy._core.numeric._frombuffer": _build_from_buffer,
    "_codecs.encode": _encode,
    "builtins.bytes": _build_bytes,
    "builtins.bytearray": _build_bytes,
    "builtins.complex": _build_complex,
}


class ArrayMachine(Machine):
    """The machine that builds plain data and numpy arrays."""

    def permit(self, name: str) -> str | None:
        """The name under which numpy 2 and Python 3 know a constructor of arrays, bytes or numbers."""
        known = re.sub(r"^numpy\.core\.", "numpy._core.", re.sub(r"^__builtin__\.", "builtins.", name))
        return known if known in _CONSTRUCTORS else None

    def call(self, name: str, arguments: tuple) -> Any:
        """Builds an array, bytes or a number."""
        constructor = _CONSTRUCTORS.get(name)
        return super().call(name, arguments) if constructor is None else constructor(*arguments)

    def restore(self, target: Any, state: Any) -> Any:
        """Gives a dtype its byte order, or replaces an unfinished array by the array."""
        if isinstance(target, UnfinishedDtype) and type(state) is tuple:
            target.set_state(state)
            return target
        if isinstance(target, UnfinishedArray) and type(state) is tuple:
            shape, dtype, fortran, raw = state[-4:]
            array = self.check_size(_build_array(shape, dtype, raw, bool(fortran)))
            self.memo.update(dict.fromkeys(target.slots, array))
            return array
        return super().restore(target, state)

    def put(self, slot: int) -> None:
        """Stores the top of the stack in the memo; an unfinished array notes the slot, to be replaced there."""
        super().put(slot)
        if isinstance(self.stack[-1], UnfinishedArray):
            self.stack[-1].slots.append(slot)


def _check_parts(value: Any, most: int) -> None:
    """Refuses a value that holds names, dtypes or unfinished arrays, is nested too deep or has too many parts."""
    level, parts = [value], 1
    for _ in range(_MOST_NESTED):
        if not {Name, UnfinishedDtype, UnfinishedArray}.isdisjoint(map(type, level)):
            raise Refused("a class or an unfinished array as data")
        containers = [item for item in level if _is_container(item)]
        parts += sum(item.size if isinstance(item, np.ndarray) else len(item) for item in containers)
        if parts > most:
            raise Refused("the same parts over and over")
        level = [part for item in containers for part in _parts(item)]
        if not level:
            return
    raise Refused(f"parts that are nested more than {_MOST_NESTED} deep")


def _is_container(item: Any) -> bool:
    return isinstance(item, (dict, list, tuple)) or (isinstance(item, np.ndarray) and item.dtype.hasobject)


def _parts(container: Any) -> Iterable[Any]:
    # Keys are simple, as the machine has checked.
    if isinstance(container, dict):
        return container.values()
    return container.ravel().tolist() if isinstance(container, np.ndarray) else container
