"""What is written splits text as the original does: ids and decoded text, without exception.

Each original is run by the code it was made for, called directly: Meta's own classes, tiktoken,
sentencepiece. What is written is run by the tokenizers library.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tokenizers
from libraries import (
    FAMILIES,
    Reference,
    document,
    library,
    meta_code,
    mismatches,
    model_bytes,
    opened,
    pieces,
    reference,
    tokenizers_library,
    written,
)
from support.vocabularies import MISTRAL_V3, sentencepiece_model

from llamatools.errors import CheckFailed
from llamatools.tokenizer.combine import TokenizerFiles
from llamatools.tokenizer.corpus import adversarial, fuzz, tokens_as_texts
from llamatools.tokenizer.forms import to_hf
from llamatools.tokenizer.json_write import NAME, tokenizer_json
from llamatools.tokenizer.proof import prove
from llamatools.tokenizer.ranks import read_ranks
from llamatools.tokenizer.sentencepiece_model import Kind, read_model
from llamatools.tokenizer.tokenizer import Tokenizer, from_model
from llamatools.tokenizer.versions import VERSIONS

N_FUZZ = 3_000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_built_in_corpus(family: str) -> None:
    texts = adversarial()
    assert len(texts) > 1_500
    assert mismatches(reference(family), library(family), texts) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_as_text(family: str) -> None:
    tokenizer = opened(family).tokenizer
    texts = tokens_as_texts(tokenizer)
    assert len(texts) > 0.6 * (tokenizer.base_size - 256)
    assert mismatches(reference(family), library(family), texts) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_fuzz(family: str) -> None:
    texts = fuzz(opened(family).tokenizer, N_FUZZ, seed=20)
    assert len(set(texts)) > 0.95 * N_FUZZ
    assert mismatches(reference(family), library(family), texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_much_fuzz(family: str) -> None:
    texts = fuzz(opened(family).tokenizer, 50_000, seed=21)
    assert mismatches(reference(family), library(family), texts) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_id_decodes_to_the_same_text(family: str) -> None:
    """One id at a time, and in runs, also of bytes that are no text."""
    tokenizer = opened(family).tokenizer
    ids = sorted(tokenizer.token_bytes)
    runs = [[i] for i in ids[:: max(1, len(ids) // 5_000)]]
    runs += [ids[at : at + 9] for at in range(0, len(ids), max(9, len(ids) // 2_000))]
    there, here = reference(family), library(family)
    different = [run for run in runs if there.decode(run) != here.decode(run)]
    if tokenizer.kind == "sentencepiece":
        # No text is encoded so: a space as a byte, or bytes that are no text. The libraries show
        # such ids in ways of their own.
        space = tokenizer.base.ids["<0x20>"]  # type: ignore[union-attr]
        different = [r for r in different if r[0] != space and "\ufffd" not in there.decode(r)]
    assert different == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_would_tell(family: str) -> None:
    """The control: one id taken for another in everything that is encoded is noticed."""
    original, here = reference(family), library(family)
    first, second = original.encode("a")[-1], original.encode("b")[-1]
    assert first != second
    swapped = {first: second, second: first}
    wrong = Reference(
        lambda text: [swapped.get(i, i) for i in original.encode(text)], original.decode
    )
    assert mismatches(wrong, here, adversarial())
    assert mismatches(wrong, here, fuzz(opened(family).tokenizer, 1_000, seed=20))


def test_numbers_of_merges() -> None:
    """One merge per token, as converters used to write it, would be 127,744 for Llama 3."""
    assert len(document("llama-3")["model"]["merges"]) == 280_147
    assert len(document("llama-3")["model"]["vocab"]) == 128_000


@pytest.mark.parametrize("family", ["llama-3", "llama-4"])
def test_special_tokens_are_meta_s_by_id(family: str) -> None:
    """Names differ where Meta's code and the hub's files name reserved tokens differently."""
    code = meta_code(family)
    theirs = {i: t for t, i in code.special_tokens.items()}
    tokenizer = opened(family).tokenizer
    ours = tokenizer.specials
    assert ours.keys() == theirs.keys()
    assert tokenizer.size == code.n_words
    version = tokenizer.version
    assert version is not None
    first = tokenizer.base_size
    renamed = {i for i in ours if ours[i] != theirs[i]}
    unlike = {i: (ours[i], theirs[i]) for i in renamed if not version.knows(i - first, theirs[i])}
    assert unlike == {}
    assert all("reserved" in ours[i] for i in renamed)
    named = {t for t in theirs.values() if "reserved" not in t}
    expected_aliases = {"<|step_id|>", "<|image|>"} if family == "llama-3" else set()
    assert named - set(ours.values()) == expected_aliases
    assert (tokenizer.roles.bos, tokenizer.roles.eos) == (code.bos_id, code.eos_id)
    assert tokenizer.roles.pad == code.pad_id


def test_special_tokens_of_llama_3_before_3_1() -> None:
    """Its end of turn stands where it stands later; what came with 3.1 is reserved still."""
    code = meta_code("llama-3")
    first = VERSIONS["llama-3"].specials
    assert len(first) == len(set(first)) == 256
    for name in ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"):
        assert first.index(name) == code.special_tokens[name] - 128_000
    assert not {"<|eom_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>"} & set(first)


@pytest.mark.parametrize("version", VERSIONS)
def test_special_tokens_have_names_of_their_own(version: str) -> None:
    specials = VERSIONS[version].specials
    assert len(set(specials)) == len(specials)
    assert len(specials) == (2048 if version == "llama-4" else 256)


@pytest.mark.parametrize("family", ["llama-3", "llama-4"])
def test_the_pattern_is_meta_s(family: str) -> None:
    code = meta_code(family)
    pattern = opened(family).tokenizer.pattern
    assert pattern == (getattr(code, "pat_str", None) or code.O200K_PATTERN)
    assert json.dumps(pattern).encode() in written(family)[NAME]


@pytest.mark.parametrize("family", ["llama-3", "llama-4"])
def test_special_tokens_in_text_are_read_as_meta_s_code_reads_them_if_asked(family: str) -> None:
    loaded = tokenizers.Tokenizer.from_buffer(written(family)[NAME])
    code = meta_code(family)
    names = [a.text for a in opened(family).tokenizer.added]
    known = [n for n in names if code.special_tokens.get(n) is not None]
    texts = [f"a {n}b\n{n}{n} c" for n in known[:40]] + [" ".join(known)]
    unequal = []
    for text in texts:
        theirs = code.encode(text, bos=True, eos=False, allowed_special="all")
        mine = loaded.encode(text).ids
        own = {code.special_tokens[n]: loaded.token_to_id(n) for n in known}
        if mine != [own.get(i, i) for i in theirs]:
            unequal.append(text)
    assert unequal == []


def test_meta_s_class_agrees_with_the_encoder_used_here() -> None:
    """Its `encode` cuts long runs first; no text here is so long that it would."""
    code, plain = meta_code("llama-3"), reference("llama-3")
    texts = [*adversarial(), *fuzz(opened("llama-3").tokenizer, 300, seed=5)]
    assert [code.encode(t, bos=False, eos=False) for t in texts] == [plain.encode(t) for t in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_proof_holds_and_has_teeth(family: str) -> None:
    if family.startswith("llama"):
        pytest.skip("as the others, and slow")
    files = opened(family)
    done = to_hf(files)
    assert done.losses == ()
    result = prove(files, done)
    assert (result.mismatches, result.equal) == (0, True)
    assert result.texts > 2_500
    broken = {**document(family), "model": {**document(family)["model"]}}
    broken["model"]["merges"] = broken["model"]["merges"][60:]
    documents = {**done.documents, NAME: json.dumps(broken).encode()}
    with pytest.raises(CheckFailed, match="differs from its source"):
        prove(files, replace(done, documents=documents))


@pytest.mark.parametrize(
    "options",
    [{"size": 330}, {"size": 600}, {"split_digits": False}, {"character_coverage": 1.0}],
    ids=str,
)
def test_other_small_models(options: dict[str, object]) -> None:
    data = sentencepiece_model(**options)  # type: ignore[arg-type]
    tokenizer = from_model(read_model(data, "file"))
    texts = [*adversarial(), *tokens_as_texts(tokenizer), *fuzz(tokenizer, 1_000, seed=4)]
    here = tokenizers_library(tokenizer_json(tokenizer))
    assert mismatches(pieces(data), here, texts) == []


def test_pieces_that_a_user_defined_are_a_loss_and_the_only_one() -> None:
    """Mistral 3 has some; its other pieces are exact."""
    data = MISTRAL_V3.read_bytes()
    model = read_model(data, "file")
    tokenizer = from_model(model)
    done = to_hf(TokenizerFiles(MISTRAL_V3, tokenizer, data))
    assert len(done.losses) == 1 and "defined by the user" in done.losses[0]
    own = [model.pieces[i].text for i in model.of_kind(Kind.USER_DEFINED)]
    texts = [*adversarial(), *fuzz(tokenizer, 1_000, seed=4)]
    plain = [t for t in texts if not any(o in t for o in own)]
    assert len(plain) > 2_000
    assert mismatches(pieces(data), tokenizers_library(done.documents[NAME]), plain) == []


def test_the_file_says_the_same_whatever_the_merges_order_within_a_token() -> None:
    """Same input, same bytes."""
    data = model_bytes("small-sp")
    again = from_model(read_model(data, "file"))
    assert tokenizer_json(again) == written("small-sp")[NAME]
    ranks = read_ranks(model_bytes("small-ranks"), "file")
    tokenizer = opened("small-ranks").tokenizer
    assert (
        tokenizer_json(
            Tokenizer(ranks, tokenizer.added, tokenizer.roles, tokenizer.version, tokenizer.pattern)
        )
        == written("small-ranks")[NAME]
    )
