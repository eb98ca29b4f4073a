"""Tensors that lie about where they are, contradict the config, or belong to another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from kit import (
    MODEL,
    NORM,
    UP,
    Case,
    Cases,
    archive,
    bin_folder,
    config,
    data,
    forged,
    header,
    hf,
    meta,
    params,
    rank_archive,
    records,
    simple,
    with_state,
)
from support.forge import FakeStorage, FakeTensor, safetensors_bytes, zip_bytes
from support.tiny import Tensors, meta_rank

NAME = "pytorch_model.bin"
Q = "model.layers.0.self_attn.q_proj.weight"
NUMEL = MODEL.truth[UP].numel()


def tensor(**fields: Any) -> Case:
    """One tensor described otherwise; its storage is as it should be."""

    def edit(state: dict[str, FakeTensor], _: dict[str, bytes]) -> None:
        state[UP] = replace(state[UP], **fields)

    return simple(lambda: bin_folder(with_state(edit)), NAME, UP)


def with_storage(tensor: FakeTensor, **fields: Any) -> FakeTensor:
    assert isinstance(tensor.storage, FakeStorage)
    return replace(tensor, storage=replace(tensor.storage, **fields))


def storage(*words: str, **fields: Any) -> Case:
    def edit(state: dict[str, FakeTensor], _: dict[str, bytes]) -> None:
        state[UP] = with_storage(state[UP], **fields)

    return simple(lambda: bin_folder(with_state(edit)), NAME, *words)


def state(edit: Callable[[dict[str, Any], dict[str, bytes]], object], *words: str) -> Case:
    return simple(lambda: bin_folder(with_state(edit)), NAME, *words)


def claims(*words: str, **changes: Any) -> Case:
    """A config.json that says something else than the tensors."""
    return simple(lambda: hf(config_json=config(**changes)), "config.json", *words)


def meta_claims(*words: str, **changes: Any) -> Case:
    return simple(lambda: {**meta(2), "params.json": params(**changes)}, "params.json", *words)


def rank(edit: Callable[[Tensors], object], *words: str) -> Case:
    """The second of two ranks, edited."""
    return simple(
        lambda: {**meta(2), "consolidated.01.pth": rank_archive(1, 2, edit)},
        "consolidated.01.pth",
        *words,
    )


def another_model(folder_words: tuple[str, ...], **sizes: Any) -> Case:
    """The second rank is that of another model of the same names."""
    other = replace(MODEL, **sizes)
    return simple(
        lambda: {
            **meta(2),
            "consolidated.01.pth": zip_bytes(records(*forged(meta_rank(other, 1, 2)))),
        },
        *folder_words,
    )


def named(old: str, new: str, *words: str) -> Case:
    """A tensor under another name, in a sound safetensors file."""
    return simple(
        lambda: hf(
            safetensors_bytes({new if k == old else k: v for k, v in header().items()}, data())
        ),
        *words,
    )


def retyped(name: str, dtype: str) -> Callable[[], dict[str, bytes]]:
    """Every element as another type of the same size."""
    return lambda: hf(_with_entry(name, dtype=dtype))


def _with_entry(name: str, **fields: Any) -> bytes:
    """model.safetensors with another entry for a tensor."""
    return safetensors_bytes(header(**{name: header()[name] | fields}), data())


def reshaped(name: str, shape: list[int]) -> Case:
    return simple(
        lambda: hf(_with_entry(name, shape=shape)),
        name.replace("model.", "").split(".")[0],
    )


def scattered(state: dict[str, Any], storages: dict[str, bytes]) -> None:
    """4,000 by 4,000 elements within 32 MB, each line spread over all of it."""
    held = 3999 * 2001 + 3999 * 2000 + 1
    state["extra"] = FakeTensor(
        FakeStorage("x", 2 * held, torch.BFloat16Storage), 0, (4000, 4000), (2001, 2000)
    )
    storages["x"] = bytes(4 * held)


CASES: Cases = {
    "an offset beyond the storage": tensor(offset=1),
    "an offset of 2^62": tensor(offset=2**62),
    "a negative offset": tensor(offset=-1),
    "a shape beyond the storage": tensor(shape=(MODEL.ffn + 1, MODEL.dim)),
    "a negative shape": tensor(shape=(-MODEL.ffn, MODEL.dim)),
    "a shape that overflows": tensor(shape=(2**40, 2**40)),
    "strides beyond the storage": tensor(strides=(MODEL.dim + 1, 1)),
    "negative strides": tensor(strides=(MODEL.dim, -1), offset=MODEL.dim - 1),
    "strides of 2^61": tensor(strides=(2**61, 2**61)),
    "strides of floats": tensor(strides=(16.0, 1.0)),
    "a stride too few": tensor(strides=(1,)),
    "an expanded tensor": tensor(shape=(2**20, 2**20), strides=(0, 0)),
    "a shape of true": tensor(shape=(True, True)),
    "a shape that is a list of lists": tensor(shape=([], [])),
    "backward hooks": tensor(hooks={1: 2}),
    "a conjugate": tensor(more=({"conj": True},)),
    "a dozen arguments": tensor(more=(1, 2, 3, 4, 5, 6)),
    "no storage": tensor(storage=None),
    "scattered elements": state(scattered, "extra", "scatter"),
    "a storage that is not there": storage("data/none is missing", UP, key="none"),
    "a storage that climbs": storage("data/../data.pkl is missing", UP, key="../data.pkl"),
    "a storage larger than its record": storage(UP, "only", numel=NUMEL * 2),
    "a storage of 2^63 elements": storage("a persistent id", numel=2**63),
    "a storage of minus one element": storage("a persistent id", numel=-1),
    "a storage of another type": storage(
        UP, "its storage has 3,072 bytes", cls=torch.DoubleStorage
    ),
    "a storage of two types": state(
        lambda s, _: s.update(
            extra=replace(s[UP], storage=replace(s[UP].storage, cls=torch.HalfStorage))
        ),
        "has another type or size elsewhere",
    ),
    "a storage whose key is a number": storage("a persistent id", key=7),
    "integers": simple(retyped(NORM, "I16"), "I16", NORM),
    "unsigned integers": simple(retyped(UP, "U16"), "U16", UP),
    "bytes in fp8": simple(
        lambda: hf(_with_entry(NORM, dtype="F8_E4M3", shape=[2 * MODEL.dim])),
        "FP8",
        NORM,
    ),
    "a matrix turned round": reshaped(UP, [MODEL.dim, MODEL.ffn]),
    "a matrix flattened": reshaped(UP, [MODEL.ffn * MODEL.dim]),
    "a norm of two axes": reshaped(NORM, [4, 4]),
    "an embedding flattened": reshaped("model.embed_tokens.weight", [MODEL.vocab * MODEL.dim]),
    "a query turned into three axes": reshaped(Q, [4, 4, 16]),
    "a name of another model": named(UP, "transformer.h.0.attn.c_attn.weight", "a GPT-2"),
    "a name too long by a letter": named(UP, UP + "s", "missing 1 of", UP + "s"),
    "a name in capitals": named(UP, UP.upper(), "missing 1 of", UP.upper()),
    "a name with a look-alike letter": named(UP, UP.replace("o", "\u043e"), "unexpected tensors"),
    "a name of a layer beyond": named(
        UP,
        "model.layers.999999999.mlp.up_proj.weight",
        "config.json: 2 layers",
        "999999999",
    ),
    "no embedding": named("model.embed_tokens.weight", "x", "neither Hugging Face's nor Meta's"),
    "a quantised name": named(UP, UP.replace("weight", "qweight"), "GPTQ or AWQ"),
    "an adapter's name": named(UP, UP.replace("weight", "lora_A.weight"), "LoRA adapter"),
    "10^9 layers": claims("1000000000 layers", num_hidden_layers=10**9),
    "one layer too many": claims("3 layers", "tensors of 2", num_hidden_layers=3),
    "one layer too few": claims("1 layers", "tensors of 2", num_hidden_layers=1),
    "10^12 heads": claims("1000000000000 heads", num_attention_heads=10**12 % 2**40),
    "three heads": claims("3 heads", num_attention_heads=3),
    "sixteen heads of one": claims("heads", num_attention_heads=16),
    "other key-value heads": claims("key-value heads", num_key_value_heads=4),
    "a head that is too wide": claims("heads of 10", head_dim=10),
    "a head of 2^39": claims("heads of", head_dim=2**39),
    "an odd head": claims("heads of 1", head_dim=1),
    "Meta: 10^9 layers": meta_claims("1000000000 layers", n_layers=10**9),
    "Meta: three heads": meta_claims("3 heads", n_heads=3),
    "Meta: another dim": meta_claims("dim 32", dim=32),
    "Meta: 10^11 heads": meta_claims("100000000000 heads", n_heads=10**11),
    "a norm that differs": rank(
        lambda t: t["layers.1.attention_norm.weight"].neg_(),
        "layers.1.attention.norm.weight",
        "differs",
        "same model",
    ),
    "a final norm that differs": rank(lambda t: t["norm.weight"].neg_(), "norm.weight", "differs"),
    "a rank of another width": another_model(
        ("consolidated.01.pth", "do not belong to the same model"), head_dim=6
    ),
    "a rank of another ffn": another_model(
        ("consolidated.01.pth", "feed_forward.w1.weight"), ffn=32
    ),
    "a rank of another type": rank(
        lambda t: t.update({"norm.weight": t["norm.weight"][: MODEL.dim // 2]}), "norm.weight"
    ),
    "a rank of fewer layers": another_model(
        ("consolidated.01.pth", "lacks", "layers.1."), layers=1
    ),
    "a rank that lacks a tensor": rank(
        lambda t: t.pop("layers.1.feed_forward.w2.weight"),
        "lacks",
        "layers.1.feed_forward.w2.weight",
    ),
    "a rank that has more": simple(
        lambda: {
            **meta(2),
            "consolidated.01.pth": rank_archive(1, 2, lambda t: t.update(extra=t["norm.weight"])),
        },
        "consolidated.00.pth",
        "extra",
    ),
    "the first rank twice": simple(
        lambda: {
            **meta(2),
            "consolidated.01.pth": meta(2)["consolidated.00.pth"],
            "params.json": params(n_layers=3),
        },
        "params.json",
    ),
    "a rank alone": simple(
        lambda: (
            {k: v for k, v in meta(4).items() if k[-6:-4] in ("00", "rams", ".j")}
            | {"params.json": params()}
        ),
        "params.json",
        "files of some ranks may be missing",
    ),
    "values that are NaN": simple(
        lambda: bin_folder(archive()), "NaN or infinite", code=1, more=("--check-finite",)
    ),
    "an infinite value": simple(
        lambda: bin_folder(zip_bytes(records(*forged(_finite_but_one())))),
        "layers.1.mlp.up.weight: 1 value NaN or infinite",
        UP,
        code=1,
        more=("--check-finite", "--dtype", "fp32"),
    ),
    "a cast that overflows": simple(
        lambda: bin_folder(zip_bytes(records(*forged(_finite(1e38))))),
        "beyond the range of F16",
        code=1,
        more=("--check-finite", "--dtype", "fp16"),
    ),
}


def _finite(scale: float) -> Tensors:
    return {n: torch.full_like(t, scale) for n, t in MODEL.truth.items()}


def _finite_but_one() -> Tensors:
    tensors = _finite(1.0)
    tensors[UP].view(-1)[7] = torch.inf
    return tensors
