"""Config files that are no JSON, too much of it, or say what no model can be."""

from __future__ import annotations

import json
from typing import Any

from kit import Case, Cases, config, hf, meta, params, simple

NAME = "config.json"


def text(data: bytes, *words: str) -> Case:
    return simple(lambda: hf(config_json=data), NAME, *words)


def added(item: bytes, *words: str) -> Case:
    """One more item in a sound config.json."""
    return text(config()[:-1] + b"," + item + b"}", *words)


def value(key: str, wrong: Any) -> Case:
    return simple(lambda: hf(config_json=config(**{key: wrong})), NAME, key)


def meta_value(key: str, wrong: Any) -> Case:
    return simple(lambda: {**meta(2), "params.json": params(**{key: wrong})}, "params.json", key)


COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "intermediate_size", "vocab_size", "head_dim")  # fmt: skip
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
NO_COUNTS: dict[str, Any] = {
    "a float": 2.0, "true": True, "a string": "2", "zero": 0, "minus one": -1, "a list": [2],
    "2^63": 2**63,
}  # fmt: skip
NO_NUMBERS: dict[str, Any] = {"zero": 0.0, "minus one": -1, "a string": "1e-5", "false": False}
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}  # fmt: skip

CASES: Cases = {
    "no bytes": text(b"", "not valid JSON"),
    "a BOM": text(b"\xef\xbb\xbf" + config(), "byte order mark"),
    "UTF-16": text(config().decode().encode("utf-16"), NAME),
    "Latin-1": added(b'"author": "Andr\xe9"', "not UTF-8"),
    "NULs behind it": text(config() + bytes(16), "not valid JSON"),
    "cut in the middle": text(config()[:100], "not valid JSON"),
    "a comment": text(b"// hello\n" + config(), "not valid JSON"),
    "a trailing comma": text(config()[:-1] + b",}", "not valid JSON"),
    "single quotes": text(config().replace(b'"', b"'"), "not valid JSON"),
    "two documents": text(config() + config(), "not valid JSON"),
    "a list": text(b"[1]", "expected a JSON object, found an array"),
    "null": text(b"null", "found null"),
    "a key twice": added(b'"hidden_size": 32', "more than once", "hidden_size"),
    "a key twice, spelled otherwise": added(b'"hidden\\u005fsize": 32', "more than once"),
    "NaN": added(b'"x": NaN', "NaN is not a JSON value"),
    "Infinity": added(b'"x": -Infinity', "-Infinity is not a JSON value"),
    "1e999": added(b'"x": 1e999', "beyond what a double holds"),
    "a number of 10,000 digits": added(b'"x": ' + b"9" * 10_000, "an integer of 10000 digits"),
    "a number of 21 digits": added(b'"x": 1' + b"0" * 20, "an integer of 21 digits"),
    "a hundred thousand brackets": added(b'"x": ' + b"[" * 100_000 + b"]" * 100_000, "64 levels"),
    "objects 65 deep": added(b'"x": ' + b'{"a":' * 65 + b"1" + b"}" * 65, "64 levels"),
    "half a surrogate": added(b'"x": "\\udfff"', "surrogate"),
    "a million values": added(b'"x": [' + b"1," * 999_999 + b"1]", "more than 500,000 values"),
    "20 MB": added(b'"x": "' + b"x" * 20_000_000 + b'"', "too large"),
    "a control character in a string": added(b'"x": "\x01"', "not valid JSON"),
    "everything missing": text(
        b"{}", "hidden_size is missing", "num_hidden_layers is missing", "num_attention_heads is"
    ),
    "all wrong at once": simple(
        lambda: hf(config_json=config(hidden_size="x", vocab_size=1.5, rms_norm_eps=-1)),
        "hidden_size: expected",
        "vocab_size: expected",
        "rms_norm_eps: expected",
    ),
    "another architecture": simple(
        lambda: hf(config_json=config(model_type="gpt2")), NAME, "gpt2", "not a Llama"
    ),
    "an architecture of CI commands": simple(
        lambda: hf(config_json=config(architectures=["::error::\x1b[m\n##[group]x"])),
        "not a Llama",
    ),
    "an architecture that is an object": value("model_type", {"a": 1}),
    "a quantised model": simple(
        lambda: hf(config_json=config(quantization_config={"quant_method": "gptq"})), "GPTQ"
    ),
    "another activation": value("hidden_act", "gelu"),
    "rope in parts of a head": value("partial_rotary_factor", 0.5),
    "an unknown scaling": value("rope_scaling", {"rope_type": "evil", "factor": 2.0}),
    "a scaling that is an object": value("rope_scaling", {"rope_type": {"a": []}, "factor": 2.0}),
    "a scaling of strings": value("rope_scaling", SCALING | {"factor": "8"}),
    "a scaling cut short": value("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    "two thetas": simple(
        lambda: hf(config_json=config(rope_parameters={"rope_theta": 1e4, "rope_type": "default"})),
        "rope_theta",
        "rope_parameters",
    ),
    "two thetas, one in the scaling": simple(
        lambda: hf(config_json=config(rope_scaling=SCALING | {"rope_theta": 1e4})),
        "rope_theta",
        "rope_scaling",
    ),
    "Meta: a list": simple(lambda: {**meta(2), "params.json": b"[]"}, "params.json", "an array"),
    "Meta: a key twice": simple(
        lambda: {**meta(2), "params.json": params()[:-1] + b',"dim":16}'}, "params.json", "dim"
    ),
    "Meta: a hidden key twice": simple(
        lambda: {**meta(2), "params.json": json.dumps({"model": {}}).encode()}, "dim is missing"
    ),
    "Meta: vision": simple(
        lambda: {**meta(2), "params.json": params(vision_chunk_size=448)}, "vision"
    ),
    "Meta: quantised": simple(
        lambda: {**meta(2), "params.json": params(quantization_args={})}, "quantised"
    ),
    "Meta: Mistral's": simple(
        lambda: {**meta(2), "params.json": params(sliding_window=4096)}, "Mistral"
    ),
    "Meta: a width of 10^100": meta_value("ffn_dim_multiplier", 1e100),
    "Meta: a multiple of zero": meta_value("multiple_of", 0),
    "Meta: a vocabulary of minus two": meta_value("vocab_size", -2),
    "Meta: a scaling that is a string": meta_value("use_scaled_rope", "true"),
    "Meta: no eps": meta_value("norm_eps", ...),
}

CASES |= {
    f"{key}: {kind}": value(key, wrong) for key in COUNTS for kind, wrong in NO_COUNTS.items()
}
CASES |= {
    f"{key}: {kind}": value(key, wrong)
    for key in ("rms_norm_eps", "rope_theta")
    for kind, wrong in NO_NUMBERS.items()
}
CASES |= {f"{key}: a number": value(key, 1) for key in FLAGS}
CASES |= {
    f"Meta: {key}: {kind}": meta_value(key, wrong)
    for key in ("dim", "n_layers", "n_heads")
    for kind, wrong in NO_COUNTS.items()
}
