"""The stack machine of pickle, walked without executing anything.

A pickle is a program for a stack machine that may call anything. The machine here knows the instructions that build
dicts, lists, tuples, strings and numbers, and no others. Which names a pickle may mention, and what is made when it
calls one, is for its subclasses to say: a name is looked up in their tables and never anywhere else.

A few bytes can describe what has no end when it is unfolded: a tuple of two of the same tuples, forty deep. So nothing
that a pickle made is hashed, compared or printed whole: keys of dictionaries are simple, and errors name types.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable, Mapping, Sized
from typing import Any, BinaryIO, ClassVar

import numpy as np

# What reading a damaged pickle may raise, beside Refused.
DAMAGED = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
    *(OverflowError, MemoryError, RecursionError, struct.error),
)

_LITERALS = frozenset(
    (
        *("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
# What the key of a dictionary may be, or a tuple of at most a few of.
_SIMPLE = (str, bytes, int, float, complex, type(None), np.generic)
_MOST_IN_KEY = 8


class Refused(Exception):
    """Something in a pickle that is not built; its message completes 'its pickle holds ...' in a few words."""


class Name:
    """A permitted global: a name, never the thing itself."""

    def __init__(self, name: str):
        self.name = name


def one_line(error: BaseException) -> str:
    """The class and message of an exception in at most 200 characters without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def check_key(key: Any) -> None:
    """Refuses all keys of dictionaries but strings, bytes, numbers, None and short tuples of these: hashing is safe."""
    parts = key if type(key) is tuple and len(key) <= _MOST_IN_KEY else (key,)
    if not all(isinstance(part, _SIMPLE) for part in parts):
        raise Refused("a dictionary key that is no string, number or short tuple of these")


class Machine:
    """The machine for one pickle: plain data only, until a subclass permits names and says what they make.

    Its errors are Refused for what it does not build and those of DAMAGED for a program that makes no sense. Time and
    memory stay within a small multiple of the pickle's size; `steps` counts the instructions that were followed.
    """

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0
        self.made = 0

    def permit(self, name: str) -> str | None:
        """The name by which the machine knows the global `module.name`, or None for a forbidden one."""
        return None

    def call(self, name: str, arguments: tuple) -> Any:
        """What a permitted name makes of its arguments."""
        raise Refused(f"a call of {name}")

    def restore(self, target: Any, state: Any) -> Any:
        """What becomes of `target`, which the machine made before, when it is given its state."""
        raise Refused(f"a state for an object of type {type(target).__name__}")

    def run(self) -> Any:
        """Follows the program to its end, leaving the stream behind it, and returns what was built."""
        while True:
            self.steps += 1
            code = self.stream.read(1)
            opcode = pickletools.code2op.get(code.decode("latin-1"))
            if opcode is None:
                raise EOFError(f"no instruction at byte {self.stream.tell()}")
            if opcode.name == "STRING":
                argument = _python2_string(self.stream)
            else:
                argument = opcode.arg.reader(self.stream) if opcode.arg else None
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in self.instructions:
                self.instructions[opcode.name](self, argument)
            elif opcode.name == "INST":
                self.name(*argument.split(" ", 1))
                raise Refused("an instance of a class")
            else:
                raise Refused(f"the instruction {opcode.name}")

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self.stack.append(value)

    def mark(self) -> None:
        """Begins a run of items for `since_mark`."""
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Takes the items since the last mark from the stack."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def pop_many(self, count: int) -> list[Any]:
        """Takes the last `count` items from the stack."""
        if len(self.stack) < count:
            raise IndexError("an empty stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, slot: int) -> None:
        """Keeps the top of the stack in the memo."""
        self.memo[slot] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        """Appends items to the list on the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError("items for something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Enters keys and values, which alternate in `items`, into the dictionary on the stack."""
        if type(self.stack[-1]) is not dict:
            raise TypeError("keys for something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            self.stack[-1][key] = value

    def name(self, module: Any, name: Any) -> None:
        """Puts the name of a permitted global on the stack."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a global without a name")
        given = f"{module}.{name}"
        known = self.permit(given)
        if known is None:
            raise Refused(f"the forbidden global '{given[:80]}'")
        self.push(Name(known))

    def reduce(self) -> None:
        """Calls the name below the arguments on the stack."""
        function, arguments = self.pop_many(2)
        name = function.name if isinstance(function, Name) else None
        if name is None or type(arguments) is not tuple:
            raise Refused(f"a call of {name or type(function).__name__}")
        self.push(self.counted(self.call(name, arguments)))

    def build(self) -> None:
        """Gives the object below it the state on the stack."""
        self.push(self.restore(*self.pop_many(2)))

    def counted(self, made: Any) -> Any:
        """Returns what was made, unless calls have made far more by now than the pickle has bytes for."""
        if isinstance(made, np.ndarray | np.generic):
            self.made += made.size if made.dtype.hasobject else made.nbytes
        elif isinstance(made, Sized):
            self.made += len(made)
        # Twice: protocols before 3 make the bytes of an array by a call, and then the array of these.
        if self.made > 2 * self.stream.tell() + 1024:
            raise Refused("the same numbers over and over")
        return made

    instructions: ClassVar[Mapping[str, Callable[[Any, Any], Any]]] = {
        "PROTO": lambda machine, _: None,
        "FRAME": lambda machine, _: None,
        "NEWTRUE": lambda machine, _: machine.push(True),
        "NEWFALSE": lambda machine, _: machine.push(False),
        "MARK": lambda machine, _: machine.mark(),
        "POP": lambda machine, _: machine.stack.pop() if machine.stack else machine.since_mark(),
        "POP_MARK": lambda machine, _: machine.since_mark(),
        "DUP": lambda machine, _: machine.push(machine.stack[-1]),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, slot: machine.put(slot)),
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
        "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
        "STACK_GLOBAL": lambda machine, _: machine.name(*machine.pop_many(2)),
        "REDUCE": lambda machine, _: machine.reduce(),
        "BUILD": lambda machine, _: machine.build(),
    }


def _python2_string(stream: BinaryIO) -> str:
    # The standard reader insists on ASCII, while Python 2 wrote the bytes of arrays this way.
    line = stream.readline().rstrip(b"\n")
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")
