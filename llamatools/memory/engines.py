"""What runtimes do to sizes: blocks of tokens, padded vocabularies, formats they cache in.

Each is the default of its runtime, and where its code has it:

    vllm       config/cache.py: DEFAULT_BLOCK_SIZE 16; vocab_parallel_embedding.py: padding of 64
    llama.cpp  llama-context.cpp: the context of each sequence is padded to 256 cells (#17046)
    hf         cache_utils.py: DynamicLayer grows token by token, DynamicSlidingWindowLayer keeps
               one token fewer than its window
    mlx        mlx_lm/models/cache.py: KVCache.step 256; QuantizedKVCache has groups of 64

What vllm, llama.cpp and mlx keep of layers with windows depends on how they schedule: such
figures are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.memory.formats import FORMATS, Format


@dataclass(frozen=True)
class Engine:
    """One runtime's roundings. Defaults are those of the bare formula."""

    name: str
    block: int = 1
    """Tokens that are allotted together."""
    vocabulary: int = 1
    """The embedding and the head are padded to a multiple of so many rows."""
    window_spare: int = 0
    """Tokens fewer than its window that a layer with a window keeps between steps."""
    keeps_windows: bool = False
    """It is known to keep just that of such a layer."""
    formats: tuple[str, ...] = ()
    """KV formats it offers; empty where any is taken."""
    own: tuple[Format, ...] = ()
    """Formats that it stores otherwise than most."""

    def format(self, name: str) -> Format:
        """The KV format of that name, as this engine stores it."""
        return next((f for f in self.own if f.name == name), FORMATS[name])

    def tokens(self, n: int, window: int | None) -> int:
        """Tokens a layer's cache has room for, once `n` have been seen."""
        kept = n if window is None else min(n, window - self.window_spare)
        return -(-kept // self.block) * self.block


PLAIN = Engine("none", keeps_windows=True)
"""The formula alone: no blocks, no padding."""

_TABLE = (
    PLAIN,
    Engine("vllm", 16, 64, formats=("bf16", "fp16", "fp32", "fp8")),
    Engine("llama.cpp", 256,
           formats=("fp32", "fp16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")),
    Engine("hf", 1, window_spare=1, keeps_windows=True, formats=("fp32", "bf16", "fp16")),
    Engine("mlx", 256, formats=("fp32", "bf16", "fp16", "int8", "int4"),
           own=(Format("int8", 64, 68, "groups of 64 with scale and bias in 16 bits"),
                Format("int4", 64, 36, "groups of 64 with scale and bias in 16 bits"))),
)  # fmt: skip

ENGINES = {e.name: e for e in _TABLE}
