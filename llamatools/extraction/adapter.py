"""The adapter's two files, from what became of each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from llamatools.adapters.opening import PEFT_FILES
from llamatools.checkpoint import Checkpoint
from llamatools.containers.safetensors_write import safetensors_layout
from llamatools.expr.nodes import Expr
from llamatools.extraction.choice import Extract, Use
from llamatools.extraction.config import adapter_config, bias_name, factor_names, full_name
from llamatools.extraction.spool import Spool
from llamatools.extraction.work import Found, stored_type
from llamatools.layouts.hf import HF
from llamatools.merging.tied import EMBEDDING_MODULE, HEAD_MODULE
from llamatools.opening.naming import model_name
from llamatools.plan.plan import Plan, PlannedFile, Step, Target

WEIGHTS = PEFT_FILES[0]
_EMBEDDING = f"{EMBEDDING_MODULE}.weight"


@dataclass(frozen=True)
class Adapter:
    """What the files hold."""

    ranks: Mapping[str, int]
    """Module -> rank of its factors."""
    saved: tuple[str, ...]
    """Modules that are saved in full."""
    values: Mapping[str, Expr]
    """Name in the file -> value, in the order of the model."""
    lora_bias: bool
    """lora_B has a bias wherever the base's module has one."""
    keeps_tied: bool
    """It changes the embedding of a model whose head that is, before and after."""

    def config(self, base: Checkpoint, wishes: Extract) -> dict[str, object]:
        names = [native for _, native, _ in HF.expand(base.spec.n_layers)]
        return adapter_config(
            model_name(base.folder.path),
            wishes.rank,
            self.ranks,
            self.saved,
            [n.removesuffix(".weight") for n in names if n.endswith(".weight")],
            lora_bias=self.lora_bias,
            keeps_tied=self.keeps_tied,
        )

    def plan(self, base: Checkpoint) -> Plan:
        """The weight file, and how it is filled. Wider types come first: readers like alignment."""
        values = sorted(self.values.items(), key=lambda v: -v[1].dtype.size)
        layout = safetensors_layout(
            [(name, v.dtype, v.shape) for name, v in values], {"format": "pt"}
        )
        steps = tuple(
            Step(name, v, (Target(0, slot, 0, 0, v.rows),)) for slot, (name, v) in enumerate(values)
        )
        return Plan(base.spec, steps, (PlannedFile(WEIGHTS, layout),))


def assemble(found: Sequence[Found], wishes: Extract, spool: Spool, *, tied: bool) -> Adapter:
    """The adapter. `tied`: the head is the embedding in both models."""
    ranks = {f.pair.module: f.rank for f in found if f.rank is not None}
    lora_bias = any(f.use is Use.BIAS and f.differs for f in found)
    if lora_bias:
        _complete_biases(found, ranks, spool, stored_type(wishes))
    saved = {f.pair.native: f.pair.tuned for f in found if f.use is Use.FULL and f.differs}
    keeps_tied = tied and (EMBEDDING_MODULE in ranks or _EMBEDDING in saved)
    if keeps_tied:
        _repeat_for_head(ranks, saved)
    values = {**spool.finish(), **{full_name(native): value for native, value in saved.items()}}
    return Adapter(
        ranks,
        tuple(native.removesuffix(".weight") for native in saved),
        {name: values[name] for name in _order(found) if name in values},
        lora_bias,
        keeps_tied,
    )


def _complete_biases(
    found: Sequence[Found], ranks: dict[str, int], spool: Spool, kind: torch.dtype
) -> None:
    """Zeros for every bias that is the base's.

    With one bias of lora_B PEFT makes one for every module, and misses those that are not in the
    file. A module whose weight is the base's gets factors of zeros to go with its bias.
    """
    shapes = {f.pair.module: f.pair.base.shape for f in found if f.use is Use.FACTORS}
    for f in found:
        module = f.pair.module
        if f.use is not Use.BIAS:
            continue
        if not f.differs:
            spool.add(bias_name(module), torch.zeros(f.pair.base.rows, dtype=kind))
        if module not in ranks:
            ranks[module] = 1
            rows, columns = shapes[module]
            a, b = factor_names(module, embedding=False)
            spool.add(a, torch.zeros(1, columns, dtype=kind))
            spool.add(b, torch.zeros(rows, 1, dtype=kind))


def _repeat_for_head(ranks: dict[str, int], saved: dict[str, Expr]) -> None:
    """What the embedding gets, the head that it is gets, too.

    PEFT stores both, and wants both when it loads them. Its versions before 0.18 do not tie what
    they load, so that the head would stay the base's.
    """
    if EMBEDDING_MODULE in ranks:
        ranks[HEAD_MODULE] = ranks[EMBEDDING_MODULE]
    if _EMBEDDING in saved:
        saved[f"{HEAD_MODULE}.weight"] = saved[_EMBEDDING]


def _order(found: Sequence[Found]) -> Iterator[str]:
    """All names that the file may hold, as the model's tensors come; the head is the last."""
    for f in found:
        if f.use is Use.FACTORS:
            yield from factor_names(f.pair.module, embedding=f.pair.is_embedding)
        yield bias_name(f.pair.module) if f.use is Use.BIAS else full_name(f.pair.native)
    yield from factor_names(HEAD_MODULE, embedding=False)
    yield full_name(f"{HEAD_MODULE}.weight")
