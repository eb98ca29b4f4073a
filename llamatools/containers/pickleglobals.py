"""Every name a checkpoint's pickle may mention, and what it means here.

A pickle names functions and classes to be imported and called. Nothing is imported here: a name
is looked up in one table, as an exact (module, name) pair, and yields an object of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llamatools.containers.numbers import is_shape, is_size, is_strides
from llamatools.dtypes import BY_STORAGE, BY_TORCH, DType
from llamatools.errors import BadInput, Unsupported
from llamatools.text import safe


@dataclass(frozen=True)
class StorageClass:
    """A class of torch storages. `dtype` None: untyped, counted in bytes."""

    dtype: DType | None


@dataclass(frozen=True)
class Storage:
    """A persistent id: the archive's record that holds a storage's bytes."""

    key: str
    dtype: DType | None
    nbytes: int


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as the pickle describes it: a view of a storage. Offset, strides in elements."""

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Function:
    """Something a pickle may call, and what the call gives; `build` gets the arguments."""

    name: str
    build: Callable[[tuple[object, ...]], object]


def resolve(module: str, name: str) -> object:
    """Our object for a global; raises BadInput naming a global that is not in the table."""
    found = _GLOBALS.get((module, name))
    if found is not None:
        return found
    full = f"{safe(module)}.{safe(name)}"
    if kind := _RECOGNISED.get((module, name)):
        raise Unsupported(f"the pickle holds {kind} ({full})")
    raise BadInput(
        f"the pickle refers to {full}, which a file of tensors has no need of",
        hint="if you trust where the file came from, re-save only its tensors: "
        "torch.save(model.state_dict(), ...)",
    )


def is_known(module: str, name: str) -> bool:
    """Whether the pair is in the table."""
    return (module, name) in _GLOBALS


def storage(persistent_id: object) -> Storage:
    """The storage a persistent id names: ("storage", class, key, location, element count).

    The location (cpu, cuda:3, ...) says where the writer held it, which is nothing to a reader.
    """
    match persistent_id:
        case ("storage", StorageClass(dtype=dtype), str(key), str(), numel) if is_size(numel):
            return Storage(key, dtype, numel * (dtype.size if dtype else 1))
    raise BadInput("a persistent id that is not a storage's")


def _tensor(args: tuple[object, ...], dtype: object) -> PickledTensor:
    """From the six arguments that every version of torch's rebuild functions starts with."""
    where, offset, shape, strides, _, hooks = args
    if not isinstance(where, Storage) or not isinstance(dtype, DType):
        raise BadInput("a tensor without a storage or an element type")
    if not (is_size(offset) and is_shape(shape) and is_strides(strides)):
        raise BadInput("a tensor whose offset, shape or strides are not sizes")
    if len(shape) != len(strides):
        raise BadInput(f"a tensor of {len(shape)} dimensions with {len(strides)} strides")
    if hooks:
        raise Unsupported("a tensor with backward hooks")
    return PickledTensor(where, dtype, offset, tuple(shape), tuple(strides))


def _tensor_v2(args: tuple[object, ...]) -> PickledTensor:
    """torch._utils._rebuild_tensor_v2: the element type is the storage's."""
    _expect_arguments(args, 6)
    return _tensor(args[:6], args[0].dtype if isinstance(args[0], Storage) else None)


def _tensor_v3(args: tuple[object, ...]) -> PickledTensor:
    """torch._utils._rebuild_tensor_v3: an untyped storage, and the element type beside it."""
    _expect_arguments(args, 7)
    return _tensor(args[:6], args[6])


def _expect_arguments(args: tuple[object, ...], n: int) -> None:
    """`n` of them, and perhaps the tensor's metadata after them."""
    if len(args) not in (n, n + 1):
        raise BadInput(f"a tensor described by {len(args)} values, expected {n} or {n + 1}")
    if len(args) > n and args[n]:
        # The only metadata there is says that the values are to be negated or conjugated.
        raise Unsupported("a tensor with the negative or conjugate bit set")


def _parameter(args: tuple[object, ...]) -> PickledTensor:
    """torch._utils._rebuild_parameter(data, requires_grad, backward_hooks)."""
    if len(args) != 3 or not isinstance(args[0], PickledTensor):
        raise BadInput("a parameter that is not a tensor")
    return args[0]


def _size(args: tuple[object, ...]) -> tuple[object, ...]:
    """torch.Size: a tuple under another name."""
    if len(args) != 1 or not isinstance(args[0], tuple):
        raise BadInput("a torch.Size that is not a tuple")
    return args[0]


def _ordered_dict(args: tuple[object, ...]) -> dict[object, object]:
    """collections.OrderedDict: always pickled empty and filled afterwards."""
    if args:
        raise BadInput("an OrderedDict with arguments")
    return {}


_FUNCTIONS: dict[tuple[str, str], Callable[[tuple[object, ...]], object]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
}

_GLOBALS: dict[tuple[str, str], object] = {
    **{pair: Function(".".join(pair), build) for pair, build in _FUNCTIONS.items()},
    **{("torch", name): StorageClass(dtype) for name, dtype in BY_STORAGE.items()},
    **{("torch", name): dtype for name, dtype in BY_TORCH.items()},
    ("torch", "UntypedStorage"): StorageClass(None),
    ("torch.storage", "UntypedStorage"): StorageClass(None),
}

_RECOGNISED = {
    ("torch._tensor", "_rebuild_from_type_v2"): "a subclass of torch's tensor",
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): "a tensor of a special device",
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): "a tensor of a special device",
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): "a tensor without data (meta device)",
    ("torch._utils", "_rebuild_nested_tensor"): "a nested tensor",
    ("torch._utils", "_rebuild_parameter_with_state"): "a parameter with attributes",
    ("torch._utils", "_rebuild_qtensor"): "a quantised tensor",
    ("torch._utils", "_rebuild_sparse_csr_tensor"): "a sparse tensor",
    ("torch._utils", "_rebuild_sparse_tensor"): "a sparse tensor",
    ("torch._utils", "_rebuild_wrapper_subclass"): "a subclass of torch's tensor",
    ("torch", "ComplexDoubleStorage"): "complex numbers of double precision",
    ("torch", "complex128"): "complex numbers of double precision",
    ("torch", "float4_e2m1fn_x2"): "elements of a type that is not handled",
    ("torch", "float8_e4m3fnuz"): "elements of a type that is not handled",
    ("torch", "float8_e5m2fnuz"): "elements of a type that is not handled",
    ("torch", "QInt8Storage"): "a quantised tensor",
    ("torch", "QInt32Storage"): "a quantised tensor",
    ("torch", "QUInt8Storage"): "a quantised tensor",
    ("torch", "QUInt4x2Storage"): "a quantised tensor",
}
"""What torch writes for sound tensors that cannot be converted."""
