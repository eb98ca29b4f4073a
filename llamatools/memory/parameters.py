"""Every weight of a model as a shape: its group, its layer, and how tensor parallelism shares it.

A dense Llama's are those of the canonical table; how files and ranks share them is the layout's
table. Cross-attention (Llama 3.2 vision), experts (Llama 4) and image encoders are added here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from llamatools.canonical import EMBEDDING, HEAD, TENSORS
from llamatools.layouts.meta import META_2, META_3
from llamatools.layouts.table import Axis
from llamatools.memory.architecture import Architecture, Layer, Tower
from llamatools.memory.formats import BF16, FP32, Format
from llamatools.spec import ModelSpec


@dataclass(frozen=True)
class Weight:
    """`count` tensors of one shape. Layer None: the embedding, the last norm, the head, images."""

    name: str
    group: str
    layer: int | None
    shape: tuple[int, ...]
    axis: Axis
    format: Format = BF16
    count: int = 1

    @property
    def numel(self) -> int:
        return self.count * prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.bytes_of(self.shape)

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Bytes of all `count`, if each had this shape."""
        return self.count * prod(shape[:-1]) * self.format.row(shape[-1])


_AXES = {row.canonical: row.axis for row in META_3.rows}
_OLD_EMBEDDING_AXIS = next(row.axis for row in META_2.rows if row.canonical == EMBEDDING)

Entry = tuple[str, str, tuple[int, ...], Axis, int]
"""(name, group, shape, axis, count)"""


def weights(a: Architecture, fmt: Format = BF16) -> tuple[Weight, ...]:
    """Every weight the model loads, once: a tied head is the embedding."""
    return tuple(_weights(a, fmt))


def _weights(a: Architecture, fmt: Format) -> Iterator[Weight]:
    for t in TENSORS:
        if "{i}" in t.template or not t.present(a.spec):
            continue
        rows, *columns = t.shape(a.spec)
        axis = _AXES[t.template]
        if t.template == EMBEDDING:
            rows += a.extra_rows
            axis = axis if a.split_vocabulary else _OLD_EMBEDDING_AXIS
        yield Weight(t.template, t.group, None, (rows, *columns), axis, fmt)
    tables = {kind: tuple(_layer(a, kind)) for kind in set(a.layers)}
    for i, kind in enumerate(a.layers):
        for name, group, shape, axis, count in tables[kind]:
            yield Weight(name.replace("{i}", str(i)), group, i, shape, axis, fmt, count)
    if a.tower:
        for name, group, shape, axis, count in _tower(a.tower, a.spec.dim):
            yield Weight(name, group, None, shape, axis, fmt, count)


def _layer(a: Architecture, kind: Layer) -> Iterator[Entry]:
    """The weights of one layer of this kind."""
    spec = _widened(a, kind)
    for t in TENSORS:
        if "{i}" in t.template and t.present(spec):
            group = t.group
            if kind.attention == "cross" and group == "attention":
                group = "cross-attention"
            yield t.template, group, t.shape(spec), _AXES[t.template], 1
    d, dim = a.spec.head_dim, a.spec.dim
    if kind.attention == "cross":
        at = "layers.{i}.cross_attention."
        yield at + "q_norm.weight", "norm", (d,), "copy", 1
        yield at + "k_norm.weight", "norm", (d,), "copy", 1
        yield at + "gates", "cross-attention", (1,), "copy", 2
    if kind.experts and a.experts:
        at, f = "layers.{i}.experts.", a.spec.ffn_dim
        yield at + "router.weight", "router", (a.experts.count, dim), "copy", 1
        yield at + "gate_up.weight", "experts", (f, dim), "rows", 2 * a.experts.count
        yield at + "down.weight", "experts", (dim, f), "columns", a.experts.count


def _widened(a: Architecture, kind: Layer) -> ModelSpec:
    """The spec whose feed-forward is as wide as the dense (or shared) one of such a layer."""
    if a.experts is None or kind.experts:
        return a.spec
    return replace(a.spec, ffn_dim=a.experts.dense_ffn)


def _tower(t: Tower, out: int) -> Iterator[Entry]:
    """The image encoder, as transformers' mllama and llama4 modules build it."""
    table = _mllama(t, out) if t.kind == "mllama" else _llama4(t, out)
    for name, shape, axis, count in table:
        yield "vision." + name, "vision", shape, axis, count


Part = tuple[str, tuple[int, ...], Axis, int]


def _encoder(t: Tower, layers: int, bias: int) -> Iterator[Part]:
    """`bias`: the attention's matrices have one (1) or not (0)."""
    d, f = t.dim, t.ffn
    yield "norms", (d,), "copy", 4 * layers  # two, each with weight and bias
    yield "q, k, v", (d, d), "rows", 3 * layers
    yield "o", (d, d), "columns", layers
    if bias:
        yield "q, k, v bias", (d,), "rows", 3 * layers
        yield "o bias", (d,), "copy", layers
    yield "fc1", (f, d), "rows", layers
    yield "fc1 bias", (f,), "rows", layers
    yield "fc2", (d, f), "columns", layers
    yield "fc2 bias", (d,), "copy", layers


def _mllama(t: Tower, out: int) -> Iterator[Part]:
    d, ratios = t.dim, t.aspect_ratios + 1
    yield from _encoder(t, t.layers + t.global_layers, 0)
    yield "global gates", (1,), "copy", 2 * t.global_layers
    yield "class", (d,), "copy", 1
    yield "patches", (d, 3 * t.patch * t.patch), "copy", 1
    yield "positions", (t.positions, d), "copy", 1
    yield "tile positions", (ratios, t.tiles * t.positions * d), "copy", 1
    yield "tiles before and after", (ratios, t.tiles * d), "copy", 2
    yield "gates", (1,), "copy", 3
    yield "outer norms", (d,), "copy", 4
    yield "projector", (out, t.output), "copy", 1
    yield "projector bias", (out,), "copy", 1


def _llama4(t: Tower, out: int) -> Iterator[Part]:
    d = t.dim
    yield from _encoder(t, t.layers, 1)
    yield "class", (d,), "copy", 1
    yield "patches", (d, 3 * t.patch * t.patch), "copy", 1
    yield "positions", (t.positions, d), "copy", 1
    yield "outer norms", (d,), "copy", 4
    yield "adapter fc1", (t.adapter, t.ffn), "rows", 1
    yield "adapter fc2", (t.output, t.adapter), "columns", 1
    yield "projector", (out, t.output), "copy", 1


def cast(every: Iterable[Weight], fmt: Format) -> tuple[Weight, ...]:
    """The same weights in another format, as far as that format reaches."""
    return tuple(replace(w, format=_format_of(w, fmt)) for w in every)


_LINEAR = frozenset({"attention", "cross-attention", "mlp", "experts"})


def _format_of(w: Weight, fmt: Format) -> Format:
    if fmt.reach == "all":
        return fmt
    if fmt.reach == "linear":
        return fmt if w.group in _LINEAR and len(w.shape) == 2 else BF16
    if w.group == "vision":
        return BF16
    return fmt if len(w.shape) == 2 else FP32


def by_group(every: Iterable[Weight]) -> dict[str, int]:
    """Parameters of each group, in the order of the forward pass."""
    out: dict[str, int] = {}
    for w in every:
        out[w.group] = out.get(w.group, 0) + w.numel
    order = ("embedding", "norm", "attention", "cross-attention", "mlp", "router", "experts",
             "head", "vision")  # fmt: skip
    return {g: out[g] for g in order if g in out}


def last_stage_names(a: Architecture) -> frozenset[str]:
    """Weights outside the layers that the end of the decoder needs; others go with its start."""
    return frozenset({"norm.weight", EMBEDDING if a.spec.tied else HEAD})
