from __future__ import annotations

import codecs
import datetime
import functools
import operator
import os
import pickle
import subprocess
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from support.forge import FakeStorage, FakeTensor, pickled

from llamatools.containers import pickles
from llamatools.containers.pickleglobals import PickledTensor, Storage
from llamatools.containers.pickles import load_pickle
from llamatools.containers.statedict import find_state_dict
from llamatools.dtypes import BF16, BY_NAME, BY_STORAGE, BY_TORCH, F32
from llamatools.errors import BadInput, Unsupported

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def read(data: bytes) -> Any:
    return load_pickle(data, "here")


# -- what is read


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values(protocol: int) -> None:
    value = {
        "int": [0, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**100],
        "float": [0.5, -1e300, float("inf")],
        "str": ["", "é\U0001f600", "x" * 300, "y" * 70000],
        "const": (None, True, False),
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "deep": {"a": {1: [{"b": ()}]}},
        "many": list(range(3000)),
        "od": OrderedDict([("z", 1), ("a", 2)]),
        "size": torch.Size([2, 3]),
    }
    if protocol >= 3:  # protocol 2 spells bytes as a call
        value["bytes"] = [b"", b"x" * 10, b"y" * 300]
    assert read(pickled(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors(protocol: int) -> None:
    shared = FakeStorage("7", 100, torch.BFloat16Storage, "cuda:3")
    untyped = FakeStorage("8", 24, torch.UntypedStorage)
    state = {
        "a": FakeTensor(shared, 3, (2, 3), (30, 2)),
        "b": FakeTensor(shared, 0, torch.Size([4]), (1,)),
        "c": FakeTensor(untyped, 1, (), (), dtype=torch.float8_e4m3fn),
        "d": FakeTensor(untyped, 0, (0, 2), (2, 1), dtype=torch.uint16, more=(None,)),
        "e": FakeTensor(shared, 0, (1,), (1,), more=({},)),
        "f": FakeTensor(shared, 0, (1,), (1,), hooks=None),
    }
    bf16, raw = Storage("7", BF16, 200), Storage("8", None, 24)
    assert read(pickled(state, protocol)) == {
        "a": PickledTensor(bf16, BF16, 3, (2, 3), (30, 2)),
        "b": PickledTensor(bf16, BF16, 0, (4,), (1,)),
        "c": PickledTensor(raw, BY_NAME["F8_E4M3"], 1, (), ()),
        "d": PickledTensor(raw, BY_NAME["U16"], 0, (0, 2), (2, 1)),
        "e": PickledTensor(bf16, BF16, 0, (1,), (1,)),
        "f": PickledTensor(bf16, BF16, 0, (1,), (1,)),
    }


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_the_tables_hold_torchs_own_names() -> None:
    for name, dtype in BY_STORAGE.items():
        assert getattr(torch, name).dtype == getattr(torch, dtype.torch)
        assert read(pickled(FakeTensor(FakeStorage(cls=getattr(torch, name))))).dtype == dtype
    for name, dtype in BY_TORCH.items():
        assert getattr(torch, name).itemsize == dtype.size
        assert read(b"\x80\x02ctorch\n%b\n." % name.encode()) is dtype


def test_attributes_of_a_state_dict_are_dropped() -> None:
    state = OrderedDict(a=FakeTensor())
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    assert list(read(pickled(state))) == ["a"]


def test_a_value_that_holds_itself() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert read(pickled(loop))[0][0][0]
    tree: dict[str, object] = {}
    tree["model"] = tree
    with pytest.raises(BadInput, match="model is a dict of 1, expected a tensor"):
        find_state_dict(read(pickled(tree)), "x")


# -- code that must not run

RAN: list[str] = []


def boom(*_: object) -> None:
    RAN.append("boom")


class Payload:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class WithState:
    def __init__(self) -> None:
        self.x = 1


PAYLOADS = {
    "posix.system": Payload(os.system, ("touch /tmp/pwned",)),
    "builtins.eval": Payload(eval, ("1",)),
    "builtins.exec": Payload(exec, ("1",)),
    "builtins.getattr": Payload(getattr, (Payload(getattr, ("x", "upper")), "__call__")),
    "builtins.__import__": Payload(__import__, ("os",)),
    "builtins.print": print,
    f"{open.__module__}.open": Payload(open, ("/etc/passwd",)),
    "builtins.set": {1, 2},
    "builtins.complex": 1j,
    "builtins.bytearray": bytearray(b"x"),
    "subprocess.Popen": Payload(subprocess.Popen, (["true"],)),
    "subprocess.check_output": Payload(subprocess.check_output, (["true"],)),
    "functools.partial": functools.partial(os.system, "true"),
    "operator.attrgetter": Payload(operator.attrgetter, ("x",)),
    "torch.serialization.load": Payload(torch.load, ("x",)),
    "torch.storage._load_from_bytes": Payload(torch.storage._load_from_bytes, (b"x",)),
    "torch.hub.load": Payload(torch.hub.load, ("x",)),
    "torch.device": torch.device("cpu"),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
    "_codecs.encode": Payload(codecs.encode, ("x", "latin1")),
    "collections.defaultdict": defaultdict(int),
    "collections.Counter": Counter("ab"),
    "datetime.timedelta": datetime.timedelta(1),
    "test_pickles.boom": Payload(boom, ()),
    "test_pickles.WithState": WithState(),
}


OWN_OPCODES = {("builtins.set", 4), ("builtins.set", 5), ("builtins.bytearray", 5)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "payload"), PAYLOADS.items(), ids=PAYLOADS)
def test_refuses_every_other_global_by_name(name: str, payload: object, protocol: int) -> None:
    data = pickled({"weight": payload}, protocol)
    with pytest.raises(BadInput) as caught:
        read(data)
    assert type(caught.value) is BadInput
    message = str(caught.value)
    assert f"refers to {name}, which" in message or "pickle opcode" in message
    # Sets and bytearrays have opcodes of their own in later protocols.
    assert ("pickle opcode" in message) == ((name, protocol) in OWN_OPCODES)
    assert message.startswith("here: ")
    assert not RAN


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("_rebuild_qtensor", "torch._utils", "a quantised tensor"),
        ("_rebuild_sparse_tensor", "torch._utils", "a sparse tensor"),
        ("_rebuild_meta_tensor_no_storage", "torch._utils", "meta device"),
        ("_rebuild_from_type_v2", "torch._tensor", "a subclass"),
        ("QInt8Storage", "torch", "a quantised tensor"),
    ],
)
def test_names_what_it_recognises(name: str, module: str, kind: str) -> None:
    with pytest.raises(Unsupported, match=kind):
        read(b"\x80\x02c" + f"{module}\n{name}\n.".encode())


GLOBAL = b"\x80\x02c"
TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
BAD = {
    "empty": (b"", "ends without its end mark"),
    "no stop": (b"\x80\x02}", "ends without its end mark"),
    "nothing": (b"\x80\x02.", "takes a value that is not there"),
    "two values": (b"\x80\x02}}.", "ends with values left over"),
    "bytes behind": (b"\x80\x02}.cos\nsystem\n", "11 bytes follow the pickle"),
    "protocol 0": (b"(dp0\n.", "opcode 0x64 at byte 1"),
    "protocol 1": (b"\x80\x01}.", "pickle protocol 1"),
    "protocol 6": (b"\x80\x06}.", "pickle protocol 6"),
    "INST": (b"\x80\x02(S'x'\nios\nsystem\n.", "opcode 0x53"),
    "OBJ": (b"\x80\x02(}o.", "opcode 0x6f"),
    "NEWOBJ": (b"\x80\x02ctorch\nSize\n)\x81.", "opcode 0x81"),
    "NEWOBJ_EX": (b"\x80\x04})}\x92.", "opcode 0x92"),
    "EXT1": (b"\x80\x02\x82\x01.", "opcode 0x82"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "opcode 0x83"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "opcode 0x84"),
    "PERSID": (b"\x80\x02Px\n.", "opcode 0x50"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "opcode 0x97"),
    "DUP": (b"\x80\x02}2.", "opcode 0x32"),
    "POP": (b"\x80\x02}0.", "opcode 0x30"),
    "unknown opcode": (b"\x80\x02\xff", "opcode 0xff at byte 2"),
    "global cut": (GLOBAL + b"os", "ends in the middle of a name"),
    "global without a name": (GLOBAL + b"os\n", "ends in the middle of a name"),
    "global not UTF-8": (GLOBAL + b"\xff\nx\n", "not UTF-8"),
    "global dotted": (GLOBAL + b"torch\n_utils._rebuild_tensor_v2\n.", "torch._utils._rebuild"),
    "global split elsewhere": (GLOBAL + b"torch._utils._rebuild_tensor_v2\n\n.", "refers to torch"),
    "global with spaces": (GLOBAL + b"torch \nSize\n.", "refers to torch .Size"),
    "global escaped": (GLOBAL + b"\x1b[31m\n::x\n.", "refers to \\x1b[31m.:\\:x,"),
    "stack global of numbers": (b"\x80\x04K\x01K\x02\x93.", "by something that is not a name"),
    "stack global of os": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "refers to os.system"),
    "call of a class": (GLOBAL + b"torch\nFloatStorage\n)R.", "not a function of tensors"),
    "call of a dtype": (GLOBAL + b"torch\nfloat32\n)R.", "not a function of tensors"),
    "call of a dict": (b"\x80\x02})R.", "not a function of tensors"),
    "call of a string": (b"\x80\x04\x8c\x02os)R.", "not a function of tensors"),
    "call of a call": (GLOBAL + b"collections\nOrderedDict\n)R)R.", "not a function of tensors"),
    "call with a list": (GLOBAL + b"torch\nSize\n]R.", "not a function of tensors"),
    "call with a dict": (TENSOR + b"}R.", "not a function of tensors"),
    "build on a function": (TENSOR + b"}b.", "sets attributes of something"),
    "build on a tuple": (b"\x80\x02)}b.", "sets attributes of something"),
    "build with a tuple": (b"\x80\x02}N}\x86b.", "sets attributes of something"),
    "build of __class__": (
        GLOBAL + b"torch\nSize\n}X\x09\0\0\0__class__K\x01sb.",
        "sets attributes",
    ),
    "mark as a value": (b"\x80\x02(.", "takes a value that is not there"),
    "mark in the memo": (b"\x80\x02(q\x00h\x00t.", "takes a value that is not there"),
    "tuple through a mark": (b"\x80\x02K\x01(K\x02\x86.", "takes a value that is not there"),
    "no mark": (b"\x80\x02K\x01t.", "goes back to a mark never set"),
    "items of a list": (b"\x80\x02]K\x01K\x01s.", "sets items of something that is not a dict"),
    "items of a function": (TENSOR + b"K\x01K\x01s.", "sets items of something that is not"),
    "odd items": (b"\x80\x02}(K\x01u.", "sets items of something that is not a dict"),
    "append to a dict": (b"\x80\x02}K\x01a.", "appends to something that is not a list"),
    "append to a tuple": (b"\x80\x02)(K\x01e.", "appends to something that is not a list"),
    "duplicate key": (b"\x80\x02}(K\x01NK\x01Nu.", "holds the key '1' more than once"),
    "duplicate key later": (
        b"\x80\x02}X\1\0\0\0aNsX\1\0\0\0aNs.",
        "the key 'a' more than once",
    ),
    "key a list": (b"\x80\x02}]Ns.", "a dict with a key that is a list"),
    "key a tuple": (b"\x80\x02})Ns.", "a dict with a key that is a tuple"),
    "key a bool": (b"\x80\x02}\x88Ns.", "a dict with a key that is a bool"),
    "key a function": (b"\x80\x02}ctorch\nSize\nNs.", "a dict with a key that is a Function"),
    "memo unset": (b"\x80\x02h\x05.", "memo entry 5, which it never set"),
    "memo unset, long": (b"\x80\x02j\xff\xff\xff\xff.", "memo entry 4294967295"),
    "string cut": (b"\x80\x02X\xff\xff\xff\xffabc", "ends in the middle of an opcode"),
    "string of 2^64 bytes": (b"\x80\x04\x8d" + b"\xff" * 8, "ends in the middle of an opcode"),
    "bytes cut": (b"\x80\x03B\xff\xff\xff\x7f", "ends in the middle of an opcode"),
    "string not UTF-8": (b"\x80\x02X\x01\0\0\0\xff.", "a string that is not UTF-8"),
    "string a surrogate": (b"\x80\x02X\x03\0\0\0\xed\xa0\x80.", "a string that is not UTF-8"),
    "long integer": (b"\x80\x02\x8a\x11" + bytes(17) + b".", "an integer of 17 bytes"),
    "LONG4": (b"\x80\x02\x8b\xff\xff\xff\x7f", "opcode 0x8b"),
    "text integer": (b"\x80\x02I" + b"9" * 100 + b"\n.", "opcode 0x49"),
    "float cut": (b"\x80\x02G\0\0", "ends in the middle of an opcode"),
    "persistent id a string": (b"\x80\x02X\1\0\0\0aQ.", "a persistent id that is not a storage's"),
    "tensor of nothing": (TENSOR + b")R.", "a tensor described by 0 values"),
    "ordered dict of pairs": (
        GLOBAL + b"collections\nOrderedDict\n]\x85R.",
        "an OrderedDict with",
    ),
    "size of a list": (GLOBAL + b"torch\nSize\n]\x85R.", "a torch.Size that is not a tuple"),
    "size of nothing": (GLOBAL + b"torch\nSize\n)R.", "a torch.Size that is not a tuple"),
    "parameter of nothing": (
        GLOBAL + b"torch._utils\n_rebuild_parameter\nN\x88N\x87R.",
        "a parameter that is not a tensor",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_refuses(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=r"^here: ") as caught:
        read(data)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


STORAGES = {
    "kind": FakeStorage(kind="module"),
    "class": FakeStorage(cls="FloatStorage"),
    "class a dtype": FakeStorage(cls=torch.float32),
    "key a number": FakeStorage(key=0),
    "location": FakeStorage(location=None),
    "numel negative": FakeStorage(numel=-1),
    "numel a bool": FakeStorage(numel=True),
    "numel a float": FakeStorage(numel=4.0),
    "numel huge": FakeStorage(numel=2**63),
}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_refuses_storages(storage: FakeStorage) -> None:
    with pytest.raises(BadInput, match="a persistent id that is not a storage's"):
        read(pickled({"w": FakeTensor(storage)}))


TENSORS = {
    "offset negative": (FakeTensor(offset=-1), "offset, shape or strides are not sizes"),
    "offset a bool": (FakeTensor(offset=True), "are not sizes"),
    "offset a float": (FakeTensor(offset=0.0), "are not sizes"),
    "offset huge": (FakeTensor(offset=2**63), "are not sizes"),
    "shape negative": (FakeTensor(shape=(-4,)), "are not sizes"),
    "shape a bool": (FakeTensor(shape=(True,)), "are not sizes"),
    "shape a number": (FakeTensor(shape=4), "are not sizes"),
    "shape a string": (FakeTensor(shape="4"), "are not sizes"),
    "shape huge": (FakeTensor(shape=(2**32, 2**32), strides=(1, 1)), "are not sizes"),
    "shape of 65": (FakeTensor(shape=(1,) * 65, strides=(1,) * 65), "are not sizes"),
    "shape nested": (FakeTensor(shape=((4,),)), "are not sizes"),
    "stride negative": (FakeTensor(strides=(-1,)), "are not sizes"),
    "stride a dict": (FakeTensor(strides={}), "are not sizes"),
    "strides too few": (FakeTensor(strides=()), "a tensor of 1 dimensions with 0 strides"),
    "storage missing": (FakeTensor(storage=None), "without a storage or an element type"),
    "storage a tensor": (FakeTensor(storage=FakeTensor()), "without a storage or an element type"),
    "no element type": (
        FakeTensor(FakeStorage(cls=torch.UntypedStorage)),
        "without a storage or an element type",
    ),
    "too many values": (FakeTensor(more=(None, None)), "described by 8 values, expected 6 or 7"),
}


@pytest.mark.parametrize(("tensor", "words"), TENSORS.values(), ids=TENSORS)
def test_refuses_tensors(tensor: FakeTensor, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(pickled({"layer.weight": tensor}))
    assert words in str(caught.value)
    assert "(near 'layer.weight')" in str(caught.value)


def test_unsupported_tensors() -> None:
    for tensor, words in (
        (FakeTensor(more=({"neg": True},)), "negative or conjugate bit"),
        (FakeTensor(dtype=torch.uint16, more=({"conj": True},)), "negative or conjugate bit"),
        (FakeTensor(hooks={1: 2}), "backward hooks"),
    ):
        with pytest.raises(Unsupported, match=words):
            read(pickled({"w": tensor}))


# -- cost


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x02" + b"]" * 100_000,
        b"\x80\x02" + b")" + b"\x85" * 100_000,
        b"\x80\x04" + b"}" + b"\x94" * 100_000,
    ],
    ids=["marks", "lists", "nested tuples", "memo"],
)
def test_opcodes_are_limited(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100_000)
    with pytest.raises(BadInput, match="more than 100,000 opcodes"):
        read(data)


def test_deep_values_are_nothing_special() -> None:
    deep = b"\x80\x02)" + b"\x85" * 50_000
    with pytest.raises(BadInput, match="holds a tuple of 1, expected a dict of tensors"):
        find_state_dict(read(deep + b"."), "x")
    with pytest.raises(BadInput, match="a key that is a tuple"):
        read(b"\x80\x02}" + deep[2:] + b"Ns.")
    with pytest.raises(BadInput, match="are not sizes"):
        nested = b"ctorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x04tQK\x00"
        read(TENSOR + b"((X\7\0\0\0storage" + nested + deep[2:] + b")\x89}tR.")


def test_bytes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_BYTES", 100)
    with pytest.raises(BadInput, match="a pickle of 101 bytes; 100 are allowed"):
        read(bytes(101))


# -- which tensors are the model's

T = PickledTensor(Storage("0", F32, 16), F32, 0, (4,), (1,))
OPTIMIZER = {"state": {0: {"exp_avg": T}}, "param_groups": [{"lr": 1e-3}]}


def test_flat_and_nested() -> None:
    assert find_state_dict({"a": T}, "x").tensors == {"a": T}
    assert find_state_dict({}, "x").tensors == {}
    for key in ("model", "state_dict", "module", "model_state_dict"):
        found = find_state_dict({"epoch": 3, key: {"a": T}, "optimizer": OPTIMIZER}, "x")
        assert found.tensors == {"a": T}
        assert (found.key, found.beside) == (key, ("epoch", "optimizer"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([T], ["holds a list of 1, expected a dict of tensors"]),
        (T, ["holds a tensor, expected a dict"]),
        (
            {"a": T, "epoch": 3, "args": {}},
            ["epoch is 3, expected a tensor", "args is a dict of 0"],
        ),
        ({"a": T, "model": {"b": T}}, ["model is a dict of 1, expected a tensor"]),
        ({"model": {"a": T}, "ema": {"a": T}}, ["model is a dict of 1", "ema is a dict of 1"]),
        ({"net": {"a": T}}, ["net is a dict of 1, expected a tensor"]),
        ({"model": {"a": T, "extra": None}}, ["x: model: extra is None, expected a tensor"]),
        ({"model": {"a": {"b": T}}}, ["model is a dict of 1"]),
        ({0: T, 1: T}, ["key 0 is not a string", "key 1 is not a string"]),
        ({"model": {0: T}}, ["x: model: key 0 is not a string"]),
        ({"dtype": F32, "s": Storage("0", F32, 4)}, ["dtype is an element type", "s is a storage"]),
        ({"\x1b": "x" * 1000}, ["\\x1b is 'xxxx"]),
    ],
)
def test_names_every_entry_that_is_no_tensor(value: object, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        find_state_dict(value, "x")
    for word in words:
        assert word in str(caught.value)
    assert all(len(p) < 200 for p in caught.value.problems)
    assert "torch.save(" in str(caught.value.hint)
