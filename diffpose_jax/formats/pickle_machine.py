"""An interpreter of pickles that executes nothing.

A pickle is a program for a stack machine, and the standard machine lets it import and call anything. The machine here
has the instructions that build dicts, lists, tuples, strings and numbers, and no others. A subclass says which names a
pickle may mention and what is built when it calls one: a name is looked up in its tables and never imported.

A few bytes can describe an object that is endless when unfolded, such as a tuple of two of the same tuples, forty deep.
So nothing that a pickle built is hashed, compared or printed whole: keys of dictionaries are simple, errors name types.
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

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
# Constants: the instruction's argument is the value.
_CONSTANTS = frozenset(
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
    """A pickle holds what is not built; the message completes 'its pickle holds ...' in a few words."""


class Name:
    """A permitted global: its name, never the object."""

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
    """The machine for one pickle: plain data only, until a subclass permits names and says what they build.

    Its errors are Refused for what it does not build, and those of DAMAGED for a program that makes no sense. Time and
    memory stay within a small multiple of the pickle's size; `steps` counts the instructions.
    """

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the current mark, one per nested mark
        self.memo: dict[int, Any] = {}
        self.steps = 0
        self.built = 0  # elements or bytes that calls have built

    def permit(self, name: str) -> str | None:
        """The name in the subclass's tables of the global `module.name`, or None for a forbidden one."""
        return None

    def call(self, name: str, arguments: tuple) -> Any:
        """Builds what a call of a permitted name describes."""
        raise Refused(f"a call of {name}")

    def restore(self, target: Any, state: Any) -> Any:
        """Gives `target`, which this machine built, its state; returns what stands for it from now on."""
        raise Refused(f"a state for an object of type {type(target).__name__}")

    def run(self) -> Any:
        """Follows the program to its end and returns what it built; the stream is left behind the program."""
        while True:
            self.steps += 1
            code = self.stream.read(1)
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None:
                raise EOFError(f"no instruction at byte {self.stream.tell()}")
            argument: Any = None
            if opcode.name == "STRING":
                argument = _read_python2_string(self.stream)
            elif opcode.arg:
                argument = opcode.arg.reader(self.stream)
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(argument)
            elif opcode.name in self.instructions:
                self.instructions[opcode.name](self, argument)
            elif opcode.name == "INST":
                # Names the class in its argument: the error is about the name if that is forbidden.
                self.push_name(*argument.split(" ", 1))
                raise Refused("an instance of a class")
            else:
                raise Refused(f"the instruction {opcode.name}")

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self.stack.append(value)

    def push_mark(self) -> None:
        """Marks the stack; `pop_to_mark` takes what comes after."""
        self.outer.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
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
        """Stores the top of the stack in the memo."""
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

    def push_name(self, module: Any, name: Any) -> None:
        """Puts the name of a permitted global on the stack."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a global without a name")
        given = f"{module}.{name}"
        known = self.permit(given)
        if known is None:
            raise Refused(f"the forbidden global '{given[:80]}'")
        self.push(Name(known))

    def reduce(self) -> None:
        """Replaces a name and its arguments on the stack by what `call` builds of them."""
        function, arguments = self.pop_many(2)
        name = function.name if isinstance(function, Name) else None
        if name is None or type(arguments) is not tuple:
            raise Refused(f"a call of {name or type(function).__name__}")
        self.push(self.check_size(self.call(name, arguments)))

    def build(self) -> None:
        """Replaces an object and its state on the stack by what `restore` returns."""
        self.push(self.restore(*self.pop_many(2)))

    def check_size(self, value: Any) -> Any:
        """Returns the value that a call built, unless calls have built far more than the pickle has bytes for."""
        if isinstance(value, np.ndarray | np.generic):
            self.built += value.size if value.dtype.hasobject else value.nbytes
        elif isinstance(value, Sized):
            self.built += len(value)
        # Twice: protocols before 3 build the bytes of an array by a call, and then the array of these.
        if self.built > 2 * self.stream.tell() + 1024:
            raise Refused("the same numbers over and over")
        return value

    # Every permitted instruction. What is missing is refused, and why:
    #   INST, OBJ, NEWOBJ, NEWOBJ_EX    build instances of classes (torch's machine permits NEWOBJ as a call by name);
    #   EXT1, EXT2, EXT4                are globals by their number in a registry of the process;
    #   PERSID, BINPERSID               are objects outside the pickle (torch's machine: storages, by BINPERSID only);
    #   NEXT_BUFFER, READONLY_BUFFER    are data outside the pickle;
    #   EMPTY_SET, FROZENSET, ADDITEMS  hash what the pickle built; no file of the field has sets.
    instructions: ClassVar[Mapping[str, Callable[[Any, Any], Any]]] = {
        # The version and the length of what follows; nothing depends on them.
        "PROTO": lambda machine, _: None,
        "FRAME": lambda machine, _: None,
        "NEWTRUE": lambda machine, _: machine.push(True),
        "NEWFALSE": lambda machine, _: machine.push(False),
        # The stack and the memo, by which parts of an object are shared.
        "MARK": lambda machine, _: machine.push_mark(),
        "POP": lambda machine, _: machine.stack.pop() if machine.stack else machine.pop_to_mark(),
        "POP_MARK": lambda machine, _: machine.pop_to_mark(),
        "DUP": lambda machine, _: machine.push(machine.stack[-1]),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, slot: machine.put(slot)),
        "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, slot: machine.push(machine.memo[slot])),
        # Containers. Filling one checks that it is a list or dict of this machine, so that no method of another class
        # is called.
        "EMPTY_LIST": lambda machine, _: machine.push([]),
        "EMPTY_DICT": lambda machine, _: machine.push({}),
        "EMPTY_TUPLE": lambda machine, _: machine.push(()),
        "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
        "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
        "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop_many(1))),
        "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop_many(2))),
        "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop_many(3))),
        "APPEND": lambda machine, _: machine.extend(machine.pop_many(1)),
        "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
        "DICT": lambda machine, _: (items := machine.pop_to_mark(), machine.push({}), machine.set_items(items)),
        "SETITEM": lambda machine, _: machine.set_items(machine.pop_many(2)),
        "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
        # A global becomes its name, a call looks the name up in a table, and a state is given only to what this
        # machine built: the standard machine would import, call and run `__setstate__` here.
        "GLOBAL": lambda machine, names: machine.push_name(*names.split(" ", 1)),
        "STACK_GLOBAL": lambda machine, _: machine.push_name(*machine.pop_many(2)),
        "REDUCE": lambda machine, _: machine.reduce(),
        "BUILD": lambda machine, _: machine.build(),
    }


def _read_python2_string(stream: BinaryIO) -> str:
    # The reader of pickletools insists on ASCII, while Python 2 wrote the bytes of arrays this way.
    line = stream.readline().rstrip(b"\n")
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")
