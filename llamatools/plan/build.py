"""From a checkpoint and options to a plan: values, then passes over them, then files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.canonical import tensors as canonical_tensors
from llamatools.checkpoint import Checkpoint
from llamatools.dtypes import BF16, F16, F32, DType
from llamatools.errors import UsageError
from llamatools.expr.nodes import Expr, bare
from llamatools.layouts import meta_config
from llamatools.layouts.hf import HF
from llamatools.layouts.meta import META_2, META_3
from llamatools.layouts.split import Part, check_shards, part
from llamatools.layouts.table import Layout, Row
from llamatools.opening.naming import looks_instruct
from llamatools.plan.carry import Carried, Wishes, carry
from llamatools.plan.documents import (
    hf_documents,
    meta_documents,
    unchanged_documents,
)
from llamatools.plan.pack import (
    CONSOLIDATED_SAFETENSORS,
    MODEL_BIN,
    MODEL_SAFETENSORS,
    Entry,
    Naming,
    consolidated_pth,
    index_json,
    pack,
)
from llamatools.plan.passes.cast import cast
from llamatools.plan.passes.merge import named
from llamatools.plan.plan import Plan, PlannedFile, Step, Target

DTYPES = {"bf16": BF16, "fp16": F16, "fp32": F32}


# Containers each layout can be written in; the first is the default.
_CONTAINERS = {
    "hf": ("safetensors", "bin"),
    "meta": ("pth", "safetensors"),
    "safetensors": ("safetensors",),
}


@dataclass(frozen=True)
class Options:
    """What `convert` is asked to do. All of it, and nothing else, decides the output's bytes."""

    to: str
    """"hf", "meta" or "safetensors"."""
    dtype: str = "keep"
    """"keep", or one of DTYPES."""
    weights: str | None = None
    """Container: "safetensors" or "bin" for hf, "pth" or "safetensors" for meta."""
    shards: int | None = None
    """Model-parallel files of a Meta layout; None: as the official model has."""
    max_shard_size: int = 5_000_000_000
    """Bytes of tensors per file, for layouts that are not model-parallel."""
    tokenizer: str | None = None
    """Path of the tokenizer to write, "none" for none; None: the one beside the weights."""
    instruct: bool | None = None
    """Tuned to chat; None: as the folder's name says."""
    strict: bool = False
    """A tokenizer that the layout cannot hold exactly is an error."""
    verify: bool = True
    """Hold a converted tokenizer against its source."""
    check_finite: bool | None = None
    """Weights that are NaN or infinite are an error; None: in merges alone."""

    def recorded(self) -> dict[str, object]:
        """The options that decide the output's bytes, without paths."""
        checks = ("strict", "verify", "check_finite")
        out = {k: v for k, v in asdict(self).items() if k not in checks}
        return {**out, "tokenizer": self.tokenizer and Path(self.tokenizer).name}

    def __post_init__(self) -> None:
        """UsageError where options contradict each other."""
        if self.to not in _CONTAINERS:
            raise UsageError(f"--to {self.to}: expected one of {', '.join(_CONTAINERS)}")
        if self.dtype != "keep" and self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype}: expected keep, {', '.join(DTYPES)}")
        if self.weights not in (None, *_CONTAINERS[self.to]):
            raise UsageError(
                f"--weights {self.weights} does not go with --to {self.to}",
                hint=f"--to {self.to} takes {' or '.join(_CONTAINERS[self.to])}",
            )
        if self.shards is not None and (self.to != "meta" or self.weights == "safetensors"):
            raise UsageError(
                "--shards counts model-parallel files, which only Meta's .pth layout has",
                hint="--max-shard-size limits the size of other files",
            )
        if self.max_shard_size < 1:
            raise UsageError("--max-shard-size must be positive")


def plan_conversion(source: Checkpoint, options: Options) -> Plan:
    """The plan of a conversion. Raises NotRepresentable or UsageError where there is none."""
    instruct = looks_instruct(source.folder.path) if options.instruct is None else options.instruct
    wishes = Wishes(options.to, options.tokenizer, instruct, options.strict, options.verify)
    return _BUILDERS[options.to](source, options, carry(source, wishes))


def plan_fingerprint(source: Checkpoint) -> Plan:
    """Every canonical tensor, written nowhere."""
    return Plan(source.spec, tuple(Step(n, v) for n, v in source.values.items()))


def _values(source: Checkpoint, options: Options, *, head: bool) -> dict[str, Expr]:
    """Canonical tensors in writing order, after the passes; the head if asked for."""
    order = list(canonical_tensors(source.spec))
    if head and HEAD not in order:
        order.append(HEAD)
    # A tied model stores its head, where a layout wants one, as a copy of the embedding.
    stored = {HEAD: source.values[EMBEDDING], **source.values}
    values = {name: named(stored[name], name) for name in order}
    if options.dtype != "keep":
        values = {n: cast(n, v, DTYPES[options.dtype]) for n, v in values.items()}
    return {n: bare(v) for n, v in values.items()}


def _to_hf(source: Checkpoint, options: Options, carried: Carried) -> Plan:
    naming = MODEL_BIN if options.weights == "bin" else MODEL_SAFETENSORS
    values = _values(source, options, head=False)
    documents = hf_documents(source, _main_dtype(source, options), carried)
    return _unsharded(source, options, HF, naming, values, documents, carried)


def _to_safetensors(source: Checkpoint, options: Options, carried: Carried) -> Plan:
    """The container alone changes: names and row order stay the source's."""
    meta = source.layout is not HF
    naming = CONSOLIDATED_SAFETENSORS if meta else MODEL_SAFETENSORS
    values = _values(source, options, head=HEAD in source.values and meta)
    documents = unchanged_documents(source, _main_dtype(source, options), carried)
    return _unsharded(source, options, source.layout, naming, values, documents, carried)


def _to_meta(source: Checkpoint, options: Options, carried: Carried) -> Plan:
    meta_config.check_representable(source.spec)
    layout = META_3 if source.identity.generation.split_vocabulary else META_2
    if source.layout is not HF and source.shards > 1:
        layout = source.layout
    if options.weights == "safetensors":
        documents = meta_documents(source, 1)
        values = _values(source, options, head=True)
        naming = CONSOLIDATED_SAFETENSORS
        return _unsharded(source, options, layout, naming, values, documents, carried)
    shards = options.shards or default_shards(source)
    check_shards(source.spec, shards)
    documents = meta_documents(source, shards)
    return _parallel(source, options, layout, shards, documents, carried)


_BUILDERS = {"hf": _to_hf, "safetensors": _to_safetensors, "meta": _to_meta}


def default_shards(source: Checkpoint) -> int:
    """As many files as the official release of this architecture has, else one."""
    return source.identity.official.shards if source.identity.official else 1


def _main_dtype(source: Checkpoint, options: Options) -> DType:
    return DTYPES.get(options.dtype, source.dtype)


def _rows(layout: Layout, values: Mapping[str, Expr], n_layers: int) -> dict[str, tuple[str, Row]]:
    """Canonical name -> (native name, row) for the tensors that are written."""
    table = {canonical: (native, row) for canonical, native, row in layout.expand(n_layers)}
    return {name: table[name] for name in values}


def _unsharded(
    source: Checkpoint,
    options: Options,
    layout: Layout,
    naming: Naming,
    values: Mapping[str, Expr],
    documents: Mapping[str, bytes],
    carried: Carried,
) -> Plan:
    """Whole tensors, cut into files by size alone."""
    rows = _rows(layout, values, source.spec.n_layers)
    entries: list[Entry] = [(rows[n][0], v.dtype, v.shape) for n, v in values.items()]
    sizes = [v.nbytes for v in values.values()]
    runs = pack(sizes, options.max_shard_size)
    files = []
    for i, run in enumerate(runs):
        name = naming.name(i, len(runs))
        stem = name.removesuffix("." + naming.ending)
        files.append(PlannedFile(name, naming.make([entries[j] for j in run], stem)))
    place = {j: (f, j - run.start) for f, run in enumerate(runs) for j in run}
    steps = tuple(
        Step(n, v, (Target(*place[j], 0, 0, v.rows),), rows[n][1].order.heads(source.spec))
        for j, (n, v) in enumerate(values.items())
    )
    if len(runs) > 1:
        named = [[entries[j] for j in run] for run in runs]
        documents = {**documents, naming.index_name: index_json(naming, named, sum(sizes))}
    return _finish(source, options, steps, files, {**documents, **carried.documents}, carried)


def _parallel(
    source: Checkpoint,
    options: Options,
    layout: Layout,
    shards: int,
    documents: Mapping[str, bytes],
    carried: Carried,
) -> Plan:
    """Every file holds its rank's part of every tensor."""
    values = _values(source, options, head=True)
    rows = _rows(layout, values, source.spec.n_layers)
    kv_heads = source.spec.n_kv_heads
    parts: dict[str, list[Part]] = {
        n: [part(rows[n][1].axis, v.shape, rank, shards, kv_heads) for rank in range(shards)]
        for n, v in values.items()
    }
    files = []
    for rank in range(shards):
        entries: list[Entry] = [
            (rows[n][0], v.dtype, _part_shape(v.shape, parts[n][rank])) for n, v in values.items()
        ]
        files.append(PlannedFile(*consolidated_pth(entries, rank)))
    steps = tuple(
        Step(
            n,
            v,
            tuple(Target(rank, slot, *parts[n][rank]) for rank in range(shards)),
            rows[n][1].order.heads(source.spec),
        )
        for slot, (n, v) in enumerate(values.items())
    )
    return _finish(source, options, steps, files, {**documents, **carried.documents}, carried)


def _part_shape(shape: tuple[int, ...], where: Part) -> tuple[int, ...]:
    axis, start, stop = where
    return (*shape[:axis], stop - start, *shape[axis + 1 :])


def _finish(
    source: Checkpoint,
    options: Options,
    steps: tuple[Step, ...],
    files: list[PlannedFile],
    documents: Mapping[str, bytes],
    carried: Carried,
) -> Plan:
    gone = {*documents, *carried.replaced}
    travellers = (n for n in source.folder.travellers() if n not in gone)
    notes: tuple[str, ...] = ()
    if options.to == "meta":
        usual = source.identity.context
        notes = meta_config.losses(source.spec, usual, same_head=source.same_head)
    return Plan(
        source.spec,
        steps,
        tuple(files),
        documents,
        (*notes, *carried.notes),
        tuple(travellers),
        carried.conflicts,
        carried.report,
    )
