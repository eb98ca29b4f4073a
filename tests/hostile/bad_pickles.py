"""Pickles that would run code, loop, fill memory or mislead; each inside a sound torch archive."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections.abc import Callable
from struct import pack
from typing import Any

import torch
from kit import (
    CANARY,
    MODEL,
    Case,
    Cases,
    bin_folder,
    config,
    meta,
    records,
    simple,
    with_opcodes,
    with_state,
)
from support.forge import FakeStorage, FakeTensor, torch_bytes, zip_bytes

TOUCH = f"touch {CANARY}"
WRITE = f"open({CANARY!r}, 'w').close()"
EXTRA = "extra"


def text(s: str) -> bytes:
    return b"X" + pack("<L", len(s.encode())) + s.encode()


def call(module: str, name: str, *arguments: str) -> bytes:
    """Opcodes that import a function and call it with strings."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"tR"


def stack_call(module: str, name: str, *arguments: str) -> bytes:
    """The same by STACK_GLOBAL, whose names come from the stack."""
    return text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR"


CALLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("os", "system"): (TOUCH,),
    ("posix", "system"): (TOUCH,),
    ("nt", "system"): (TOUCH,),
    ("os", "popen"): (TOUCH,),
    ("subprocess", "Popen"): (TOUCH,),
    ("subprocess", "check_output"): (TOUCH,),
    ("pty", "spawn"): (TOUCH,),
    ("builtins", "eval"): (WRITE,),
    ("builtins", "exec"): (WRITE,),
    ("__builtin__", "eval"): (WRITE,),
    ("builtins", "open"): (CANARY, "w"),
    ("builtins", "getattr"): ("os", "system"),
    ("builtins", "__import__"): ("os",),
    ("io", "open"): (CANARY, "w"),
    ("importlib", "import_module"): ("antigravity",),
    ("runpy", "run_path"): ("evil.py",),
    ("timeit", "timeit"): (WRITE,),
    ("pdb", "run"): (WRITE,),
    ("cProfile", "run"): (WRITE,),
    ("code", "InteractiveInterpreter"): (),
    ("types", "FunctionType"): (),
    ("functools", "partial"): (),
    ("operator", "attrgetter"): ("system",),
    ("operator", "methodcaller"): ("system", TOUCH),
    ("shutil", "rmtree"): (".",),
    ("ctypes", "CDLL"): ("libc.so.6",),
    ("marshal", "loads"): ("",),
    ("_pickle", "loads"): ("",),
    ("socket", "create_connection"): ("127.0.0.1",),
    ("urllib.request", "urlopen"): ("http://127.0.0.1:9",),
    ("copyreg", "_reconstructor"): (),
    ("numpy.core.multiarray", "_reconstruct"): (),
    ("_codecs", "encode"): ("a", "latin1"),
    ("torch", "load"): (CANARY,),
    ("torch.storage", "_load_from_bytes"): ("",),
    ("torch.jit", "load"): (CANARY,),
    ("torch.hub", "load"): ("evil/evil", "evil"),
    ("torch.serialization", "os.system"): (TOUCH,),
    ("torch.nn.modules.linear", "Linear"): (),
    ("torch", "_utils._rebuild_tensor_v2"): (),
    ("torch._utils\u200b", "_rebuild_tensor_v2"): (),
    ("collections", "OrderedDict.__reduce__"): (),
    ("llamatools.containers.pickles", "load_pickle"): (),
    ("__main__", "system"): (TOUCH,),
}


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (TOUCH,)


def doubled(levels: int) -> bytes:
    """A tuple of a tuple of a tuple ..., each holding the one before twice: 2^levels leaves."""
    out = b")"
    for i in range(levels):
        out += b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86"
    return out


def colliding(n: int) -> bytes:
    """A dict whose keys, all different, have one hash."""
    keys = ((i + 1) * ((1 << 61) - 1) for i in range(n))
    return b"}(" + b"".join(b"\x8a\x10" + k.to_bytes(16, "little") + b"N" for k in keys) + b"u"


def legacy(obj: Any) -> bytes:
    out = io.BytesIO()
    torch.save(obj, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def two_pickles() -> bytes:
    """A sound pickle in a sound archive, and a second one behind it."""
    return torch_bytes(pickle.dumps({}, 2) + pickle.dumps(Evil(), 2))


def bare(protocol: int, name: str) -> Case:
    """A pickle that runs code, under the name of a weight file."""
    data = pickle.dumps({"a": 1, "model": Evil()}, protocol)
    return simple(lambda: {"config.json": config(), name: data}, name, "posix.system")


def _item(item: bytes, *words: str, protocol: int = 2) -> Any:
    return simple(
        lambda: bin_folder(with_opcodes(item, protocol)), "pytorch_model.bin", "data.pkl", *words
    )


CASES: Cases = {
    f"calls {module}.{name}": _item(
        call(module, name, *arguments),
        f"{module.encode('unicode_escape').decode()}.{name}",
        "has no need of",
    )
    for (module, name), arguments in CALLS.items()
}

CASES |= {
    "by STACK_GLOBAL": _item(stack_call("os", "system", TOUCH), "os.system", protocol=4),
    "by INST": _item(b"(" + text(TOUCH) + b"ios\nsystem\n", "opcode 0x69"),
    "by OBJ": _item(b"(cos\nsystem\n" + text(TOUCH) + b"o", "os.system"),
    "by NEWOBJ": _item(b"ccollections\nOrderedDict\n)\x81", "opcode 0x81"),
    "by NEWOBJ_EX": _item(b"ctorch\nSize\n)}\x92", "opcode 0x92", protocol=4),
    "by extension code": _item(b"\x82\x01", "opcode 0x82"),
    "by BUILD": _item(
        b"ccollections\nOrderedDict\n)R}X\x0c\0\0\0__setstate__cos\nsystem\nsb", "os.system"
    ),
    "BUILD of a tensor class": _item(b"ctorch\nFloatStorage\n}b", "sets attributes"),
    "calls a storage class": _item(b"ctorch\nFloatStorage\n)R", "calls something"),
    "calls a string": _item(text("os.system") + b"(" + text(TOUCH) + b"tR", "calls something"),
    "calls a dict": _item(b"})R", "calls something"),
    "an OrderedDict with arguments": _item(
        b"ccollections\nOrderedDict\n(]tR", "an OrderedDict with arguments"
    ),
    "a text id of a storage": _item(b"Pstorage\n", "opcode 0x50"),
    "a persistent id of nothing": _item(b")Q", "a persistent id that is not a storage's"),
    "an out-of-band buffer": _item(b"\x97", "opcode 0x97", protocol=5),
    "an integer of 2 GB": _item(b"\x8b\xff\xff\xff\x7f", "opcode 0x8b"),
    "an integer in decimal digits": _item(b"I" + b"9" * 100_000 + b"\n", "opcode 0x49"),
    "a string of 4 GB": _item(b"X\xff\xff\xff\xff", "ends in the middle of an opcode"),
    "a string of 16 EB": _item(b"\x8d" + b"\xff" * 8, "ends in the middle", protocol=4),
    "a string that is not UTF-8": _item(b"X\2\0\0\0\xff\xfe", "not UTF-8"),
    "a memo entry of nobody": _item(b"j\xff\xff\xff\x7f", "memo entry 2147483647"),
    "a value from an empty stack": _item(b"0" * 10 + b"a", "opcode 0x30"),
    "a mark never set": _item(b"tttt", "a mark never set"),
    "keys of one hash": _item(colliding(150_000), "a key of", "bits"),
    "a key that is a float": _item(b"}G" + bytes(8) + b"Ns", "a key that is a float"),
    "a key twice": _item(b"}" + (text("k") + b"Ns") * 2, "more than once"),
    "a tensor twice": _item(b"N" + text("model.norm.weight") + b"N", "more than once"),
    "a billion leaves": _item(doubled(60), EXTRA, "expected a tensor"),
    "a list that holds itself": _item(b"]q\xf0h\xf0a", EXTRA, "a list of 1, expected a tensor"),
    "a dict that holds itself": _item(b"}q\xf0" + text("k") + b"h\xf0s", EXTRA, "a dict of 1"),
    "50,000 levels": _item(b")" + b"\x85" * 50_000, EXTRA, "a tuple of 1"),
    "a million opcodes": _item(b"N" * 1_000_001, "more than 1,000,000 opcodes"),
    "16 MB of text": _item(text("x" * 16_000_000), "more than the 16,000,000 allowed"),
    "marks and nothing else": simple(
        lambda: bin_folder(torch_bytes(b"\x80\x02" + b"(" * 1_000_001)),
        "more than 1,000,000 opcodes",
    ),
    "no end": simple(
        lambda: bin_folder(torch_bytes(pickle.dumps({}, 2)[:-1])), "without its end mark"
    ),
    "no bytes": simple(lambda: bin_folder(torch_bytes(b"")), "data.pkl", "without its end mark"),
    "one pickle behind another": simple(lambda: bin_folder(two_pickles()), "follow the pickle"),
    "protocol 9": simple(lambda: bin_folder(torch_bytes(b"\x80\x09N.")), "pickle protocol 9"),
    "a list for a dict": simple(
        lambda: bin_folder(torch_bytes([FakeTensor()])), "a list of 1, expected a dict of tensors"
    ),
    "a tensor for a dict": simple(
        lambda: bin_folder(torch_bytes(FakeTensor())), "a tensor, expected a dict"
    ),
    "a number among the tensors": simple(
        lambda: bin_folder(with_state(lambda s, _: s.update(step=7))),
        "step is 7, expected a tensor",
    ),
    "a storage of another kind": simple(
        lambda: bin_folder(
            with_state(lambda s, _: s.update(extra=FakeTensor(FakeStorage(kind="module"))))
        ),
        "a persistent id that is not a storage's",
    ),
    "in the last of two ranks": simple(
        lambda: {
            **meta(2),
            "consolidated.01.pth": zip_bytes(
                records(pickle.dumps({"tok_embeddings.weight": Evil()}, 2), {})
            ),
        },
        "consolidated.01.pth",
        "posix.system",
    ),
    "a legacy torch file": simple(
        lambda: bin_folder(legacy(MODEL.truth)), "pytorch_model.bin", "before 1.6", "weights_only"
    ),
    "a legacy torch file that runs code": simple(
        lambda: bin_folder(legacy({"w": torch.ones(2), "x": Evil()})), "before 1.6", "posix.system"
    ),
    "a pickle called safetensors": bare(4, "model.safetensors"),
    "a bare pickle of protocol 0": bare(0, "pytorch_model.bin"),
    "a bare pickle of protocol 2": bare(2, "pytorch_model.bin"),
}


def opcodes_that_have_no_place() -> list[str]:
    """Every opcode that CPython knows and no file of tensors needs."""
    from llamatools.containers.pickles import _OPCODES

    known = {ord("."), *_OPCODES}
    return [o.code for o in pickletools.opcodes if ord(o.code) not in known]


CASES |= {
    f"opcode {ord(code):#04x}": _item(code.encode("latin-1") + bytes(8), f"opcode {ord(code):#04x}")
    for code in opcodes_that_have_no_place()
}
