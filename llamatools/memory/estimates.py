"""What a runtime takes beside weights and cache. Nothing here is exact, and all of it says so."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
UTILISATION = (9, 10)
"""The part of a GPU's visible memory that servers use: gpu_memory_utilization as vLLM had it for
years (0.92 of late)."""

BATCHED_TOKENS = 8192
"""Tokens that go through the model at once, at most: chunks of a prefill."""

SOURCES = {
    "rope": "rotary tables: positions x head width x 2 bytes, in the model's 16-bit type",
    "activations": "the larger of T·6·(ffn/tp + dim) and S·vocabulary·41 bytes, for T batched "
    f"tokens (at most {BATCHED_TOKENS:,}) and S sequences: a rule of thumb for inference",
    "runtime": "CUDA context, graphs and fragments: 2.5% of everything else on the GPU (5% with "
    "tensor parallelism), at least 0.5 GiB: a rule of thumb",
    "usable": "90% of the visible memory, as gpu_memory_utilization of vLLM",
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
    """Cosines and sines, of half a head's width each."""
    return positions * head_dim * 2


def activations(tokens: int, sequences: int, *, ffn: int, dim: int, vocab: int, tp: int) -> int:
    """The larger of two peaks, in bytes: T·6·(ffn/tp + dim) and S·vocab·41.

    T, the tokens that go through a layer at once: those of all sequences together, at most
    BATCHED_TOKENS; the rank has its part of the feed-forward's width, and all of the model's.
    S, the sequences, each of which has one row of logits sampled from.
    """
    batched = min(tokens, BATCHED_TOKENS)
    return max(batched * 6 * (-(-ffn // tp) + dim), sequences * vocab * 41)


def runtime(rest: int, tp: int) -> int:
    """2.5% of `rest`, all other bytes on the GPU; 5% with tensor parallelism; at least 0.5 GiB."""
    return max(GIB // 2, rest * (2 if tp > 1 else 1) // 40)


def usable(visible: int) -> int:
    part, whole = UTILISATION
    return visible * part // whole
