"""Files nobody vouches for: whatever they hold, an error of ours or a tokenizer that works.

Each is opened, taken to both layouts, compared with what came of it, and reported on. Nothing but
LlamatoolsError may come out of that, and no file may claim more time or memory than it has bytes.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libraries import Json, changed, document, model_bytes, opened, put, written

from llamatools.errors import BadInput, LlamatoolsError, NotRepresentable, Unsupported
from llamatools.tokenizer import wire
from llamatools.tokenizer.compare import compare
from llamatools.tokenizer.forms import Written, source_encoder, to_hf, to_meta
from llamatools.tokenizer.json_read import read_tokenizer_json
from llamatools.tokenizer.json_write import NAME, tokenizer_json
from llamatools.tokenizer.opening import MODEL_NAME, TokenizerFiles, open_tokenizer
from llamatools.tokenizer.report import inspection
from llamatools.tokenizer.sentencepiece_model import Kind, Piece

TEXTS = [
    "",
    " ",
    "Hello the world",
    "  1234 56\n",
    "é你😀",
    "▁<s>",
    "\x00\x1b",
    "thethe power",
    "a" * 60,
]
SECONDS = 5.0


def use(folder: Path) -> TokenizerFiles | None:
    """All that can be done with a folder. None where it is refused."""
    start = time.monotonic()
    try:
        files = open_tokenizer(folder)
        assert files.tokenizer.size < 10_000_000  # before anything goes through all ids
        inspection(files)
        encoder = source_encoder(files)
        for to in (to_hf, to_meta):
            done = representable(to, files)
            if done is None:
                continue
            result = compare(encoder, done.encoder(), [("some", TEXTS)])
            assert done.losses or result.equal or result.first is not None
            json.loads(done.documents.get(NAME, b"{}"))
        tokenizer_json(files.tokenizer)  # as for a model that comes without
    except LlamatoolsError as e:
        assert e.problems and all(e.problems)
        return None
    finally:
        assert time.monotonic() - start < SECONDS
    return files


def representable(to: Callable[[TokenizerFiles], Written], files: TokenizerFiles) -> Written | None:
    try:
        return to(files)
    except NotRepresentable:
        return None


def sp(**parts: object) -> Json:
    return changed("small-sp", **parts)


def rk(**parts: object) -> Json:
    return changed("small-ranks", **parts)


N_SP = len(document("small-sp")["model"]["vocab"])
N_RK = opened("small-ranks").tokenizer.size
VOCAB = document("small-sp")["model"]["vocab"]
ADDED = document("small-sp")["added_tokens"]
JUNK: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**12, "", "x", "▁", "a b", [], {}, [[]], [None], {"a": None},
    {"type": None}, {"type": "Sequence"}, {"type": []}, [1, 2], ["a", "b", "c"], [["a", 1]],
]  # fmt: skip


def places(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document, of long lists and objects the first two and the last."""
    if at:
        yield at
    if isinstance(value, dict):
        inner: list[Any] = list(value)
    else:
        inner = list(range(len(value))) if isinstance(value, list) else []
    for key in inner if len(inner) < 15 else [*inner[:2], inner[-1]]:
        yield from places(value[key], (*at, key))  # type: ignore[index]


def with_junk(original: Json, at: tuple[Any, ...], junk: object) -> Json:
    made = copy.deepcopy(original)
    here: Any = made
    for key in at[:-1]:
        here = here[key]
    here[at[-1]] = junk
    return made


def readable(made: Json) -> bool:
    try:
        read_tokenizer_json(json.dumps(made).encode(), "file")
    except BadInput as e:
        assert str(e).startswith("file: ")
        return False
    return True


@pytest.mark.parametrize("family", ["small-sp", "small-ranks"])
def test_every_value_of_tokenizer_json_replaced_by_junk(family: str) -> None:
    """Read alone: the libraries are asked about a part of them below."""
    original = document(family)
    cases = [(at, junk) for at in places(original) for junk in JUNK]
    some = random.Random(6).sample(cases, 700)
    made = (with_junk(original, at, junk) for at, junk in some)
    outcomes = [readable(m) for m in made]
    accepted, refused = outcomes.count(True), outcomes.count(False)
    assert accepted > 100 and refused > 100


@pytest.mark.parametrize("family", ["small-sp", "small-ranks"])
def test_junk_in_tokenizer_json_used(family: str, tmp_path: Path) -> None:
    original, rng = document(family), random.Random(7)
    cases = [(at, junk) for at in places(original) for junk in JUNK]
    for at, junk in rng.sample(cases, 150):
        use(put(tmp_path / "in", json=with_junk(original, at, junk)))


def test_keys_left_out(tmp_path: Path) -> None:
    for family in ("small-sp", "small-ranks"):
        for at in places(document(family)):
            if isinstance(at[-1], str) and "vocab" not in at[:-1]:
                made = with_junk(document(family), at, None)
                here: Any = made
                for key in at[:-1]:
                    here = here[key]
                del here[at[-1]]
                use(put(tmp_path / "in", json=made))


def numbered(*texts: str, first: int = N_SP, **more: object) -> list[Json]:
    tokens = [{"id": first + i, "content": t, "special": True, **more} for i, t in enumerate(texts)]
    return [*ADDED, *tokens]


def template(token: str, index: int) -> Json:
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


RK_FIRST = document("small-ranks")["added_tokens"][0]["id"]
CASES: dict[str, Any] = {
    "empty object": dict,
    "vocab null": lambda: sp(model={"vocab": None}),
    "vocab empty": lambda: sp(model={"vocab": {}, "merges": []}),
    "vocab an array": lambda: sp(model={"vocab": [["a", 0]]}),
    "merges of numbers": lambda: sp(model={"merges": [[1, 2]]}),
    "merges of three": lambda: sp(model={"merges": ["a b c"]}),
    "merges of unknown tokens": lambda: sp(model={"merges": [["q", "qqq"]]}),
    "no merges": lambda: sp(model={"merges": []}),
    "merge twice": lambda: sp(model={"merges": document("small-sp")["model"]["merges"] * 2}),
    "id negative": lambda: sp(model={"vocab": {**VOCAB, "zz": -1}}),
    "id far": lambda: sp(model={"vocab": {**VOCAB, "zz": 10**12}}),
    "id at the limit": lambda: sp(model={"vocab": {**VOCAB, "zz": 3_999_999}}),
    "id true": lambda: sp(model={"vocab": {**VOCAB, "zz": True}}),
    "id a float": lambda: sp(model={"vocab": {**VOCAB, "zz": 420.0}}),
    "id twice": lambda: sp(model={"vocab": {**VOCAB, "zz": 300}}),
    "empty token": lambda: sp(model={"vocab": {**VOCAB, "": N_SP}}),
    "empty token in ranks": lambda: rk(
        model={"vocab": {**document("small-ranks")["model"]["vocab"], "": RK_FIRST}},
        added_tokens=[],
    ),
    "added id far": lambda: sp(added_tokens=numbered("zz", first=10**12)),
    "added id at the limit": lambda: sp(added_tokens=numbered("zz", first=3_999_999)),
    "added id negative": lambda: sp(added_tokens=numbered("zz", first=-1)),
    "added text twice": lambda: sp(added_tokens=numbered("zz", "zz")),
    "added id twice": lambda: sp(added_tokens=[*numbered("yy"), *numbered("zz")[-1:]]),
    "added with the id of another": lambda: sp(added_tokens=numbered("zz", first=300)),
    "added with another id than in vocab": lambda: sp(added_tokens=numbered("▁the")),
    "added empty": lambda: sp(added_tokens=numbered("")),
    "added a space": lambda: sp(added_tokens=numbered(" ", special=False)),
    "added with control characters": lambda: sp(added_tokens=numbered("\x1b[2J\n\x00")),
    "added stripping": lambda: sp(added_tokens=numbered("the", special=False, lstrip=True)),
    "added single word": lambda: sp(added_tokens=numbered("the", special=False, single_word=True)),
    "added readable": lambda: sp(added_tokens=numbered("the", "1", special=False)),
    "added readable in ranks": lambda: rk(
        added_tokens=[{"id": RK_FIRST, "content": "the", "special": False}]
    ),
    "added in ranks from id 0": lambda: rk(
        added_tokens=[{"id": 0, "content": "Ā", "special": True}]
    ),
    "no added tokens": lambda: sp(added_tokens=None),
    "no added tokens in ranks": lambda: rk(added_tokens=[]),
    "bos beyond the vocabulary": lambda: sp(
        added_tokens=[*(a for a in ADDED if a["id"] != 1), *numbered("<b>")[-1:]],
        post_processor=template("<b>", N_SP),
    ),
    "eos beyond the vocabulary": lambda: sp(
        model={"vocab": {("xx" if t == "</s>" else t): i for t, i in VOCAB.items()}},
        added_tokens=[*(a for a in ADDED if a["id"] != 2), *numbered("</s>")[-1:]],
    ),
    "bos that is no special token": lambda: rk(
        added_tokens=[{"id": RK_FIRST, "content": "<b>", "special": False}],
        post_processor=template("<b>", RK_FIRST),
    ),
    "bos that nobody knows": lambda: sp(post_processor=template("<nobody>", 7)),
    "unknown that nobody knows": lambda: sp(model={"unk_token": "<nobody>"}),
    "no unknown": lambda: sp(model={"unk_token": None}),
    "half of the bytes": lambda: sp(
        model={
            "vocab": {
                (t.lower() + "!" if t.startswith("<0xF") else t): i for t, i in VOCAB.items()
            }
        }
    ),
    "token of 5 MB": lambda: sp(added_tokens=numbered("x" * 5_000_000)),
    "piece of 5 MB": lambda: sp(model={"vocab": {**VOCAB, "x" * 5_000_000: N_SP}}),
    "rank of 5 MB": lambda: rk(
        model={"vocab": {**document("small-ranks")["model"]["vocab"], "x" * 5_000_000: N_RK}}
    ),
    "regex broken": lambda: pattern("((("),
    "regex empty": lambda: pattern(""),
    "regex of 200 kB": lambda: pattern("a?" * 100_000),
    "regex only one library knows": lambda: pattern(r"\h+|\H+"),
    "regex only one library knows, with a call": lambda: pattern(r"(?<x>a)\g<x>|.+"),
    "regex that takes ever longer": lambda: pattern(r"((a*)*)*$b|.+"),
    "regex nested": lambda: pattern("(" * 5_000 + ")" * 5_000),
    "pattern a string": lambda: pattern({"String": " "}),
    "steps in steps": lambda: rk(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [document("small-ranks")["pre_tokenizer"]],
        }
    ),
    "steps deep in steps": lambda: sp(normalizer=nested(60)),
    "kind of model unknown": lambda: sp(model={"type": "Unigram"}),
    "word pieces": lambda: sp(model={"type": "WordPiece"}),
    "dropout": lambda: sp(model={"dropout": 0.1}),
    "suffix": lambda: sp(model={"end_of_word_suffix": "</w>"}),
    "truncation": lambda: sp(truncation={"max_length": 1, "strategy": "LongestFirst", "stride": 0,
                                         "direction": "Right"}),
}  # fmt: skip


def pattern(regex: object) -> Json:
    made = copy.deepcopy(document("small-ranks"))
    value = regex if isinstance(regex, dict) else {"Regex": regex}
    made["pre_tokenizer"]["pretokenizers"][0]["pattern"] = value
    return made


def nested(depth: int) -> Json:
    step: Json = document("small-sp")["normalizer"]
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


@pytest.mark.parametrize("name", CASES)
def test_a_tokenizer_json_made_by_hand(name: str, tmp_path: Path) -> None:
    family = "small-ranks" if "ranks" in name or "regex" in name else "small-sp"
    made = json.dumps(CASES[name]()).encode()
    use(put(tmp_path / "alone", json=made))
    use(put(tmp_path / "both", model=model_bytes(family), json=made))


REFUSED = (
    "vocab null", "vocab empty", "merges of numbers", "id negative", "id far", "id true",
    "id twice", "empty token", "empty token in ranks", "added id far", "added id negative",
    "added text twice", "added id twice", "added with the id of another",
    "added with another id than in vocab", "half of the bytes", "kind of model unknown",
    "added empty",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name: str, tmp_path: Path) -> None:
    assert use(put(tmp_path / "in", json=CASES[name]())) is None


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"{}", b"[]", b'{"model": 1}', b'{"model": {"vocab": {"a": NaN}}}',
        b'{"model": ' + b"[" * 100_000, b'{"a": ' * 70 + b"1" + b"}" * 70,
        b'{"model": {"vocab": {"a": 0, "a": 1}, "merges": []}}',
        b'{"model": {"vocab": {"\\ud800": 0}, "merges": []}}',
        b'{"model": {"vocab": {"a": ' + b"9" * 10_000 + b'}, "merges": []}}',
        b"\xef\xbb\xbf{}", b'{"a": "\xff"}', b"{" + bytes(100), b"null",
    ],
    ids=lambda d: d[:20],
)  # fmt: skip
def test_bytes_that_are_no_tokenizer_json(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        open_tokenizer(put(tmp_path / "in", json=data))
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(BadInput):
        open_tokenizer(tmp_path / "file")


ENTRY = {"content": "<x>", "special": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "chat template a list": {"config": {"chat_template": [{"name": "a", "template": "b"}]}},
    "chat template a number": {"config": {"chat_template": 5}},
    "roles null": {"config": {"bos_token": None, "eos_token": None, "pad_token": None}},
    "roles of odd types": {"config": {"bos_token": 5, "eos_token": [], "pad_token": {}}},
    "roles of objects": {"config": {"bos_token": {"content": "<s>"}, "eos_token": {"content": 1}}},
    "roles that nobody knows": {"config": {"bos_token": "<nobody>\x1b"}},
    "limit of 31 digits": {"config": {"model_max_length": int(1e30)}},
    "limit of 5000 digits": {"config": b'{"model_max_length": ' + b"9" * 5000 + b"}"},
    "decoder null": {"config": {"added_tokens_decoder": None}},
    "decoder an array": {"config": {"added_tokens_decoder": [ENTRY]}},
    "decoder of odd keys": {
        "config": {"added_tokens_decoder": {"x": ENTRY, "-1": ENTRY, "": ENTRY, "1e3": ENTRY}}
    },
    "decoder of digits that are none": {"config": {"added_tokens_decoder": {"²": ENTRY}}},
    "decoder of Arabic digits": {"config": {"added_tokens_decoder": {"٤٢٠": ENTRY}}},
    "decoder of odd entries": {
        "config": {"added_tokens_decoder": {"500": None, "501": 5, "502": {"content": 1}}}
    },
    "decoder far": {"config": {"added_tokens_decoder": {"9999999": ENTRY}}},
    "decoder very far": {"config": {"added_tokens_decoder": {"9" * 30: ENTRY}}},
    "decoder with one text twice": {
        "config": {"added_tokens_decoder": {str(N_SP): ENTRY, str(N_SP + 1): ENTRY}}
    },
    "decoder with a text of the base": {
        "config": {"added_tokens_decoder": {str(N_SP): {"content": "▁the"}}}
    },
    "decoder with an empty text": {
        "config": {"added_tokens_decoder": {str(N_SP): {"content": "", "special": False}}}
    },
    "added far": {"added": {"<x>": 10**12}},
    "added farther": {"added": {"<x>": 10**30}},
    "added negative": {"added": {"<x>": -5}},
    "added of odd types": {"added": {"<x>": "420", "<y>": None, "<z>": True, "<a>": [1]}},
    "added with a special of the base": {"added": {"<s>": N_SP}},
    "added with a piece of the base": {"added": {"▁the": N_SP}},
    "added empty": {"added": {"": N_SP}},
    "added with gaps": {"added": {"<x>": N_SP + 7}},
    "added an array": {"added": []},
    "specials an array": {"specials": []},
    "specials odd": {"specials": {"bos_token": [[]], "additional_special_tokens": 5}},
    "config broken": {"config": b"{"},
    "config deep": {"config": b'{"a": ' + b"[" * 1000},
    "config of 5 MB": {"config": {"chat_template": "{{" * 2_500_000}},
}  # fmt: skip


@pytest.mark.parametrize("family", ["small-sp", "small-ranks"])
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_made_by_hand(name: str, family: str, tmp_path: Path) -> None:
    use(put(tmp_path / "model", model=model_bytes(family), **CONFIGS[name]))
    use(put(tmp_path / "json", json=document(family), **CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_from_odd_configs_can_be_read(name: str, tmp_path: Path) -> None:
    """With the ids that it was given; or it is refused, or said to be a loss."""
    try:
        files = open_tokenizer(put(tmp_path / "in", model=model_bytes("small-sp"), **CONFIGS[name]))
        done = to_hf(files)
    except LlamatoolsError:
        return
    assert files.tokenizer.size < 10_000_000
    again = open_tokenizer(put(tmp_path / "out", json=done.documents[NAME]))
    assert again.tokenizer.specials == files.tokenizer.specials
    library = tokenizers.Tokenizer.from_buffer(done.documents[NAME])
    expected = {t: i for i, t in files.tokenizer.specials.items()}
    assert done.losses or {t: library.token_to_id(t) for t in expected} == expected


def hand_made(*pieces: Piece, trainer: bytes = b"", bos: int = -1, eos: int = -1) -> bytes:
    head = Piece("<unk>", 0.0, Kind.UNKNOWN)
    specs = wire.field(3, 2) + wire.field(41, bos) + wire.field(42, eos) + trainer
    encoded = b"".join(wire.field(1, p.encoded()) for p in (head, *pieces))
    return encoded + wire.field(2, specs) + wire.field(3, wire.field(4, 0))


USUAL = (Piece("a", -1.0), Piece("b", -2.0), Piece("▁", -3.0))


def _flag(number: int, value: int | bytes = 1) -> bytes:
    return wire.field(number, value)


MODELS: dict[str, bytes] = {
    "usual": hand_made(*USUAL),
    "bos a usual piece": hand_made(*USUAL, bos=1, eos=2),
    "bos the unknown piece": hand_made(*USUAL, bos=0, eos=0),
    "bos a user's piece": hand_made(Piece("<b>", 0.0, Kind.USER_DEFINED), *USUAL, bos=1),
    "bytes promised and missing": hand_made(*USUAL, trainer=_flag(35)),
    "scores without end": hand_made(Piece("a", float("inf")), Piece("b", float("-inf"))),
    "no space": hand_made(Piece("a", -1.0)),
    "unknown alone": hand_made(),
    "piece of zeros": hand_made(Piece("\x00", -1.0), Piece("a\x00b", -2.0)),
    "piece with a space": hand_made(Piece("a b", -1.0), *USUAL),
    "piece of 1 MB": hand_made(Piece("a" * 1_000_000, -9.0), *USUAL),
    "control that is text": hand_made(Piece("ab", 0.0, Kind.CONTROL), *USUAL),
    "same text as a special of the hub": hand_made(Piece("<|begin_of_text|>", -1.0), *USUAL),
    "a normalizer of text when decoded": hand_made(*USUAL) + _flag(5, _flag(2, b"x")),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_made_by_hand(name: str, tmp_path: Path) -> None:
    found = use(put(tmp_path / "in", model=MODELS[name]))
    assert found is not None or name != "usual"


def test_damaged_models_used(tmp_path: Path) -> None:
    """Bytes changed in the settings as well as in the pieces."""
    rng, original = random.Random(8), model_bytes("small-sp")
    ends = len(original) - 400
    for turn in range(120):
        data = bytearray(original)
        low = ends if turn % 2 else 0
        for _ in range(rng.choice((1, 2))):
            data[rng.randrange(low, len(data))] = rng.randrange(256)
        use(put(tmp_path / "in", model=bytes(data)))


def test_damaged_tokenizer_json_used(tmp_path: Path) -> None:
    rng = random.Random(9)
    for family in ("small-sp", "small-ranks"):
        original = written(family)[NAME]
        for _ in range(50):
            data = bytearray(original)
            data[rng.randrange(len(data))] = rng.choice(b'0123456789",:{}[]abtfn \\')
            use(put(tmp_path / "in", json=bytes(data)))


_TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**13), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "id", "content", "special", "normalizers", "pretokenizers",
                             "single", "SpecialToken", "pattern", "Regex", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["normalizer", "pre_tokenizer", "decoder", "post_processor", "added_tokens"]),
    _TREES,
)
def test_random_trees_as_parts(part: str, tree: object) -> None:
    readable(sp(**{part: tree}))
    readable(rk(**{part: tree}))


def test_time_follows_size(tmp_path: Path) -> None:
    """Tens of thousands of added tokens, in the vocabulary too: seconds, not hours."""
    vocab = dict(document("small-ranks")["model"]["vocab"])
    more = {f"<{i}>": len(vocab) + i for i in range(20_000)}
    tokens = [{"id": i, "content": t, "special": True} for t, i in more.items()]
    data = rk(model={"vocab": vocab | more}, added_tokens=tokens)
    start = time.monotonic()
    files = open_tokenizer(put(tmp_path / "in", json=data))
    assert files.tokenizer.size == len(vocab) + 20_000
    assert time.monotonic() - start < SECONDS


# Files as they are found in the wild.


def metaspace_style() -> Json:
    """As TinyLlama and newer exports are written."""
    made = copy.deepcopy(document("small-sp"))
    made["normalizer"] = None
    made["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
    }  # fmt: skip
    return made


def test_metaspace_is_read_and_its_difference_told(tmp_path: Path) -> None:
    files = use(put(tmp_path / "in", json=metaspace_style()))
    assert files is not None
    assert any("Metaspace" in d for d in files.deviations)
    assert files.tokenizer.base.dummy_prefix  # type: ignore[union-attr]
    assert to_meta(files).losses == files.deviations


def test_an_instruct_config_of_llama_3_1(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {
            str(i): {"content": t, "special": True, "lstrip": False, "normalized": False,
                     "rstrip": False, "single_word": False}
            for i, t in opened("small-ranks").tokenizer.specials.items()
        },
        "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        "chat_template": "{{- bos_token }}", "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    specials = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|end_of_text|>"}
    files = use(
        put(tmp_path / "in", json=document("small-ranks"), config=config, specials=specials)
    )
    assert files is not None
    names = files.tokenizer.specials
    roles = files.tokenizer.roles
    assert (names[roles.bos], names[roles.eos]) == ("<|begin_of_text|>", "<|eot_id|>")  # type: ignore[index]
    assert (files.deviations, files.conflicts) == ((), ())
    assert to_meta(files).documents == {MODEL_NAME: model_bytes("small-ranks")}


def test_unigram_in_tokenizer_json_is_refused_by_name(tmp_path: Path) -> None:
    data = sp(model={"type": "Unigram"})
    with pytest.raises(Unsupported, match="of kind Unigram"):
        open_tokenizer(put(tmp_path / "in", json=data))
