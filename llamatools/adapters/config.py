"""PEFT's adapter_config.json, as far as merging depends on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llamatools.adapters.patterns import first_match
from llamatools.adapters.refuse import refuse_config
from llamatools.errors import BadInput
from llamatools.jsonfields import Fields
from llamatools.text import listing, safe

NAME = "adapter_config.json"

Names = str | tuple[str, ...] | None
"""A pattern, several names, or nothing."""

# What has no bearing on merged weights, or says it in the tensors as well.
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ephemeral_gpu_offload",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type", "velora_config", "merge_weights",
})  # fmt: skip


@dataclass(frozen=True)
class Blocks:
    """Which of BD-LoRA's factors are block-diagonal: those of modules whose path holds a name."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Config:
    where: str
    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    lora_bias: bool = False
    bias: str = "none"
    ranks: Mapping[str, int] | None = None
    alphas: Mapping[str, float] | None = None
    blocks: Blocks | None = None
    target: Names = None
    exclude: Names = None
    layers: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    """modules_to_save"""
    tokens: Mapping[str, tuple[int, ...]] | None = None
    """trainable_token_indices, by module"""
    keeps_tied: bool = False
    base_model: str | None = None
    task: str | None = None

    def saves(self, module: str) -> bool:
        """Whether modules_to_save names a module, by the end of its path, or one around it."""
        path = f".{module}."
        return any(module.endswith(name) or f".{name}." in path for name in self.saved)

    def rank_of(self, module: str) -> int:
        key = first_match(self.ranks or (), module, f"{self.where}: rank_pattern")
        return self.rank if key is None or self.ranks is None else self.ranks[key]

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied with."""
        key = first_match(self.alphas or (), module, f"{self.where}: alpha_pattern")
        alpha = self.alpha if key is None or self.alphas is None else self.alphas[key]
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


class _Reader(Fields):
    """Fields of an adapter's config; what was asked for is known."""

    def __init__(self, data: Mapping[str, object], where: str) -> None:
        super().__init__(data, where)
        self._asked: set[str] = set()

    def get(self, key: str) -> object:
        self._asked.add(key)
        return self._data.get(key)

    def names(self, key: str) -> Names:
        """One string, or a list of them."""
        value = self.get(key)
        return value if isinstance(value, str) else self.strings(key)

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.get(key)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self._wrong(key, "a string or a list of strings")
            return ()
        return tuple(value)

    def numbers(self, key: str) -> tuple[int, ...]:
        """One whole number, or a list of them."""
        value = self.get(key)
        if value is None:
            return ()
        many = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in many):
            self._wrong(key, "whole numbers")
            return ()
        return tuple(many)

    def pattern(self, key: str) -> Mapping[str, float]:
        """Positive numbers by pattern."""
        self.get(key)
        value = self.mapping(key) or {}
        f = Fields(value, f"{self._where}: {key}")
        found = {k: f.number(k) for k in value}
        self.problems += f.problems
        return {k: v for k, v in found.items() if v is not None}

    def tokens(self, key: str) -> Mapping[str, tuple[int, ...]] | None:
        value = self.get(key)
        if not isinstance(value, dict):
            numbers = self.numbers(key)
            return {"embed_tokens": numbers} if numbers else None
        inner = _Reader(value, f"{self._where}: {key}")
        found = {str(module): inner.numbers(module) for module in value}
        self.problems += inner.problems
        return found

    def unknown(self) -> list[str]:
        """Keys that say something, and that nobody asked for."""
        asked = self._asked | _WITHOUT_EFFECT
        return [k for k, v in self._data.items() if k not in asked and v not in _NOTHING]


_NOTHING: tuple[object, ...] = (None, False, "", [], {})


def read_config(data: Mapping[str, object], where: str = NAME) -> Config:
    """Read an adapter_config.json. Raises Unsupported for kinds that are not merged."""
    refuse_config(data, where)
    f = _Reader(data, where)
    for key in ("r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias"):
        f.get(key)
    f.get("fan_in_fan_out")  # Llama's weights are stored (out, in), which is what A and B say
    ranks = {k: round(v) for k, v in f.pattern("rank_pattern").items()}
    for key, value in f.pattern("rank_pattern").items():
        if value != round(value):
            f.problems.append(f"{where}: rank_pattern: {safe(key)}: expected a whole number")
    rank, alpha = f.count("r"), f.number("lora_alpha")
    f.require(r=rank)
    bias = f.text("bias") or "none"
    if bias not in ("none", "all", "lora_only"):
        f.problems.append(f"{where}: bias: expected none, all or lora_only, found {safe(bias)}")
    found = Config(
        where=where,
        rank=rank or 1,
        alpha=alpha if alpha is not None else 8.0,
        rslora=bool(f.flag("use_rslora")),
        dora=bool(f.flag("use_dora")),
        lora_bias=bool(f.flag("lora_bias")),
        bias=bias,
        ranks=ranks,
        alphas=f.pattern("alpha_pattern"),
        blocks=_blocks(f),
        target=f.names("target_modules"),
        exclude=f.names("exclude_modules"),
        layers=f.numbers("layers_to_transform"),
        layers_pattern=f.strings("layers_pattern"),
        saved=f.strings("modules_to_save"),
        tokens=f.tokens("trainable_token_indices"),
        keeps_tied=bool(f.get("ensure_weight_tying") and f.flag("ensure_weight_tying")),
        base_model=f.text("base_model_name_or_path"),
        task=f.text("task_type"),
    )
    unknown = f.unknown()
    if unknown:
        f.problems.append(f"{where}: not known, so that merging may mean more: {listing(unknown)}")
    if f.problems:
        raise BadInput(f.problems)
    return found


def _blocks(f: _Reader) -> Blocks | None:
    f.get("use_bdlora")
    data = f.mapping("use_bdlora")
    if data is None:
        return None
    inner = _Reader(data, "use_bdlora")
    found = Blocks(
        inner.strings("target_modules_bd_a"),
        inner.strings("target_modules_bd_b"),
        inner.count("nblocks") or 1,
    )
    f.problems += inner.problems
    return found
