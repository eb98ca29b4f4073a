"""Number formats of weights and caches, as one table: how many bytes so many elements take.

Formats that share scales store elements in blocks; sizes are whole blocks, so that every figure
made of them is an integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fractions import Fraction

    from llamatools.dtypes import DType

Reach = Literal["all", "linear", "matrices"]
"""Which weights a model is given in this format: every one; the linear layers alone, as servers
quantise (embedding, head, norms and routers stay in 16 bits); or every matrix, as GGUF files
have it (vectors stay in 32 bits)."""


@dataclass(frozen=True)
class Format:
    """`elements` numbers in a row are stored in `size` bytes, scales included."""

    name: str
    elements: int
    size: int
    what: str
    reach: Reach = "all"

    @property
    def per_element(self) -> Fraction:
        """Bytes an element takes, exactly."""
        from fractions import Fraction

        return Fraction(self.size, self.elements)

    def row(self, n: int) -> int:
        """Bytes of a row of `n` elements; a block that is begun is stored whole."""
        return -(-n // self.elements) * self.size


_TABLE = (
    Format("fp32", 1, 4, "IEEE single"),
    Format("bf16", 1, 2, "bfloat16"),
    Format("fp16", 1, 2, "IEEE half"),
    Format("fp8", 1, 1, "E4M3 or E5M2, one scale a tensor", "linear"),
    Format("int8", 1, 1, "one scale a channel or tensor, left out here", "linear"),
    Format("int4", 32, 18, "32 elements of 4 bits with 2 bytes of scales", "linear"),
    Format("q8_0", 32, 34, "ggml: 32 elements of 8 bits and a half-precision scale", "matrices"),
    Format("q5_1", 32, 24, "ggml: 32 elements of 5 bits, scale and minimum", "matrices"),
    Format("q5_0", 32, 22, "ggml: 32 elements of 5 bits and a scale", "matrices"),
    Format("q4_1", 32, 20, "ggml: 32 elements of 4 bits, scale and minimum", "matrices"),
    Format("q4_0", 32, 18, "ggml: 32 elements of 4 bits and a scale", "matrices"),
    Format("iq4_nl", 32, 18, "ggml: 32 elements of 4 bits, not evenly spaced, and a scale",
           "matrices"),
)  # fmt: skip

FORMATS = {f.name: f for f in _TABLE}

ALIASES = {
    "float32": "fp32", "f32": "fp32", "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16", "f16": "fp16", "half": "fp16",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip
"""Other names of the same, as torch and the engines have them."""

FP32 = FORMATS["fp32"]
BF16 = FORMATS["bf16"]

_OF_DTYPE = {"F32": "fp32", "BF16": "bf16", "F16": "fp16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}


def of_dtype(dtype: DType) -> Format:
    """The format of a tensor in a file; types without a name of their own count by their size."""
    named = _OF_DTYPE.get(dtype.name)
    return FORMATS[named] if named else Format(dtype.name, 1, dtype.size, "as stored")


def of_config(dtype: str | None) -> Format:
    """The format a config names ("bfloat16", "torch.float16"); bf16 where it names none."""
    name = (dtype or "").removeprefix("torch.")
    return FORMATS.get(ALIASES.get(name, name), BF16)
