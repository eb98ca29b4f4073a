"""What a runtime takes beside weights and cache. Nothing here is exact, and all of it says so."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
UTILISATION = (9, 10)
"""The part of a GPU's visible memory that servers use: vLLM's gpu_memory_utilization of 0.90."""

BATCHED_TOKENS = 8192
"""Tokens that go through the model at once, at most: chunks of a prefill."""

SOURCES = {
    "rope": "rotary tables: positions x head width x 2 bytes, in the model's 16-bit type",
    "activations": "the larger of T·6·(ffn/tp + dim) and S·vocabulary·41 bytes, for T batched "
    f"tokens (at most {BATCHED_TOKENS:,}) and S sequences: a rule of thumb for inference",
    "runtime": "CUDA context, graphs and fragments: 2.5% of the rest (5% with tensor parallelism), "
    "at least 0.5 GiB: a rule of thumb",
    "usable": "90% of the visible memory, vLLM's gpu_memory_utilization",
    "visible": "as drivers report it, to 0.01 GiB",
}


@dataclass(frozen=True)
class Estimates:
    """Bytes on one GPU."""

    rope: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        return self.rope + self.activations + self.runtime


def rope_cache(positions: int, head_dim: int) -> int:
    return positions * head_dim * 2


def activations(tokens: int, sequences: int, *, ffn: int, dim: int, vocab: int, tp: int) -> int:
    batched = min(tokens, BATCHED_TOKENS)
    return max(batched * 6 * (-(-ffn // tp) + dim), sequences * vocab * 41)


def runtime(rest: int, tp: int) -> int:
    """`rest`: all other bytes on the GPU."""
    return max(GIB // 2, rest * (2 if tp > 1 else 1) // 40)


def usable(visible: int) -> int:
    part, whole = UTILISATION
    return visible * part // whole
