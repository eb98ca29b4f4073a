"""adapter_config.json as PEFT reads it, for factors whose scale is 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

DUMMY_TARGET = "dummy-target-modules"
"""What PEFT takes for no modules at all; it refuses an empty list."""
PREFIX = "base_model.model."


def adapter_config(
    base: str,
    rank: int,
    ranks: Mapping[str, int],
    saved: Sequence[str],
    modules: Sequence[str],
    *,
    lora_bias: bool,
    keeps_tied: bool,
) -> dict[str, object]:
    """The config of an adapter of the model named `base`.

    `ranks`: module -> rank of its factors; `saved`: modules saved in full; `modules`: all that the
    base has. `keeps_tied`: what changes the embedding changes the head that is the same matrix.
    """
    others = _patterns({m: r for m, r in ranks.items() if r != rank}, modules)
    config: dict[str, object] = {
        # PEFT scales by alpha / rank, and looks both up by module.
        "alpha_pattern": others,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_bias": lora_bias,
        "lora_dropout": 0.0,
        "modules_to_save": shortened(set(saved), modules) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others,
        "target_modules": shortened(ranks.keys(), modules) or DUMMY_TARGET,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    # Versions that do not know the key warn of it: it is there only where it says something.
    return {**config, "ensure_weight_tying": True} if keeps_tied else config


def shortened(chosen: Set[str], modules: Sequence[str]) -> list[str]:
    """Names for the chosen modules and no others, in the order of the model.

    The last word of a path, where all modules that it could mean are chosen; else whole paths.
    PEFT compares modules_to_save with the bare end of a path: "norm" is also input_layernorm's.
    """
    out: dict[str, None] = {}
    for module in modules:
        if module in chosen:
            word = module.rpartition(".")[2]
            short = all(m in chosen for m in modules if m.endswith(word)) and not any(
                m.endswith(word) and m.rpartition(".")[2] != word for m in modules
            )
            out[word if short else module] = None
    return list(out)


def _patterns(ranks: Mapping[str, int], modules: Sequence[str]) -> dict[str, int]:
    """Ranks by module, or by the last word where all modules of that name have one rank."""
    out = {}
    for module, rank in ranks.items():
        word = module.rpartition(".")[2]
        same = all(ranks.get(m) == rank for m in modules if m.rpartition(".")[2] == word)
        out[word if same else module] = rank
    return out


def factor_names(module: str, *, embedding: bool) -> tuple[str, str]:
    """Names of A and B. An embedding's are stored transposed: (r, rows) and (columns, r)."""
    path = f"{PREFIX}{module}"
    if embedding:
        return f"{path}.lora_embedding_A", f"{path}.lora_embedding_B"
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"


def bias_name(module: str) -> str:
    return f"{PREFIX}{module}.lora_B.bias"


def full_name(native: str) -> str:
    """A tensor that stands in place of the base's."""
    return f"{PREFIX}{native}"
