"""Reading pickles of plain data without executing them.

A pickle is a program for a stack machine that may call anything. This module walks that machine itself: it knows the
instructions that build dicts, lists, tuples, strings and numbers, and the few constructors with which numpy (1 and 2,
Python 2 and 3, protocols 0 to 5) describes arrays, dtypes and scalars. Arrays are rebuilt here from shape, dtype and
bytes, after checking that these agree. Every other global, and every instruction that would make an object of another
class, is refused before anything is looked up.
"""

from __future__ import annotations

import codecs
import math
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from diffpose_jax.errors import UserError

_KNOWN = "numpy arrays, dicts, lists, tuples, strings and numbers"
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,6}|O8?)")
_DAMAGED = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
    *(OverflowError, MemoryError, RecursionError, struct.error),
)


def parse_pickle(stream: BinaryIO, where: str) -> Any:
    """Builds the object that a pickle describes, executing nothing; `where` names the source in the UserError."""
    try:
        return _Machine(stream).run()
    except _Refused as error:
        raise UserError(f"{where}: refused: its pickle holds {error}; only {_KNOWN} are read") from None
    except _DAMAGED as error:
        raise UserError(f"{where}: expected a pickle of {_KNOWN}, found a damaged one ({one_line(error)})") from error


def one_line(error: BaseException) -> str:
    """The class and message of an exception in at most 200 characters without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class _Refused(Exception):
    """Something in a pickle that this module does not build."""


class _Name:
    """A permitted global: a name, never the thing itself."""

    def __init__(self, name: str):
        self.name = name


class _Dtype:
    """A dtype under construction: made by its type string, given its byte order by its state."""

    def __init__(self, kind: Any, *_: Any):
        if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
            raise _Refused(f"an array of dtype {str(kind)[:40]!r}")
        self.dtype = np.dtype(kind)

    def set_state(self, state: tuple) -> None:
        order, subarray, names, fields = state[1:5]
        if subarray is not None or names is not None or fields is not None:
            raise _Refused("a structured dtype")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Blank:
    """An array before its state arrived; `slots` are the memo entries that wait for it."""

    def __init__(self) -> None:
        self.slots: list[int] = []


def _array(shape: Any, dtype: Any, raw: Any, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    count = math.prod(shape)
    if dtype.dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise ValueError(f"an object array of shape {shape} without its {count} items")
        flat = np.empty(count, object)
        for i, item in enumerate(raw):
            flat[i] = item
    else:
        raw = _bytes(raw)
        if len(raw) != count * dtype.dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and {dtype.dtype} in {len(raw)} bytes")
        flat = np.frombuffer(raw, dtype.dtype) if count else np.empty(0, dtype.dtype)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def _bytes(raw: Any) -> bytes | bytearray:
    # Python 2 wrote bytes as strings, which are read here as latin-1.
    return raw.encode("latin-1") if isinstance(raw, str) else memoryview(raw).cast("B")


def _reconstruct(*_: Any) -> _Blank:
    return _Blank()


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject:
        raise _Refused("a scalar of object dtype")
    return _array((), dtype, raw, False)[()]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(shape, dtype, raw, order == "F")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"bytes in encoding {encoding!r}")
    return text.encode("latin-1")


def _complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _to_bytes(raw: bytes = b"", encoding: str = "latin-1") -> bytes:
    return bytes(_encode(raw, encoding) if isinstance(raw, str) else memoryview(raw))


_CONSTRUCTORS: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _Dtype,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
    "builtins.bytes": _to_bytes,
    "builtins.bytearray": _to_bytes,
    "builtins.complex": _complex,
}


def _global(module: Any, name: Any) -> _Name:
    given = f"{module}.{name}"
    known = re.sub(r"^numpy\.core\.", "numpy._core.", re.sub(r"^__builtin__\.", "builtins.", given))
    if not isinstance(module, str) or not isinstance(name, str) or known not in _CONSTRUCTORS:
        raise _Refused(f"the forbidden global '{given[:80]}'")
    return _Name(known)


def _python2_string(stream: BinaryIO) -> str:
    # The standard reader insists on ASCII, while Python 2 wrote the bytes of arrays this way.
    line = stream.readline().rstrip(b"\n")
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _finished(value: Any) -> Any:
    """Returns `value` if no name, dtype or unfinished array is left anywhere in it."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, (_Name, _Dtype, _Blank)):
            raise _Refused("a class or an unfinished array as data")
        if not isinstance(item, (dict, list, tuple, np.ndarray)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif not isinstance(item, np.ndarray):
            pending += item
        elif item.dtype.hasobject:
            pending += item.ravel().tolist()
    return value


class _Machine:
    """The stack machine of pickle, with the instructions that build plain data and no others."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.stream.read(1)
            opcode = pickletools.code2op.get(code.decode("latin-1"))
            if opcode is None:
                raise EOFError(f"no instruction at byte {self.stream.tell()}")
            if opcode.name == "STRING":
                argument = _python2_string(self.stream)
            else:
                argument = opcode.arg.reader(self.stream) if opcode.arg else None
            if opcode.name == "STOP":
                return _finished(self.stack.pop())
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name == "INST":
                _global(*argument.split(" ", 1))
                raise _Refused("an instance of a class")
            else:
                raise _Refused(f"the instruction {opcode.name}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def put(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]
        if isinstance(self.stack[-1], _Blank):
            self.stack[-1].slots.append(slot)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("items for something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError("keys for something that is not a dict")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def pop_many(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("an empty stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def reduce(self, _: None) -> None:
        function, arguments = self.pop_many(2)
        constructor = _CONSTRUCTORS[function.name] if isinstance(function, _Name) else None
        if constructor is None or type(arguments) is not tuple:
            raise _Refused(f"a call of {getattr(function, 'name', type(function).__name__)}")
        self.stack.append(constructor(*arguments))

    def build(self, _: None) -> None:
        target, state = self.pop_many(2)
        if isinstance(target, _Dtype) and type(state) is tuple:
            target.set_state(state)
            self.stack.append(target)
        elif isinstance(target, _Blank) and type(state) is tuple:
            shape, dtype, fortran, raw = state[-4:]
            array = _array(shape, dtype, raw, bool(fortran))
            self.memo.update(dict.fromkeys(target.slots, array))
            self.stack.append(array)
        else:
            raise _Refused(f"a state for an object of type {type(target).__name__}")


_LITERALS = {
    *("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.stack.pop() if machine.stack else machine.since_mark(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, slot: machine.push(machine.memo[slot])),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop_many(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop_many(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop_many(3))),
    "APPEND": lambda machine, _: machine.extend(machine.pop_many(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "DICT": lambda machine, _: (items := machine.since_mark(), machine.push({}), machine.set_items(items)),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_many(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, names: machine.push(_global(*names.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.push(_global(*machine.pop_many(2))),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
