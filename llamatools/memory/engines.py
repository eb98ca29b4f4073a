"""What runtimes do to sizes: blocks of tokens, padded vocabularies, formats they cache in."""

from __future__ import annotations

from dataclasses import dataclass


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
    formats: tuple[str, ...] = ()
    """KV formats it offers; empty where any is taken."""
    source: str = ""

    def tokens(self, n: int, window: int | None) -> int:
        """Tokens a layer's cache has room for, once `n` have been seen."""
        kept = n if window is None else min(n, window - self.window_spare)
        return -(-kept // self.block) * self.block


PLAIN = Engine("none", source="the formula alone: no blocks, no padding")

_TABLE = (
    PLAIN,
    Engine("vllm", 16, 64, formats=("bf16", "fp16", "fp32", "fp8"),
           source="vLLM: block_size 16, VocabParallelEmbedding padded to 64"),
    Engine("llama.cpp", 256,
           formats=("fp32", "fp16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"),
           source="llama.cpp: the context is padded to 256 cells"),
    Engine("hf", 1, window_spare=1, formats=("fp32", "bf16", "fp16"),
           source="transformers: DynamicCache grows token by token"),
    Engine("mlx", 256, formats=("fp32", "bf16", "fp16", "int8", "int4"),
           source="mlx-lm: KVCache grows in steps of 256"),
)  # fmt: skip

ENGINES = {e.name: e for e in _TABLE}
