"""Writes the pickle of a plain dict of tensors, each in a storage of its own.

The opcodes are those torch.save uses (protocol 2), less the memo: every tensor is spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from llamatools.containers.numbers import row_major
from llamatools.dtypes import DType

_PROTO_2, _STOP = b"\x80\x02", b"."
_EMPTY_DICT, _MARK, _SET_ITEMS = b"}", b"(", b"u"
_EMPTY_TUPLE, _TUPLE = b")", b"t"
_REDUCE, _PERSISTENT_ID = b"R", b"Q"
_FALSE = b"\x89"


def state_dict_pickle(tensors: Sequence[tuple[str, DType, tuple[int, ...]]]) -> bytes:
    """{name: tensor}; the i-th tensor's storage has the key str(i)."""
    items = b"".join(
        _text(name) + _tensor(str(i), dtype, shape)
        for i, (name, dtype, shape) in enumerate(tensors)
    )
    return _PROTO_2 + _EMPTY_DICT + _MARK + items + _SET_ITEMS + _STOP


def _tensor(key: str, dtype: DType, shape: tuple[int, ...]) -> bytes:
    """A call of torch's rebuild function; types without a storage class go by their own name."""
    numel = prod(shape)
    if dtype.storage:
        function, storage, count, more = "_rebuild_tensor_v2", dtype.storage, numel, b""
    else:
        function, storage, count = "_rebuild_tensor_v3", "UntypedStorage", numel * dtype.size
        more = _global("torch", dtype.torch)
    module = "torch" if dtype.storage else "torch.storage"
    saved = (_text("storage"), _global(module, storage), _text(key), _text("cpu"), _integer(count))
    hooks = _global("collections", "OrderedDict") + _EMPTY_TUPLE + _REDUCE
    arguments = (
        _tuple(saved) + _PERSISTENT_ID,
        _integer(0),  # offset
        _tuple(map(_integer, shape)),
        _tuple(map(_integer, row_major(shape))),
        _FALSE,  # requires_grad
        hooks,
        more,
    )
    return _global("torch._utils", function) + _tuple(arguments) + _REDUCE


def _global(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _tuple(items: Iterable[bytes]) -> bytes:
    return _MARK + b"".join(items) + _TUPLE


def _integer(n: int) -> bytes:
    """BININT up to 2^31, LONG1 beyond; n is not negative."""
    if n < 2**31:
        return b"J" + n.to_bytes(4, "little")
    raw = n.to_bytes(9, "little")  # a byte more than 2^64 needs, so that the sign bit is clear
    return b"\x8a" + bytes([len(raw)]) + raw
