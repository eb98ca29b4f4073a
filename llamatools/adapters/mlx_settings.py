"""adapter_config.json of mlx-lm: kind, rank, scale and layers of an adapter.

It holds all that training was told, in whatever keys the release had; a key that none of them had
may mean more, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llamatools.errors import BadInput, Unsupported
from llamatools.jsonfields import Fields
from llamatools.text import listing, safe

LORA, DORA, FULL = "lora", "dora", "full"
KINDS = {LORA: "LoRA", DORA: "DoRA", FULL: "full fine-tune"}

# What adapter_config.json says of training alone, in every release up to 0.32.
_WITHOUT_EFFECT = frozenset({
    "adapter_file", "adapter_path", "batch_size", "chat_feature", "clear_cache_threshold",
    "completion_feature", "config", "data", "grad_accumulation_steps", "grad_checkpoint",
    "hf_dataset", "iters", "learning_rate", "lr_schedule", "mask_prompt", "max_seq_length",
    "optimizer", "optimizer_config", "project_name", "prompt_feature", "report_to",
    "resume_adapter_file", "save_every", "seed", "steps_per_eval", "steps_per_report", "test",
    "test_batches", "text_feature", "train", "trust_remote_code", "val_batches", "wandb",
})  # fmt: skip
_ASKED = frozenset({"fine_tune_type", "use_dora", "lora_parameters", "num_layers", "lora_layers",
                    "model"})  # fmt: skip
_PARAMETERS = frozenset({"rank", "scale", "alpha", "dropout", "keys"})

EXAMPLE = (
    '{"fine_tune_type": "lora", "num_layers": LAYERS, '
    '"lora_parameters": {"rank": RANK, "scale": SCALE}}'
)


@dataclass(frozen=True)
class Settings:
    """What is known of an adapter beside its tensors."""

    where: str
    kind: str
    layers: int | None
    """How many of the last layers were trained; none or less: all. None: not said."""
    base: str | None
    rank: int = 1
    scale: float = 1.0
    keys: tuple[str, ...] = ()
    """Modules of a layer; empty: those that the release saw fit."""


def read_settings(data: Mapping[str, object], where: str) -> Settings:
    """`where` names the config in messages. Raises BadInput with all that is wrong with it."""
    f = Fields(data, where)
    kind = f.text("fine_tune_type") or (DORA if f.flag("use_dora") else LORA)
    if kind not in KINDS:
        f.problems.append(f"{where}: fine_tune_type: expected {listing(KINDS)}, found {safe(kind)}")
    layers = next((data[k] for k in ("num_layers", "lora_layers") if k in data), None)
    if layers is not None and (isinstance(layers, bool) or not isinstance(layers, int)):
        f.problems.append(f"{where}: num_layers: expected a whole number, found {safe(layers)}")
        layers = None
    _refuse_unknown(f, data, _WITHOUT_EFFECT | _ASKED, where)
    settings = Settings(where, kind, layers, base=f.text("model"))
    inner = f.mapping("lora_parameters")
    if kind != FULL:
        f.require(lora_parameters=inner)
        settings = _with_factors(settings, f, data, inner or {})
    if f.problems:
        raise BadInput(f.problems, hint=f"factors have their scale from it, as in {EXAMPLE}")
    return settings


def _refuse_unknown(
    f: Fields, data: Mapping[str, object], known: frozenset[str], where: str
) -> None:
    unknown = [k for k, v in data.items() if k not in known and v not in (None, False, "", [], {})]
    if unknown:
        f.problems.append(f"{where}: not known, so that merging may mean more: {listing(unknown)}")


def _with_factors(
    settings: Settings, f: Fields, data: Mapping[str, object], inner: Mapping[str, object]
) -> Settings:
    """With what lora_parameters says."""
    where = f"{settings.where}: lora_parameters"
    g = Fields(inner, where)
    rank, scale, alpha = g.count("rank"), g.number("scale"), g.number("alpha")
    if inner:
        g.require(rank=rank, scale=scale)
    _refuse_unknown(g, inner, _PARAMETERS, where)
    keys = inner.get("keys") or []
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        g.problems.append(f"{where}: keys: expected a list of strings")
        keys = []
    f.problems += g.problems
    if rank is None or scale is None:
        return settings
    scale = _times_alpha(scale, alpha, rank, data, where)
    return replace(settings, rank=rank, scale=scale, keys=tuple(keys))


def _times_alpha(
    scale: float, alpha: float | None, rank: int, data: Mapping[str, object], where: str
) -> float:
    """What a·b is multiplied with.

    alpha / rank was a factor until 0.14.1, and alpha was in the config still, for nothing, until
    0.22. A config with num_layers is of 0.19 or later; with lora_layers and without use_dora, of
    0.12 or before. Between them the releases cannot be told apart.
    """
    if alpha is None or alpha == rank or "num_layers" in data:
        return scale
    if "lora_layers" in data and "use_dora" not in data:
        return scale * (alpha / rank)
    product = scale * (alpha / rank)
    raise Unsupported(
        f"{where}: scale {scale:g} and alpha {alpha:g}: mlx-lm before 0.14.2 multiplied the scale "
        "by alpha / rank, later ones do not, and nothing here tells which wrote it",
        hint=f"remove alpha, and set scale to {product:.17g} if mlx-lm 0.14.1 or before trained "
        f"the adapter; else leave it at {scale:.17g}",
    )
