"""The official Llamas, as data. The table names a model; it never fills in what files say.

Figures are those of the released `params.json` and `config.json` files and model cards.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamatools.spec import ModelSpec, RopeScaling, llama3_scaling


@dataclass(frozen=True)
class Generation:
    """What the members of one generation share."""

    key: str
    title: str
    theta: float
    scaled: bool
    context: int
    split_vocabulary: bool
    """Meta's files split the embedding by vocabulary rows (else by columns)."""
    bos: int
    eos: int
    instruct_eos: tuple[int, ...]


GENERATIONS = {
    g.key: g
    for g in (
        Generation("llama-1", "Llama 1", 1e4, False, 2048, False, 1, 2, (2,)),
        Generation("llama-2", "Llama 2", 1e4, False, 4096, False, 1, 2, (2,)),
        Generation("code-llama", "Code Llama", 1e6, False, 16384, False, 1, 2, (2,)),
        Generation("llama-3", "Llama 3", 5e5, False, 8192, True, 128000, 128001, (128001, 128009)),
        Generation(
            "llama-3.1", "Llama 3.1", 5e5, True, 131072, True, 128000, 128001,
            (128001, 128008, 128009),
        ),
        Generation(
            "llama-3.2", "Llama 3.2", 5e5, True, 131072, True, 128000, 128001,
            (128001, 128008, 128009),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Official:
    """One released architecture."""

    key: str
    title: str
    generation: Generation
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_factor: float | None
    context: int
    shards: int
    """Files of the Meta release."""
    multiple_of: int
    ffn_dim_multiplier: float | None
    tied: bool = False

    @property
    def rope_scaling(self) -> RopeScaling | None:
        return llama3_scaling(self.rope_factor) if self.rope_factor else None

    def same_architecture(self, spec: ModelSpec) -> bool:
        """Whether every size but the vocabulary's is this model's."""
        mine = (self.dim, self.n_layers, self.n_heads, self.n_kv_heads, self.ffn_dim)
        its = (spec.dim, spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.ffn_dim)
        return mine == its


def _rows() -> tuple[Official, ...]:
    one, two, code, three, three1, three2 = GENERATIONS.values()
    table = (
        # key, title, generation, dim, layers, heads, kv, ffn, vocab, eps, theta, factor,
        #   context, files, multiple_of, multiplier, tied
        ("llama-1-7b", "Llama 1 7B", one, 4096, 32, 32, 32, 11008, 32000, 1e-6, 1e4, None,
            2048, 1, 256, None),
        ("llama-1-13b", "Llama 1 13B", one, 5120, 40, 40, 40, 13824, 32000, 1e-6, 1e4, None,
            2048, 2, 256, None),
        ("llama-1-33b", "Llama 1 33B", one, 6656, 60, 52, 52, 17920, 32000, 1e-6, 1e4, None,
            2048, 4, 256, None),
        ("llama-1-65b", "Llama 1 65B", one, 8192, 80, 64, 64, 22016, 32000, 1e-5, 1e4, None,
            2048, 8, 256, None),
        ("llama-2-7b", "Llama 2 7B", two, 4096, 32, 32, 32, 11008, 32000, 1e-5, 1e4, None,
            4096, 1, 256, None),
        ("llama-2-13b", "Llama 2 13B", two, 5120, 40, 40, 40, 13824, 32000, 1e-5, 1e4, None,
            4096, 2, 256, None),
        ("llama-2-70b", "Llama 2 70B", two, 8192, 80, 64, 8, 28672, 32000, 1e-5, 1e4, None,
            4096, 8, 4096, 1.3),
        ("code-llama-7b", "Code Llama 7B", code, 4096, 32, 32, 32, 11008, 32016, 1e-5, 1e6, None,
            16384, 1, 256, 1.0),
        ("code-llama-7b-python", "Code Llama 7B Python", code, 4096, 32, 32, 32, 11008, 32000,
            1e-5, 1e6, None, 16384, 1, 256, 1.0),
        ("code-llama-13b", "Code Llama 13B", code, 5120, 40, 40, 40, 13824, 32016, 1e-5, 1e6,
            None, 16384, 2, 256, 1.0),
        ("code-llama-13b-python", "Code Llama 13B Python", code, 5120, 40, 40, 40, 13824, 32000,
            1e-5, 1e6, None, 16384, 2, 256, 1.0),
        ("code-llama-34b", "Code Llama 34B", code, 8192, 48, 64, 8, 22016, 32000, 1e-5, 1e6,
            None, 16384, 4, 256, 1.0),
        ("code-llama-70b", "Code Llama 70B", code, 8192, 80, 64, 8, 28672, 32016, 1e-5, 1e6,
            None, 16384, 8, 4096, 1.3),
        ("code-llama-70b-instruct", "Code Llama 70B Instruct or Python", code, 8192, 80, 64, 8,
            28672, 32016, 1e-5, 1e4, None, 4096, 8, 4096, 1.3),
        ("llama-3-8b", "Llama 3 8B", three, 4096, 32, 32, 8, 14336, 128256, 1e-5, 5e5, None,
            8192, 1, 1024, 1.3),
        ("llama-3-70b", "Llama 3 70B", three, 8192, 80, 64, 8, 28672, 128256, 1e-5, 5e5, None,
            8192, 8, 4096, 1.3),
        ("llama-3.1-8b", "Llama 3.1 8B", three1, 4096, 32, 32, 8, 14336, 128256, 1e-5, 5e5, 8.0,
            131072, 1, 1024, 1.3),
        ("llama-3.1-70b", "Llama 3.1 70B or 3.3 70B", three1, 8192, 80, 64, 8, 28672, 128256,
            1e-5, 5e5, 8.0, 131072, 8, 4096, 1.3),
        ("llama-3.1-405b", "Llama 3.1 405B", three1, 16384, 126, 128, 8, 53248, 128256, 1e-5,
            5e5, 8.0, 131072, 8, 4096, 1.2),
        ("llama-3.2-1b", "Llama 3.2 1B", three2, 2048, 16, 32, 8, 8192, 128256, 1e-5, 5e5, 32.0,
            131072, 1, 256, 1.5, True),
        ("llama-3.2-3b", "Llama 3.2 3B", three2, 3072, 28, 24, 8, 8192, 128256, 1e-5, 5e5, 32.0,
            131072, 1, 256, 1.0, True),
    )  # fmt: skip
    return tuple(Official(*row) for row in table)


OFFICIAL = _rows()
