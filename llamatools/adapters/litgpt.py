"""litgpt's adapters: lit_model.pth.lora, with hyperparameters.yaml and model_config.yaml beside it.

    transformer.h.N.attn.qkv    .lora_A (k·r, in)    .lora_B (rows of the k, r)
    transformer.h.N.attn.proj, transformer.h.N.mlp.{fc_1,fc_2,proj}, lm_head
                                .lora_A (r, in)      .lora_B (out, r)

One pair is for those k of queries, keys and values that are trained, in this order. Rows of a head
are in Hugging Face's order. Until litgpt 0.5.4 the matrix was called attn.attn, and its rows were
grouped: the queries that share a key, that key, its value, and so on. Where q, k and v were all
trained, what the factors make was added to it as it is (zero_pad in litgpt/lora.py), so that the
first rows of lora_B are not the queries', but whatever stands first in the grouped matrix.

hyperparameters.yaml holds rank, alpha and what was trained; model_config.yaml the number of heads.
litgpt itself merges by the same three files (litgpt/scripts/merge_lora.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from llamatools.adapters.config import Config
from llamatools.adapters.part import Adapter, LowRankPart, Part
from llamatools.adapters.peft import read_parts
from llamatools.containers.base import Container, StoredTensor
from llamatools.errors import BadInput, Unsupported
from llamatools.expr.held import Held, Padded
from llamatools.expr.nodes import Expr, Read, concat
from llamatools.jsonfields import Fields
from llamatools.opening.folder import Folder
from llamatools.text import listing, safe

FILES = ("lit_model.pth.lora",)
SETTINGS, MODEL = "hyperparameters.yaml", "model_config.yaml"

_NEEDED = {
    SETTINGS: "rank, alpha and which matrices were trained",
    MODEL: "the numbers of layers and heads",
}

_QKV = ("q_proj", "k_proj", "v_proj")
_SPLIT, _GROUPED = "attn.qkv", "attn.attn"

# What hyperparameters.yaml says was trained -> litgpt's name, Hugging Face's.
_MODULES = {
    "lora_projection": (("attn.proj", "self_attn.o_proj"),),
    "lora_mlp": (
        ("mlp.fc_1", "mlp.gate_proj"),
        ("mlp.fc_2", "mlp.up_proj"),
        ("mlp.proj", "mlp.down_proj"),
    ),
}
_TRAINED_QKV = ("lora_query", "lora_key", "lora_value")
_FLAGS = (*_TRAINED_QKV, *_MODULES, "lora_head")
_KNOWN = ("lora_r", "lora_alpha", "lora_dropout", *_FLAGS)
_PAIR = ("lora_A", "lora_B")


@dataclass(frozen=True)
class _Settings:
    where: str
    rank: int
    alpha: float
    trained: frozenset[str]
    layers: int
    heads: int
    groups: int
    head_rows: int
    base: str | None

    @property
    def config(self) -> Config:
        """What PEFT would say of the factors."""
        return Config(self.where, self.rank, self.alpha)

    @property
    def qkv(self) -> list[tuple[str, int]]:
        """(module, number of its heads) of queries, keys and values, as far as trained."""
        counts = zip(_QKV, (self.heads, self.groups, self.groups), strict=True)
        return [c for c, flag in zip(counts, _TRAINED_QKV, strict=True) if flag in self.trained]


def recognise(folder: Folder) -> bool:
    """Whether a folder holds an adapter of litgpt's, or the user gave one."""
    return folder.chosen in (None, *FILES) and FILES[0] in folder.names


def read(folder: Folder, container: Container) -> Adapter:
    """The parts, with the fused attention matrix taken apart."""
    lacking = [n for n in _NEEDED if n not in folder.names]
    if lacking:
        raise BadInput(
            [f"{safe(folder.path)}: no {name}, which holds {_NEEDED[name]}" for name in lacking],
            hint="litgpt writes it beside lit_model.pth.lora: copy it from there",
        )
    tensors = container.tensors
    settings = _read_settings(folder, len(tensors))
    fused = _GROUPED if any(f".{_GROUPED}." in name for name in tensors) else _SPLIT
    pairs = dict(_expected(settings, fused))
    expected = {f"{own}.{leaf}" for own in pairs for leaf in _PAIR}
    problems = []
    if missing := sorted(expected - tensors.keys()):
        problems.append(f"tensors that {SETTINGS} names and the file lacks: {listing(missing)}")
    if unknown := sorted(tensors.keys() - expected):
        problems.append(f"tensors that {SETTINGS} does not name: {listing(unknown)}")
    if problems:
        raise BadInput(problems, hint="was the adapter saved whole, and is it of a Llama?")
    parts: dict[str, Part] = {}
    plain = []
    for own, module in pairs.items():
        a, b = (tensors[f"{own}.{leaf}"] for leaf in _PAIR)
        if not own.endswith((_SPLIT, _GROUPED)):
            plain += [_named(a, module, "lora_A"), _named(b, module, "lora_B")]
        elif wrong := _misfits(a, b, settings):
            problems += wrong
        elif own.endswith(_GROUPED) and len(settings.qkv) == len(_QKV):
            parts |= {p.module: p for p in _of_grouped(module, a, b, settings)}
        else:
            plain += _of_runs(module, a, b, settings)
    if problems:
        raise BadInput(problems[:20], hint=f"do {SETTINGS} and {MODEL} belong to the adapter?")
    return Adapter(
        name=folder.path.resolve().name,
        format="litgpt",
        kind="LoRA",
        parts=parts | read_parts(plain, settings.config),
        file=container.file,
        base_model=settings.base,
    )


def _expected(settings: _Settings, fused: str) -> Iterator[tuple[str, str]]:
    """(litgpt's name, Hugging Face's) of every module that was trained; q, k and v are one."""
    inner = [pair for flag, pairs in _MODULES.items() if flag in settings.trained for pair in pairs]
    if settings.qkv:
        inner.append((fused, "self_attn"))
    for i in range(settings.layers):
        for own, module in inner:
            yield f"transformer.h.{i}.{own}", f"model.layers.{i}.{module}"
    if "lora_head" in settings.trained:
        yield "lm_head", "lm_head"


def _named(t: StoredTensor, module: str, leaf: str) -> StoredTensor:
    """A tensor under the name that PEFT would give it."""
    return replace(t, name=f"{module}.{leaf}.weight")


def _rows(t: StoredTensor, start: int, count: int) -> StoredTensor:
    """A run of a stored matrix's rows."""
    offset = t.offset + start * t.strides[0] * t.dtype.size
    return replace(t, shape=(count, *t.shape[1:]), offset=offset)


def _misfits(a: StoredTensor, b: StoredTensor, settings: _Settings) -> list[str]:
    """Where fused factors have other shapes than the files beside them say."""
    count, rank = len(settings.qkv), settings.rank
    rows = sum(heads for _, heads in settings.qkv) * settings.head_rows
    wanted = ((a, (count * rank, a.shape[-1] if a.shape else 0)), (b, (rows, rank)))
    return [
        f"{safe(t.name)}: shape {list(t.shape)}, expected {list(shape)}: rank {rank}, and of "
        f"queries, keys and values {count} with {rows:,} rows"
        for t, shape in wanted
        if t.shape != shape or not t.numel
    ]


def _of_runs(
    attention: str, a: StoredTensor, b: StoredTensor, settings: _Settings
) -> Iterator[StoredTensor]:
    """Factors of q, k and v, each of them a run of rows of the fused ones."""
    start = 0
    for i, (name, heads) in enumerate(settings.qkv):
        rows = heads * settings.head_rows
        yield _named(_rows(a, i * settings.rank, settings.rank), f"{attention}.{name}", "lora_A")
        yield _named(_rows(b, start, rows), f"{attention}.{name}", "lora_B")
        start += rows


def _of_grouped(
    attention: str, a: StoredTensor, b: StoredTensor, settings: _Settings
) -> Iterator[Part]:
    """Factors of q, k and v where litgpt added theirs to the grouped matrix as they are.

    Row i of lora_B goes with the rows of lora_A of the run it is in, as if the matrix were not
    grouped; but what they make is added to row i of the grouped matrix.
    """
    rank = settings.rank
    runs = [i for i, (_, heads) in enumerate(settings.qkv) for _ in range(heads)]
    group = [0] * (settings.heads // settings.groups) + [1, 2]
    for kind, name in enumerate(_QKV):
        mine = [at for at in range(len(runs)) if group[at % len(group)] == kind]
        pieces: list[Expr] = []
        # Heads that stand side by side and in one run are read at once.
        for (_, run), same in groupby(enumerate(mine), lambda h: (h[1] - h[0], runs[h[1]])):
            places = [at for _, at in same]
            rows = _rows(b, places[0] * settings.head_rows, len(places) * settings.head_rows)
            pieces.append(Padded(Read(rows), run * rank, (len(_QKV) - 1 - run) * rank))
        module = f"{attention}.{name}"
        left = Held(concat(0, tuple(pieces)))
        scale = settings.config.scale_of(module)
        yield Part(module, low_rank=LowRankPart(left, Read(a), scale))


# --- settings -------------------------------------------------------------------------------------


_MOST_HEADS = 10_000
"""Far beyond any model; what is made of heads one by one is bounded by it."""


def _read_settings(folder: Folder, most: int) -> _Settings:
    """What both files say. A model of more than `most` layers is not believed."""
    hyper, model = (folder.yaml(name) for name in (SETTINGS, MODEL))
    where = safe(folder.path / SETTINGS)
    f, g = Fields(hyper, where), Fields(model, safe(folder.path / MODEL))
    rank, alpha = f.count("lora_r"), f.number("lora_alpha")
    flags = {flag: f.flag(flag) for flag in _FLAGS}
    f.require(lora_r=rank, lora_alpha=alpha, **flags)
    unknown = [k for k in hyper if k.startswith("lora_") and k not in _KNOWN]
    if unknown:
        f.problems.append(f"{where}: not known, so that merging may mean more: {listing(unknown)}")
    counts = {k: g.count(k) for k in ("n_layer", "n_head", "n_query_groups", "head_size")}
    g.require(**counts)
    layers, heads, groups, head_rows = (n or 1 for n in counts.values())
    if layers > most:
        g.problems.append(
            f"{safe(folder.path / MODEL)}: n_layer {layers:,}, more than the adapter has tensors"
        )
    if heads > _MOST_HEADS:
        g.problems.append(f"{safe(folder.path / MODEL)}: n_head {heads:,}: not a Llama's")
    if heads % groups:
        g.problems.append(
            f"{safe(folder.path / MODEL)}: n_query_groups {groups} does not divide n_head {heads}"
        )
    interleaved = g.flag("rope_interleave")
    if f.problems or g.problems:
        raise BadInput(f.problems + g.problems)
    if interleaved:
        raise Unsupported(f"{safe(folder.path / MODEL)}: rope_interleave: not a Llama's")
    base = hyper.get("checkpoint_dir")
    return _Settings(
        where=where,
        rank=rank or 1,
        alpha=alpha or 1.0,
        trained=frozenset(flag for flag, on in flags.items() if on),
        layers=layers,
        heads=heads,
        groups=groups,
        head_rows=head_rows,
        base=base if isinstance(base, str) else None,
    )
