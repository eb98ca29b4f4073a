"""Reads the pickle of a torch state dict as data: an interpreter that can build nothing else.

A pickle is a program for a stack machine. The opcodes handled are those that CPython's pickler
emits, in protocols 2 to 5, for dicts of tensors and plain values; any other opcode ends the
reading. Globals go through pickleglobals.resolve. Nothing here is imported, called by name or
recursed into.

Every stack push, memo entry and item of a container costs an opcode, so that the limit on opcodes
bounds time and memory, and the limit on bytes bounds the strings (of which a byte may take four).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import unpack

from llamatools.containers import pickleglobals
from llamatools.containers.pickleglobals import Function
from llamatools.errors import BadInput
from llamatools.text import safe

MAX_BYTES = 16_000_000
MAX_OPCODES = 1_000_000
"""About fifty for each tensor: some twenty thousand tensors in one file, read in a second."""

_MAX_INT_BYTES = 16
_MAX_KEY = 1 << 60
"""Keys below are their own hashes; of those beyond, any number share one."""
_PROTOCOLS = range(2, 6)


def load_pickle(data: bytes, where: str) -> object:
    """The one value in `data`: dicts, lists, tuples, plain values, and PickledTensor.

    Dicts and lists in it may contain themselves, and are not to be changed: model-parallel ranks
    mostly hold the same pickle, which is then interpreted once. Raises BadInput or Unsupported,
    with `where` in front, for whatever is not on the allow-lists, for malformed pickles and for
    bytes behind one.
    """
    try:
        return _interpret(data)
    except BadInput as e:
        raise type(e)(f"{safe(where)}: {e}", hint=e.hint) from None


@lru_cache(maxsize=1)
def _interpret(data: bytes) -> object:
    machine = _Machine(data)
    try:
        return machine.run()
    except BadInput as e:
        near = machine.last_string()
        about = f" (near {safe(near)!r})" if near is not None else ""
        raise type(e)(f"{e}{about}", hint=e.hint) from None


class _Machine:
    """The stack machine; one method for each opcode, found through _OPCODES."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise BadInput(f"a pickle of {len(data):,} bytes; {MAX_BYTES:,} are allowed")
        self.data = data
        self.at = 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        """Heights of the stack at which a MARK was set."""
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        data = self.data
        for _ in range(MAX_OPCODES):
            if self.at == len(data):
                raise BadInput("the pickle ends without its end mark")
            opcode = data[self.at]
            self.at += 1
            if opcode == _STOP:
                return self.result()
            do = _OPCODES.get(opcode)
            if do is None:
                raise BadInput(
                    f"pickle opcode {opcode:#04x} at byte {self.at - 1} has no place in a file of "
                    "tensors"
                )
            do(self)
        raise BadInput(f"a pickle of more than {MAX_OPCODES:,} opcodes")

    def result(self) -> object:
        value = self.pop()
        if self.stack or self.marks:
            raise BadInput("the pickle ends with values left over")
        if self.at != len(self.data):
            raise BadInput(f"{len(self.data) - self.at:,} bytes follow the pickle")
        return value

    def last_string(self) -> str | None:
        """The string nearest to the top of the stack: most often the name of a tensor."""
        near = self.stack[-8:]
        return next((v for v in reversed(near) if isinstance(v, str)), None)

    # -- reading the program

    def take(self, n: int) -> bytes:
        out = self.data[self.at : self.at + n]
        if len(out) != n:
            raise BadInput("the pickle ends in the middle of an opcode")
        self.at += n
        return out

    def number(self, n: int) -> int:
        """An unsigned little-endian operand of n bytes."""
        return int.from_bytes(self.take(n), "little")

    def line(self) -> str:
        stop = self.data.find(b"\n", self.at)
        if stop < 0:
            raise BadInput("the pickle ends in the middle of a name")
        text = self.decode(self.data[self.at : stop])
        self.at = stop + 1
        return text

    def decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise BadInput(f"a string that is not UTF-8 before byte {self.at}") from None

    # -- the stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        """The topmost value, which must lie above every mark."""
        if len(self.stack) == (self.marks[-1] if self.marks else 0):
            raise BadInput(f"the pickle takes a value that is not there, before byte {self.at}")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        """All values above the topmost mark, in the order they were pushed."""
        if not self.marks:
            raise BadInput(f"the pickle goes back to a mark never set, before byte {self.at}")
        height = self.marks.pop()
        out = self.stack[height:]
        del self.stack[height:]
        return out

    def pop_tuple(self, n: int) -> None:
        self.push(tuple([self.pop() for _ in range(n)][::-1]))

    # -- opcodes that need more than a line

    def proto(self) -> None:
        version = self.number(1)
        if version not in _PROTOCOLS:
            raise BadInput(f"pickle protocol {version}")

    def frame(self) -> None:
        """Frames only help a reader to buffer."""
        self.take(8)

    def long(self) -> None:
        n = self.number(1)
        if n > _MAX_INT_BYTES:
            raise BadInput(f"an integer of {n} bytes")
        self.push(int.from_bytes(self.take(n), "little", signed=True))

    def memo_get(self, index: int) -> None:
        if index not in self.memo:
            raise BadInput(f"the pickle refers to memo entry {index}, which it never set")
        self.push(self.memo[index])

    def memo_put(self, index: int) -> None:
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def append(self, values: list[object]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise BadInput("the pickle appends to something that is not a list")
        target.extend(values)
        self.push(target)

    def set_items(self, flat: list[object]) -> None:
        """Key, value, key, value, ... into the dict below. Keys are str or int: plain to hash."""
        target = self.pop()
        if not isinstance(target, dict) or len(flat) % 2:
            raise BadInput("the pickle sets items of something that is not a dict")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if type(key) not in (str, int):
                raise BadInput(f"a dict with a key that is a {type(key).__name__}")
            if isinstance(key, int) and abs(key) >= _MAX_KEY:
                raise BadInput(f"a dict with a key of {key.bit_length()} bits")
            if key in target:
                raise BadInput(f"a dict holds the key {safe(key)!r} more than once")
            target[key] = value
        self.push(target)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def global_(self) -> None:
        module, name = self.line(), self.line()
        self.push(pickleglobals.resolve(module, name))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BadInput("the pickle refers to a global by something that is not a name")
        self.push(pickleglobals.resolve(module, name))

    def reduce(self) -> None:
        """A call: only of what pickleglobals gave."""
        args, function = self.pop(), self.pop()
        if not (isinstance(function, Function) and isinstance(args, tuple)):
            raise BadInput("the pickle calls something that is not a function of tensors")
        self.push(function.build(args))

    def build(self) -> None:
        """Attributes of an object. Torch gives a state dict one, _metadata: module versions."""
        state, target = self.pop(), self.pop()
        if not (isinstance(state, dict) and isinstance(target, dict)):
            raise BadInput("the pickle sets attributes of something that is not a state dict")
        self.push(target)

    def persistent_id(self) -> None:
        self.push(pickleglobals.storage(self.pop()))


_Do = Callable[[_Machine], None]

_STOP = ord(".")

_OPCODES: dict[int, _Do] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): lambda m: m.marks.append(len(m.stack)),
    # plain values
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    0x8A: _Machine.long,
    ord("G"): lambda m: m.push(unpack(">d", m.take(8))[0]),
    0x8C: lambda m: m.push(m.decode(m.take(m.number(1)))),
    ord("X"): lambda m: m.push(m.decode(m.take(m.number(4)))),
    0x8D: lambda m: m.push(m.decode(m.take(m.number(8)))),
    ord("C"): lambda m: m.push(m.take(m.number(1))),
    ord("B"): lambda m: m.push(m.take(m.number(4))),
    # containers
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.pop_tuple(1),
    0x86: lambda m: m.pop_tuple(2),
    0x87: lambda m: m.pop_tuple(3),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("s"): _Machine.set_item,
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    # the memo
    ord("h"): lambda m: m.memo_get(m.number(1)),
    ord("j"): lambda m: m.memo_get(m.number(4)),
    ord("q"): lambda m: m.memo_put(m.number(1)),
    ord("r"): lambda m: m.memo_put(m.number(4)),
    0x94: lambda m: m.memo_put(len(m.memo)),
    # objects
    ord("c"): _Machine.global_,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent_id,
}
"""Byte values of the opcodes, as CPython's Lib/pickletools.py documents them."""
