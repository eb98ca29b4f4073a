"""transformers loads what is written, and gives the ids of the original.

    LLAMATOOLS_OTHER_PYTHON=VENV/bin/python python -m pytest -m scripts \\
        tests/tokenizer/test_transformers.py

runs the same on another version of transformers; VENV: `pip install transformers==4.57.6`.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from libraries import meta_code, opened, put, reference, written
from support.vocabularies import sentencepiece_model
from transformers import AutoTokenizer

from llamatools.errors import BadInput
from llamatools.tokenizer.corpus import adversarial, fuzz
from llamatools.tokenizer.forms import to_hf
from llamatools.tokenizer.opening import open_tokenizer

FAMILIES = ("llama-3", "mistral", "small-sp", "small-sp-no-prefix", "small-ranks")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family in FAMILIES:
        made[family] = folder = tmp_path_factory.mktemp(family)
        for name, data in written(family).items():
            (folder / name).write_bytes(data)
    return made


@cache
def loaded(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@cache
def texts(family: str) -> list[str]:
    """transformers reads special tokens out of text, which Meta's code does only if asked."""
    tokenizer = opened(family).tokenizer
    specials = tuple(tokenizer.specials.values())
    found = [*adversarial(), *fuzz(tokenizer, 1_500, seed=40)]
    return [t for t in found if not any(s in t for s in specials)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_ids_and_text(family: str, folders: dict[str, Path]) -> None:
    here, there = loaded(folders[family]), reference(family)
    assert len(texts(family)) > 2_500
    expected = [there.encode(t) for t in texts(family)]
    assert here(texts(family), add_special_tokens=False)["input_ids"] == expected
    assert [here.decode(i) for i in expected] == [there.decode(i) for i in expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_text_begins_with_bos_by_default(family: str, folders: dict[str, Path]) -> None:
    here, bos = loaded(folders[family]), opened(family).tokenizer.roles.bos
    for text in ("", "Hello", " two  spaces"):
        ids = here(text)["input_ids"]
        assert ids == [bos, *reference(family).encode(text)]
        assert here.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_and_size(family: str, folders: dict[str, Path]) -> None:
    here, tokenizer = loaded(folders[family]), opened(family).tokenizer
    roles = tokenizer.roles
    found = (here.bos_token_id, here.eos_token_id, here.pad_token_id)
    assert found == (roles.bos, roles.eos, roles.pad)
    assert len(here) == tokenizer.size
    assert here.clean_up_tokenization_spaces is False
    assert here.is_fast
    strays = [s for i, s in tokenizer.specials.items() if here.convert_tokens_to_ids(s) != i]
    assert strays == []
    assert set(here.all_special_ids) <= set(tokenizer.specials)


def test_roles_of_llama_3_are_meta_s(folders: dict[str, Path]) -> None:
    here, code = loaded(folders["llama-3"]), meta_code("llama-3")
    assert (here.bos_token_id, here.eos_token_id) == (code.bos_id, code.eos_id)
    assert here.pad_token_id == code.pad_id


def test_an_instruct_model_ends_its_answers(tmp_path: Path) -> None:
    done = to_hf(opened("small-ranks"), instruct=True, chat_template="{{ bos_token }}x")
    for name, data in done.documents.items():
        (tmp_path / name).write_bytes(data)
    here = AutoTokenizer.from_pretrained(tmp_path)
    assert here.eos_token == "<|eot_id|>"
    conversation = [{"role": "user", "content": "hi"}]
    assert here.apply_chat_template(conversation, tokenize=False) == "<|begin_of_text|>x"


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_again(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    here = loaded(folders[family])
    here.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    some = texts(family)[::3]
    assert again(some)["input_ids"] == here(some)["input_ids"]
    # And what it saved is the same tokenizer to us.
    files = open_tokenizer(tmp_path)
    assert (files.deviations, files.conflicts) == ((), ())
    assert files.tokenizer.specials == opened(family).tokenizer.specials
    assert files.tokenizer.roles.bos == opened(family).tokenizer.roles.bos


def test_added_tokens_keep_their_ids(tmp_path: Path) -> None:
    """As of Vicuna: read from text, and one row of the model each."""
    size = opened("small-sp").tokenizer.size
    source = put(
        tmp_path / "in", model=sentencepiece_model(), added={"[PAD]": size, "[X]": size + 1}
    )
    done = to_hf(open_tokenizer(source))
    (tmp_path / "out").mkdir()
    for name, data in done.documents.items():
        (tmp_path / "out" / name).write_bytes(data)
    here = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert here.convert_tokens_to_ids(["[PAD]", "[X]"]) == [size, size + 1]
    assert here("[PAD]")["input_ids"][-1] == size
    assert len(here) == size + 2


def test_gaps_between_added_tokens_are_refused(tmp_path: Path) -> None:
    """transformers would number them otherwise."""
    size = opened("small-sp").tokenizer.size
    source = put(tmp_path / "in", model=sentencepiece_model(), added={"[X]": size + 5})
    with pytest.raises(BadInput, match="do not follow the last"):
        open_tokenizer(source)


def test_a_user_s_slow_config_does_not_change_ids(tmp_path: Path) -> None:
    """tokenizer_config.json of a folder without tokenizer.json names a class that rebuilds it."""
    config = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False,
    }  # fmt: skip
    source = put(tmp_path / "in", model=sentencepiece_model(), config=config)
    done = to_hf(open_tokenizer(source))
    (tmp_path / "out").mkdir()
    for name, data in done.documents.items():
        (tmp_path / "out" / name).write_bytes(data)
    here, there = AutoTokenizer.from_pretrained(tmp_path / "out"), reference("small-sp")
    some = texts("small-sp")
    expected = [there.encode(t) for t in some]
    found = here(some, add_special_tokens=False)["input_ids"]
    different = [t for t, x, y in zip(some, found, expected, strict=True) if x != y]
    assert different == []


@pytest.mark.scripts
def test_another_version_of_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    python = os.environ.get("LLAMATOOLS_OTHER_PYTHON")
    if not python:
        pytest.skip("LLAMATOOLS_OTHER_PYTHON is not set")
    specials = {s for f in FAMILIES for s in opened(f).tokenizer.specials.values()}
    common = [*adversarial(), *fuzz(opened("mistral").tokenizer, 2_000, seed=41)]
    job = {
        "folders": {family: str(folder) for family, folder in folders.items()},
        "texts": [t for t in common if not any(s in t for s in specials)],
        "out": str(tmp_path / "out.json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("transformers_encode.py")
    environment = {"HF_HUB_OFFLINE": "1", "PATH": os.environ.get("PATH", "")}
    done = subprocess.run(
        [python, str(script), str(tmp_path / "job.json")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())
    for family in FAMILIES:
        found, there = result["found"][family], reference(family)
        tokenizer = opened(family).tokenizer
        expected = [there.encode(t) for t in job["texts"]]
        assert found["ids"] == expected, (family, result["version"])
        assert found["text"] == [there.decode(i) for i in expected], (family, result["version"])
        assert found["with"] == [[tokenizer.roles.bos, *i] for i in expected[:5]]
        roles = tokenizer.roles
        assert found["roles"] == [roles.bos, roles.eos, roles.pad]
        assert found["size"] == tokenizer.size
