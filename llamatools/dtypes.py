"""Element types, as one table: the name used everywhere here is the safetensors code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One element type and its names in the formats that store it."""

    name: str
    """safetensors code, e.g. "BF16"; also the name shown to users."""
    size: int
    """Bytes per element."""
    torch: str
    """Attribute of the torch module, e.g. "bfloat16"."""
    storage: str | None
    """Class name torch's pickles use for a storage of it; None where there is none."""
    convertible: bool = False
    """Whether weights of this type are converted (others are named and refused)."""

    def __repr__(self) -> str:
        return self.name


_TABLE = (
    DType("F64", 8, "float64", "DoubleStorage"),
    DType("F32", 4, "float32", "FloatStorage", convertible=True),
    DType("BF16", 2, "bfloat16", "BFloat16Storage", convertible=True),
    DType("F16", 2, "float16", "HalfStorage", convertible=True),
    DType("I64", 8, "int64", "LongStorage"),
    DType("I32", 4, "int32", "IntStorage"),
    DType("I16", 2, "int16", "ShortStorage"),
    DType("I8", 1, "int8", "CharStorage"),
    DType("U8", 1, "uint8", "ByteStorage"),
    DType("BOOL", 1, "bool", "BoolStorage"),
    DType("U16", 2, "uint16", None),
    DType("U32", 4, "uint32", None),
    DType("U64", 8, "uint64", None),
    DType("F8_E4M3", 1, "float8_e4m3fn", None),
    DType("F8_E5M2", 1, "float8_e5m2", None),
    DType("F8_E8M0", 1, "float8_e8m0fnu", None),
    DType("C64", 8, "complex64", "ComplexFloatStorage"),
)

BY_NAME = {d.name: d for d in _TABLE}
BY_TORCH = {d.torch: d for d in _TABLE}
BY_STORAGE = {d.storage: d for d in _TABLE if d.storage}

F32 = BY_NAME["F32"]
BF16 = BY_NAME["BF16"]
F16 = BY_NAME["F16"]
