"""Adapters that PEFT builds and saves, and what merging them must give.

Random numbers stand in for training: every parameter that PEFT would train is moved. `exact` works
out what the saved files mean in fp64, the way the papers write it: slowly, one module at a time,
with neither PEFT's code nor llamatools'.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.tiny import BITS, Tensors, Tiny
from support.tiny_files import write_hf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel
    from transformers import LlamaForCausalLM

PREFIX = "base_model.model."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
VOCABULARY = ["embed_tokens", "lm_head"]


# --- bases ----------------------------------------------------------------------------------------


def trained(model: Tiny) -> Tiny:
    """The model with weights of the size that training gives them, so that logits are tame."""
    generator = torch.Generator().manual_seed(17)
    truth: Tensors = {}
    for name, t in model.truth.items():
        drawn = torch.randn(t.shape, generator=generator)
        if "norm" in name:
            drawn = 1 + drawn * 0.1
        elif name != EMBEDDING:
            drawn = drawn * model.dim**-0.5
        truth[name] = drawn.to(model.dtype)
    model.__dict__["truth"] = truth
    return model


@cache
def base(**changes: Any) -> Tiny:
    """Three layers of grouped heads, in fp32 unless `changes` say otherwise."""
    usual: dict[str, Any] = {
        "head_dim": 8,
        "layers": 3,
        "ffn": 160,
        "vocab": 192,
        "dtype": torch.float32,
    }
    return trained(Tiny(**(usual | changes)))


PLAIN, TIED = base(), base(tied=True)
BIASED = base(attention_bias=True, mlp_bias=True)


# --- kinds of adapters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One way to train and save an adapter: what LoraConfig is given, and where."""

    settings: Mapping[str, Any]
    base: Tiny = PLAIN
    grown: int = 0
    """Rows that the vocabulary gets before training."""
    saving: Mapping[str, Any] = field(default_factory=dict)
    """What save_pretrained is given."""
    converted: bool = False
    """Saved as the difference from its own beginning, as PiSSA's and OLoRA's must be."""


# Overlapping on purpose: the first key that matches has the say, be it the wider one. PEFT sorts
# the keys when it saves, so that only patterns in this order mean the same before and after.
_RANKS = {r".*\.[12]\.mlp\.(up|gate)_proj": 6, ".*q_proj": 4, "layers.0.self_attn.k_proj": 12,
          "layers.0.self_attn.q_proj": 16, "up_proj": 2}  # fmt: skip
_ALPHAS = {r".*\.[02]\..*down_proj": 5, "layers.1.self_attn.v_proj": 3, "q_proj": 1, "v_proj": 32}
_PATTERNS = {"rank_pattern": _RANKS, "alpha_pattern": _ALPHAS}
_BD = {"target_modules_bd_a": ["o_proj", "down_proj"],
       "target_modules_bd_b": ["q_proj", "k_proj", "v_proj", "up_proj", "gate_proj"],
       "nblocks": 2}  # fmt: skip
_BD_PATHS = {"target_modules_bd_a": ["self_attn.o_proj", "0.mlp.down_proj"],
             "target_modules_bd_b": ["1.self_attn.q"], "nblocks": 4,
             "match_strict": False}  # fmt: skip
_FULL_NAMES = ["model.layers.1.self_attn.k_proj", "layers.0.mlp.down_proj", "v_proj"]

KINDS: dict[str, Kind] = {
    "lora": Kind({"target_modules": ["q_proj", "v_proj"]}),
    "linear": Kind({"target_modules": LINEAR, "lora_dropout": 0.5}),
    "all-linear": Kind({"target_modules": "all-linear"}),
    "regex": Kind({"target_modules": r".*\.(q|up)_proj"}),
    "full-names": Kind({"target_modules": _FULL_NAMES}),
    "excluded": Kind({"target_modules": LINEAR, "exclude_modules": ["k_proj", "layers.1.mlp.up_proj"]}),  # noqa: E501
    "excluded-regex": Kind({"target_modules": LINEAR, "exclude_modules": r".*\.[02]\.mlp\..*"}),
    "layers": Kind({"target_modules": LINEAR, "layers_to_transform": [0, 2]}),
    "one-layer": Kind({"target_modules": LINEAR, "layers_to_transform": 1}),
    "layers-pattern": Kind({"target_modules": LINEAR, "layers_to_transform": [1, 2], "layers_pattern": "layers"}),  # noqa: E501
    "layers-full-names": Kind({"target_modules": _FULL_NAMES, "layers_to_transform": [2]}),
    "rslora": Kind({"target_modules": LINEAR, "use_rslora": True}),
    "patterns": Kind({"target_modules": LINEAR, **_PATTERNS}),
    "rslora-patterns": Kind({"target_modules": LINEAR, "use_rslora": True, **_PATTERNS}),
    "dora": Kind({"target_modules": LINEAR, "use_dora": True}),
    "dora-rslora-patterns": Kind({"target_modules": LINEAR, "use_dora": True, "use_rslora": True, **_PATTERNS}),  # noqa: E501
    "dora-embedding": Kind({"target_modules": ["embed_tokens", "k_proj"], "use_dora": True}),
    "dora-embedding-full-name": Kind({"target_modules": ["model.embed_tokens"], "use_dora": True}),
    "dora-head": Kind({"target_modules": ["lm_head", "o_proj"], "use_dora": True}),
    "dora-biased": Kind({"target_modules": LINEAR, "use_dora": True, "bias": "all"}, BIASED),
    "embedding": Kind({"target_modules": ["embed_tokens"]}),
    "embedding-full-name": Kind({"target_modules": ["model.embed_tokens", "q_proj"]}),
    "embedding-rslora": Kind({"target_modules": ["embed_tokens"], "use_rslora": True, "alpha_pattern": {"embed_tokens": 3}}),  # noqa: E501
    "head": Kind({"target_modules": ["lm_head"]}),
    "embedding-and-head": Kind({"target_modules": [*VOCABULARY, "q_proj"]}),
    "lora-bias": Kind({"target_modules": LINEAR, "lora_bias": True}, BIASED),
    "bias-all": Kind({"target_modules": ["q_proj", "up_proj"], "bias": "all"}, BIASED),
    "bias-only": Kind({"target_modules": ["q_proj", "up_proj"], "bias": "lora_only"}, BIASED),
    "biases": Kind({"target_modules": ["q_proj", "down_proj"], "lora_bias": True, "bias": "all", "alpha_pattern": {"q_proj": 5}}, BIASED),  # noqa: E501
    "saved-vocabulary": Kind({"target_modules": ["q_proj"], "modules_to_save": VOCABULARY}),
    "saved-norm": Kind({"target_modules": ["q_proj"], "modules_to_save": ["model.norm", "lm_head"]}),  # noqa: E501
    "saved-norms": Kind({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "saved-block": Kind({"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["mlp"]}),
    "saved-block-biased": Kind({"target_modules": ["q_proj"], "modules_to_save": ["mlp"], "bias": "all"}, BIASED),  # noqa: E501
    "saved-biased": Kind({"target_modules": ["q_proj"], "modules_to_save": ["k_proj"]}, BIASED),
    "tokens": Kind({"target_modules": ["q_proj"], "trainable_token_indices": [190, 3, 17]}),
    "tokens-by-module": Kind({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [7, 2], "lm_head": [5, 9, 1]}}),  # noqa: E501
    "tokens-of-the-head": Kind({"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5, 9]}}),  # noqa: E501
    "tokens-by-full-name": Kind({"target_modules": ["q_proj"], "trainable_token_indices": {"model.embed_tokens": [7, 2]}}),  # noqa: E501
    "fan-in-fan-out": Kind({"target_modules": ["q_proj", "o_proj"], "fan_in_fan_out": True}),
    "fan-in-fan-out-embedding": Kind({"target_modules": ["embed_tokens"], "fan_in_fan_out": True}),
    "grown": Kind({"target_modules": ["q_proj"]}, grown=5),
    "grown-lora": Kind({"target_modules": [*VOCABULARY, "q_proj"]}, grown=5),
    "grown-saved": Kind({"target_modules": ["q_proj"], "modules_to_save": VOCABULARY}, grown=5),
    "grown-tokens": Kind({"target_modules": ["q_proj"], "trainable_token_indices": [195, 192]}, grown=5),  # noqa: E501
    "kept-embeddings": Kind({"target_modules": ["q_proj"]}, saving={"save_embedding_layers": True}),
    "bd": Kind({"target_modules": LINEAR, "use_bdlora": _BD}),
    "bd-rslora": Kind({"target_modules": LINEAR, "use_bdlora": _BD, "use_rslora": True, "rank_pattern": {"o_proj": 4}}),  # noqa: E501
    "bd-some": Kind({"target_modules": LINEAR, "use_bdlora": {"target_modules_bd_b": ["q_proj"], "nblocks": 4, "match_strict": False}}),  # noqa: E501
    "bd-paths": Kind({"target_modules": LINEAR, "use_bdlora": _BD_PATHS}),
    "gaussian": Kind({"target_modules": LINEAR, "init_lora_weights": "gaussian"}),
    "orthogonal": Kind({"target_modules": LINEAR, "init_lora_weights": "orthogonal"}),
    "eva": Kind({"target_modules": LINEAR, "init_lora_weights": "eva"}),
    "mica": Kind({"target_modules": [*LINEAR, "embed_tokens"], "init_lora_weights": "mica"}),
    "pissa": Kind({"target_modules": LINEAR, "init_lora_weights": "pissa"}, converted=True),
    "pissa-patterns": Kind({"target_modules": LINEAR, "init_lora_weights": "pissa_niter_4", **_PATTERNS}, converted=True),  # noqa: E501
    "pissa-rslora": Kind({"target_modules": LINEAR, "init_lora_weights": "pissa", "use_rslora": True}, converted=True),  # noqa: E501
    "olora": Kind({"target_modules": LINEAR, "init_lora_weights": "olora"}, converted=True),
    "bin": Kind({"target_modules": LINEAR}, saving={"safe_serialization": False}),
    "bin-dora": Kind({"target_modules": [*LINEAR, "embed_tokens"], "use_dora": True}, saving={"safe_serialization": False}),  # noqa: E501
}  # fmt: skip


def skip_unknown(kind: Kind) -> None:
    """Skip the test where the PEFT that is installed does not have the kind yet."""
    from peft import LoraConfig

    known = {f.name: str(f.type) for f in fields(LoraConfig)}
    lacking = sorted(kind.settings.keys() - known.keys())
    init = kind.settings.get("init_lora_weights", "bool").partition("_niter")[0]
    if init not in known["init_lora_weights"]:
        lacking.append(init)
    if lacking:
        pytest.skip(f"this PEFT has no {', '.join(lacking)}")


# --- PEFT -----------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT warns of much that is meant here: tied weights, saved embeddings."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(23)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors this small are ready before a second thread is awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def move(model: torch.nn.Module, seed: int) -> None:
    """Stand-in for training: every trainable number changes, magnitudes by a factor around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            drawn = torch.randn(p.shape, generator=generator).to(p.dtype)
            if "lora_magnitude_vector" in name:
                p.mul_(torch.exp(drawn * 0.2))
            else:
                p.add_(drawn * 0.1)


def load_base(folder: Path, rows: int | None = None) -> LlamaForCausalLM:
    """A folder in transformers, in its own type; with another number of rows where `rows` is."""
    from transformers import LlamaForCausalLM

    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype="auto")
    model.eval()
    return _resized(model, rows)


def _resized(model: LlamaForCausalLM, rows: int | None) -> LlamaForCausalLM:
    if rows is not None and rows != model.config.vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def make(kind: Kind, source: Path, out: Path, seed: int = 1) -> Path:
    """An adapter of the folder `source`, trained and saved by PEFT."""
    from peft import BdLoraConfig, LoraConfig, get_peft_model

    settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16}
    settings |= copy.deepcopy(kind.settings)  # PEFT changes lists that it is given
    if "use_bdlora" in settings:
        settings["use_bdlora"] = BdLoraConfig(**settings["use_bdlora"])
    with quiet():
        rows = kind.base.vocab + kind.grown
        model = get_peft_model(load_base(source, rows), LoraConfig(**settings))
        saving = dict(kind.saving)
        if kind.converted:
            beginning = out.with_name(out.name + "-beginning")
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(beginning)
            model.peft_config["default"].init_lora_weights = kind.settings["init_lora_weights"]
            saving["path_initial_model_for_weight_conversion"] = beginning
        move(model, seed)
        model.save_pretrained(out, **saving)
    return out


def load_peft(source: Path | LlamaForCausalLM, adapter: Path) -> PeftModel:
    """A base with an adapter on top, unmerged."""
    from peft import PeftModel

    with quiet():
        model = load_base(source) if isinstance(source, Path) else source
        return PeftModel.from_pretrained(_resized(model, stored_rows(adapter)), adapter).eval()


def peft_merged(source: Path, *adapters: Path) -> Tensors:
    """What PEFT itself merges, one adapter after the other, in the base's type."""
    model = load_base(source)
    for adapter in adapters:
        with quiet():
            model = load_peft(model, adapter).merge_and_unload()
    return {name: t.clone() for name, t in model.state_dict().items()}


def logits(model: torch.nn.Module, vocab: int) -> torch.Tensor:
    """Of every token once, so that no row of the vocabulary goes unseen."""
    order = torch.randperm(vocab, generator=torch.Generator().manual_seed(3))
    ids = torch.cat([order, order[: -vocab % 16]]).view(-1, 16)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found.double()


# --- what the files mean --------------------------------------------------------------------------

_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.token_adapter)?(?:\.base_layer)?\."
    r"(?P<role>lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector"
    r"|trainable_tokens_delta|weight|bias)"
)
# PEFT reads a saved module from the name without these, and has no use for the other copies.
_COPIES = (".original_module.", ".modules_to_save.")


def read_adapter(folder: Path) -> Tensors:
    """An adapter's tensors under the names in its file."""
    pickled = folder / "adapter_model.bin"
    if pickled.exists():
        return torch.load(pickled, weights_only=True)  # type: ignore[no-any-return]
    return load_file(folder / "adapter_model.safetensors")


def stored_rows(adapter: Path) -> int | None:
    """Rows of an embedding or a head that the adapter brings along."""
    whole = re.compile(r".*(embed_tokens|lm_head)(\.token_adapter)?(\.base_layer)?\.weight")
    return next((len(t) for n, t in read_adapter(adapter).items() if whole.fullmatch(n)), None)


def parts(folder: Path) -> dict[str, Tensors]:
    """By module, what the file holds for it."""
    found: dict[str, Tensors] = {}
    for name, t in read_adapter(folder).items():
        if any(word in name for word in _COPIES):
            continue
        plain = name.replace(".default", "").replace("vector.weight", "vector")
        match = _NAME.fullmatch(plain)
        assert match is not None, name
        found.setdefault(match["module"], {})[match["role"]] = t.double()
    return found


def settings_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return found


def scale(module: str, config: Mapping[str, Any]) -> float:
    """alpha / r, or alpha / sqrt(r)"""

    def patterned(key: str, usual: float) -> float:
        for pattern, value in (config.get(key) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        return usual

    rank = patterned("rank_pattern", config["r"])
    alpha = patterned("alpha_pattern", config["lora_alpha"])
    return alpha / (rank**0.5 if config["use_rslora"] else rank)


def delta(module: str, held: Tensors, config: Mapping[str, Any]) -> torch.Tensor:
    """scale * B A, (out, in); for an embedding its transpose, (vocabulary, dim)."""
    if "lora_embedding_A" in held:
        return scale(module, config) * (held["lora_embedding_B"] @ held["lora_embedding_A"]).T
    a, b = held["lora_A.weight"], held["lora_B.weight"]
    blocks = config.get("use_bdlora") or {}
    if any(word in module for word in blocks.get("target_modules_bd_a") or ()):
        a = torch.block_diag(*a.chunk(blocks["nblocks"]))
    if any(word in module for word in blocks.get("target_modules_bd_b") or ()):
        b = torch.block_diag(*b.chunk(blocks["nblocks"]))
    return scale(module, config) * (b @ a)


def _weight(module: str, w: torch.Tensor, held: Tensors, config: Mapping[str, Any]) -> torch.Tensor:
    w = held.get("weight", w).clone()
    embedding = "lora_embedding_A" in held
    if embedding or "lora_A.weight" in held:
        w = w + delta(module, held, config)
    if "lora_magnitude_vector" in held:  # lengths of columns for an embedding, else of rows
        axis = 0 if embedding else 1
        w = w / w.norm(dim=axis, keepdim=True) * held["lora_magnitude_vector"].unsqueeze(axis)
    if "trainable_tokens_delta" in held:
        tokens = config["trainable_token_indices"]
        if isinstance(tokens, dict):
            tokens = next(rows for name, rows in tokens.items() if module.endswith(name))
        w[torch.tensor(tokens)] = held["trainable_tokens_delta"]
    return w


def exact(weights: Tensors, adapter: Path, own: Tensors | None = None) -> Tensors:
    """Every tensor of a model with an adapter merged, in fp64, from the raw files.

    Weights in the adapter's file that are the same in `own` are mere copies, and replace nothing.
    """
    config = settings_of(adapter)
    out = {name: t.double() for name, t in weights.items()}
    for module, held in parts(adapter).items():
        path = module if f"{module}.weight" in out else f"model.{module}"
        copied = (own or {}).get(f"{path}.weight")
        if copied is not None and "weight" in held and torch.equal(copied.double(), held["weight"]):
            del held["weight"]
        out[f"{path}.weight"] = _weight(module, out[f"{path}.weight"], held, config)
        bias = held.get("bias", out.get(f"{path}.bias"))
        if "lora_B.bias" in held:
            assert bias is not None
            bias = bias + scale(module, config) * held["lora_B.bias"]
        if bias is not None:
            out[f"{path}.bias"] = bias
    return out


def in_order(weights: Tensors, *adapters: Path) -> Tensors:
    """`exact`, one adapter after the other."""
    own = weights
    for adapter in adapters:
        weights = exact(weights, adapter, own)
    return weights


def weighted(weights: Tensors, adapters: Sequence[Path], shares: Sequence[float]) -> Tensors:
    """The base and a share of what each adapter would do to it alone, in fp64."""
    start = {name: t.double() for name, t in weights.items()}
    out = dict(start)
    for adapter, share in zip(adapters, shares, strict=True):
        for name, t in exact(weights, adapter).items():
            out[name] = out[name] + share * (t - start[name])
    return out


def untied(model: Tiny) -> Tensors:
    """A tied model's tensors with a head of its own."""
    return {HEAD: model.truth[EMBEDDING], **model.truth}


# --- comparing ------------------------------------------------------------------------------------


def nearest(exactly: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """fp64 rounded once.

    To 16 bits by way of fp32, where what is inexact becomes odd, so that no tie arises that was
    none: torch's own way there rounds twice.
    """
    near = exactly.to(torch.float32)
    if dtype == torch.float32:
        return near
    back = near.double()
    bits = near.view(torch.int32)
    bits -= (back.abs() > exactly.abs()).to(torch.int32)
    bits |= (back != exactly).to(torch.int32)
    return near.to(dtype)


def missed(found: Tensors, wanted: Tensors) -> float:
    """The share of elements, of all that the names have in common, not nearest to the exact."""
    assert found.keys() == wanted.keys()
    wrong = total = 0
    for name, t in found.items():
        assert t.shape == wanted[name].shape, name
        wrong += int((t != nearest(wanted[name], t.dtype)).sum())
        total += t.numel()
    return wrong / total


def steps(found: torch.Tensor, exactly: torch.Tensor) -> int:
    """How many numbers of its type lie between a result and the nearest one, at most."""
    near = nearest(exactly, found.dtype)
    signed = [t.contiguous().view(BITS[found.dtype]).long() for t in (found, near)]
    edge = torch.iinfo(BITS[found.dtype]).min
    ordered = [torch.where(b < 0, edge - b, b) for b in signed]  # as the numbers are ordered
    return int((ordered[0] - ordered[1]).abs().max())


def distance(found: Tensors, wanted: Tensors) -> float:
    """The largest difference, against the largest number of its tensor."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[n].double() - wanted[n].double()).abs().max() / wanted[n].abs().max())
        for n in wanted
    )


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of logits, against their spread."""
    return float((found - wanted).abs().max() / wanted.std())


# --- files ----------------------------------------------------------------------------------------


def write_base(model: Tiny, folder: Path) -> Path:
    """As transformers 5 names things, so that nothing in it is guessed."""
    return write_hf(model, folder, version=5)


def rewrite(adapter: Path, out: Path, tensors: Tensors, **changes: Any) -> Path:
    """An adapter with other tensors, or other settings; a setting of `...` is left out."""
    out.mkdir(parents=True)
    whole = {name: t.contiguous() for name, t in tensors.items()}
    save_file(whole, out / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = settings_of(adapter) | changes
    kept = {key: value for key, value in settings.items() if value is not ...}
    (out / "adapter_config.json").write_text(json.dumps(kept))
    return out
