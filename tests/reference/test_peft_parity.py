"""Adapters of every kind that PEFT saves, merged here and held against PEFT and against plain fp64.

PEFT decides twice: by the weights that it merges itself, and by the logits of the model that it
leaves unmerged. The formulas in fp64 decide to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support.adapters import (
    EMBEDDING,
    HEAD,
    KINDS,
    PLAIN,
    PREFIX,
    TIED,
    VOCABULARY,
    Kind,
    base,
    distance,
    exact,
    load_base,
    load_peft,
    logits,
    make,
    missed,
    off,
    one_thread,
    peft_merged,
    quiet,
    read_adapter,
    rewrite,
    settings_of,
    skip_unknown,
    steps,
    untied,
    write_base,
)
from support.calls import call
from support.tiny import Tensors, Tiny
from support.tiny_files import read_hf

if TYPE_CHECKING:
    from peft import PeftModel

SAME_WEIGHTS = 1e-6
"""Of the largest number of a tensor: PEFT adds up in fp32."""
SAME_LOGITS = 1e-4
"""Of the logits' spread; another order of the same sums in fp32 gives 1e-5."""
NEAREST = 1e-3
"""Share of elements that may be the fp32 number next to the nearest."""


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@dataclass(frozen=True)
class Case:
    """An adapter on its base, and where its merged model goes."""

    kind: Kind
    source: Path
    adapter: Path
    out: Path

    @cached_property
    def found(self) -> Tensors:
        """What merge-lora writes; it is run once."""
        done = call("merge-lora", self.source, self.adapter, self.out)
        assert done.code == 0, done.err
        return read_hf(self.out)

    @cached_property
    def wanted(self) -> Tensors:
        return exact(untied(self.kind.base), self.adapter)

    @property
    def rows(self) -> int:
        return self.kind.base.vocab + self.kind.grown

    @cached_property
    def unmerged(self) -> torch.Tensor:
        """Logits of PEFT's model, as it is after training."""
        return logits(self._peft, self.rows)

    @cached_property
    def by_peft(self) -> Tensors:
        """What PEFT itself merges; its logits are taken first, since the model is used up."""
        assert len(self.unmerged)
        with quiet():
            return dict(self._peft.merge_and_unload().state_dict())

    @cached_property
    def _peft(self) -> PeftModel:
        return load_peft(self.source, self.adapter)

    def logits_of_out(self) -> torch.Tensor:
        assert self.found
        return logits(load_base(self.out), self.rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tiny], Path]:
    """The HF folder of a base, written once."""
    made: dict[int, Path] = {}

    def write(model: Tiny) -> Path:
        if id(model) not in made:
            made[id(model)] = write_base(model, tmp_path_factory.mktemp("bases") / "base")
        return made[id(model)]

    return write


Maker = Callable[[Kind], Case]


@pytest.fixture(scope="module")
def case_of(folder: Callable[[Tiny], Path], tmp_path_factory: pytest.TempPathFactory) -> Maker:
    def build(kind: Kind) -> Case:
        skip_unknown(kind)
        home, source = tmp_path_factory.mktemp("case"), folder(kind.base)
        return Case(kind, source, make(kind, source, home / "adapter"), home / "out")

    return build


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, case_of: Maker) -> Case:
    return case_of(KINDS[request.param])


@cache
def logits_before(source: Path, rows: int) -> torch.Tensor:
    return logits(load_base(source, rows), rows)


def test_the_adapter_makes_another_model(case: Case) -> None:
    """Else the comparisons below would pass on a merge that does nothing."""
    assert off(logits_before(case.source, case.rows), case.unmerged) > 0.1


def test_weights_are_those_that_peft_merges(case: Case) -> None:
    assert distance(case.found, case.by_peft) <= SAME_WEIGHTS
    assert distance(case.wanted, case.by_peft) <= SAME_WEIGHTS  # the formulas here are PEFT's


def test_every_element_is_next_to_the_exact_one(case: Case) -> None:
    assert missed(case.found, case.wanted) <= NEAREST
    assert max(steps(t, case.wanted[name]) for name, t in case.found.items()) <= 1


def test_what_the_adapter_leaves_alone_keeps_its_bits(case: Case) -> None:
    truth = case.kind.base.truth
    same = [n for n, t in truth.items() if torch.equal(t.double(), case.wanted[n])]
    assert same or case.kind.settings.get("bias") == "all" or "norm" in str(case.kind.settings)
    assert all(torch.equal(case.found[n], truth[n]) for n in same)


def test_logits_are_those_of_the_unmerged_model(case: Case) -> None:
    assert off(case.logits_of_out(), case.unmerged) <= SAME_LOGITS
    assert len(case.found[EMBEDDING]) == case.rows


# --- tied models ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tie:
    """An adapter of a tied model, and whether head and embedding are one matrix afterwards."""

    kind: Kind
    stays: bool


def _tied(stays: bool, grown: int = 0, **settings: object) -> Tie:
    return Tie(Kind({"target_modules": ["q_proj"], **settings}, TIED, grown), stays)


_EMBEDDING, _HEAD = ["embed_tokens"], ["lm_head"]
_SURE = {"ensure_weight_tying": True}
_TOKENS = [190, 3]

TIES: dict[str, Tie] = {
    "linear": _tied(True),
    "embedding": _tied(False, target_modules=_EMBEDDING),
    "embedding-full-name": _tied(False, target_modules=["model.embed_tokens", "q_proj"]),
    "head": _tied(False, target_modules=_HEAD),
    "both": _tied(False, target_modules=VOCABULARY),
    "embedding-ensured": _tied(True, target_modules=_EMBEDDING, **_SURE),
    "head-ensured": _tied(True, target_modules=_HEAD, **_SURE),
    "both-ensured": _tied(True, target_modules=[*VOCABULARY, "q_proj"], **_SURE),
    "regex-ensured": _tied(True, target_modules=".*(embed_tokens|q_proj)", **_SURE),
    "regex-with-a-path-ensured": _tied(
        False, target_modules=r"model\.embed_tokens|.*q_proj", **_SURE
    ),
    "ensured-with-a-rank-of-its-own": _tied(
        False, target_modules=_EMBEDDING, rank_pattern={"embed_tokens": 3}, **_SURE
    ),
    "ensured-but-scaled-apart": _tied(
        False, target_modules=_EMBEDDING, alpha_pattern={"lm_head": 3}, **_SURE
    ),
    "dora-embedding": _tied(False, target_modules=_EMBEDDING, use_dora=True),
    "dora-head": _tied(False, target_modules=_HEAD, use_dora=True),
    "dora-ensured": _tied(False, target_modules=_EMBEDDING, use_dora=True, **_SURE),
    "tokens": _tied(True, trainable_token_indices=_TOKENS),
    "tokens-ensured": _tied(True, trainable_token_indices=_TOKENS, **_SURE),
    "tokens-of-the-embedding": _tied(True, trainable_token_indices={"embed_tokens": _TOKENS}),
    "tokens-of-both": _tied(
        True, trainable_token_indices={"embed_tokens": _TOKENS, "lm_head": _TOKENS}
    ),
    "tokens-of-each": _tied(
        False, trainable_token_indices={"embed_tokens": _TOKENS, "lm_head": [4]}
    ),
    "tokens-of-the-head": _tied(False, trainable_token_indices={"lm_head": _TOKENS}),
    "tokens-of-the-head-ensured": _tied(
        False, trainable_token_indices={"lm_head": _TOKENS}, **_SURE
    ),
    "tokens-and-lora-head": _tied(False, target_modules=_HEAD, trainable_token_indices=_TOKENS),
    "tokens-of-the-head-and-lora-embedding": _tied(
        False, target_modules=_EMBEDDING, trainable_token_indices={"lm_head": _TOKENS}
    ),
    "saved-embedding": _tied(False, modules_to_save=_EMBEDDING),
    "saved-embedding-ensured": _tied(True, modules_to_save=_EMBEDDING, **_SURE),
    "saved-head": _tied(False, modules_to_save=_HEAD),
    "saved-head-ensured": _tied(True, modules_to_save=_HEAD, **_SURE),
    "saved-both": _tied(False, modules_to_save=VOCABULARY),
    "saved-both-ensured": _tied(True, modules_to_save=VOCABULARY, **_SURE),
    "lora-embedding-saved-head": _tied(False, target_modules=_EMBEDDING, modules_to_save=_HEAD),
    "grown": _tied(True, grown=5),
    "grown-lora-embedding": _tied(False, grown=5, target_modules=_EMBEDDING),
    "grown-lora-head": _tied(False, grown=5, target_modules=_HEAD),
    "grown-lora-ensured": _tied(True, grown=5, target_modules=_EMBEDDING, **_SURE),
    "grown-tokens": _tied(True, grown=5, trainable_token_indices=[195, 3]),
    "grown-tokens-of-the-head": _tied(
        False, grown=5, trainable_token_indices={"lm_head": [195, 3]}
    ),
    "grown-saved-embedding": _tied(False, grown=5, modules_to_save=_EMBEDDING),
    "grown-saved-head": _tied(False, grown=5, modules_to_save=_HEAD),
    "grown-saved-ensured": _tied(True, grown=5, modules_to_save=_EMBEDDING, **_SURE),
}


@pytest.mark.parametrize("name", TIES)
def test_tied_models_give_the_logits_of_the_unmerged_model(name: str, case_of: Maker) -> None:
    """PEFT's own merge is no reference here.

    With LoRA on the embedding or the head it adds to the one matrix that both share: both change
    where one should, and where both should, it adds twice.
    """
    tie = TIES[name]
    case = case_of(tie.kind)
    assert off(case.logits_of_out(), case.unmerged) <= SAME_LOGITS
    assert (HEAD not in case.found) is tie.stays
    assert json.loads((case.out / "config.json").read_text())["tie_word_embeddings"] is tie.stays


@pytest.mark.parametrize(
    ("name", "unchanged"),
    [("embedding", HEAD), ("head", EMBEDDING), ("saved-embedding", HEAD), ("saved-head", EMBEDDING),
     ("tokens-of-the-head", EMBEDDING)],
)  # fmt: skip
def test_what_was_tied_to_a_changed_matrix_is_the_bases_own(
    name: str, unchanged: str, case_of: Maker
) -> None:
    case = case_of(TIES[name].kind)
    assert torch.equal(case.found[unchanged], TIED.truth[EMBEDDING])
    assert missed(case.found, case.wanted) <= NEAREST


@pytest.mark.parametrize("name", ["embedding-ensured", "head-ensured", "saved-embedding-ensured"])
def test_what_is_trained_as_one_is_applied_once(name: str, case_of: Maker) -> None:
    case = case_of(TIES[name].kind)
    assert torch.equal(case.wanted[EMBEDDING], case.wanted.pop(HEAD))
    assert missed(case.found, case.wanted) <= NEAREST


def test_ensured_tying_means_nothing_on_an_untied_base(case_of: Maker) -> None:
    case = case_of(Kind({"target_modules": _EMBEDDING, **_SURE}))
    assert torch.equal(case.found[HEAD], PLAIN.truth[HEAD])
    assert off(case.logits_of_out(), case.unmerged) <= SAME_LOGITS


# --- other forms of the files ---------------------------------------------------------------------

FORMS: dict[str, Callable[[str], str]] = {
    "adapter's name inside": lambda n: (
        n if n.endswith((".lora_embedding_A", ".lora_embedding_B", "_vector"))
        else n.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
    ),
    "adapter's name at the end": lambda n: (
        f"{n}.default" if n.endswith(("lora_embedding_A", "lora_embedding_B", "_vector")) else n
    ),
    "no prefix": lambda n: n.removeprefix(PREFIX),
    "magnitudes with weight": lambda n: f"{n}.weight" if n.endswith("_vector") else n,
    "all of them": lambda n: (
        n.removeprefix(PREFIX)
        .replace("lora_A.", "lora_A.default.")
        .replace("lora_B.", "lora_B.default.")
        .replace("_vector", "_vector.default.weight")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(case_of: Maker) -> Case:
    """Every role that a name can have."""
    return case_of(
        Kind({"target_modules": ["q_proj", "up_proj", "embed_tokens"], "use_dora": True,
              "modules_to_save": ["lm_head", "model.norm"]})
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_names_of_other_versions_mean_the_same(form: str, whole: Case, tmp_path: Path) -> None:
    before = read_adapter(whole.adapter)
    tensors = {FORMS[form](name): t for name, t in before.items()}
    assert tensors.keys() != before.keys()
    adapter = rewrite(whole.adapter, tmp_path / "adapter", tensors)
    done = call("merge-lora", whole.source, adapter, tmp_path / "out")
    assert done.code == 0, done.err
    found = read_hf(tmp_path / "out")
    assert all(torch.equal(found[name], t) for name, t in whole.found.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_factors_of_16_bits_are_summed_up_wide(
    dtype: torch.dtype, whole: Case, tmp_path: Path
) -> None:
    """PEFT makes them fp32 when it loads them, and so loses nothing either."""
    narrow = {name: t.to(dtype) for name, t in read_adapter(whole.adapter).items()}
    adapter = rewrite(whole.adapter, tmp_path / "adapter", narrow)
    done = call("merge-lora", whole.source, adapter, tmp_path / "out")
    assert done.code == 0, done.err
    found = read_hf(tmp_path / "out")
    assert missed(found, exact(PLAIN.truth, adapter)) <= NEAREST
    assert distance(found, peft_merged(whole.source, adapter)) <= SAME_WEIGHTS


def test_an_adapter_of_the_bare_model(
    folder: Callable[[Tiny], Path], case_of: Maker, tmp_path: Path
) -> None:
    """Trained on LlamaModel, without a head: its names lack the first "model."."""
    case = case_of(Kind({"target_modules": ["q_proj", "up_proj"]}))
    held = read_adapter(case.adapter)
    tensors = {name.replace(".model.layers", ".layers"): t for name, t in held.items()}
    assert all(name.startswith("base_model.model.layers.") for name in tensors)
    adapter = rewrite(case.adapter, tmp_path / "bare", tensors, task_type="FEATURE_EXTRACTION")
    with quiet():
        from peft import PeftModel
        from transformers import LlamaModel

        bare = PeftModel.from_pretrained(LlamaModel.from_pretrained(case.source), adapter)
        merged = {f"model.{n}": t for n, t in bare.merge_and_unload().state_dict().items()}
    done = call("merge-lora", case.source, adapter, tmp_path / "out")
    assert done.code == 0, done.err
    found = read_hf(tmp_path / "out")
    assert torch.equal(found.pop(HEAD), PLAIN.truth[HEAD])
    assert distance(found, merged) <= SAME_WEIGHTS


# --- what configs mean ----------------------------------------------------------------------------


def test_fan_in_fan_out_turns_nothing_in_a_llama(case_of: Maker, tmp_path: Path) -> None:
    """PEFT keeps fan_in_fan_out for GPT-2's Conv1D alone.

    Where the target is an nn.Linear, it sets the flag back with a warning: when an adapter is
    made, so that its file says false, and again when one is loaded. So even a file that says true
    means B A, not its transpose. The targets here are square, so that both would fit.
    """
    case = case_of(KINDS["fan-in-fan-out"])
    assert settings_of(case.adapter)["fan_in_fan_out"] is False
    tensors = read_adapter(case.adapter)
    adapter = rewrite(case.adapter, tmp_path / "adapter", tensors, fan_in_fan_out=True)
    done = call("merge-lora", case.source, adapter, tmp_path / "out")
    assert done.code == 0, done.err
    found = read_hf(tmp_path / "out")
    assert missed(found, case.wanted) <= NEAREST
    assert distance(found, peft_merged(case.source, adapter)) <= SAME_WEIGHTS


@pytest.mark.parametrize("dora", [False, True])
def test_an_embedding_as_wide_as_its_vocabulary(dora: bool, case_of: Maker) -> None:
    """Shapes cannot tell here which of the two is to be transposed."""
    case = case_of(Kind({"target_modules": VOCABULARY, "use_dora": dora}, base(vocab=64)))
    assert missed(case.found, case.wanted) <= NEAREST
    assert off(case.logits_of_out(), case.unmerged) <= SAME_LOGITS


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_pattern_in_the_file_that_matches_wins(
    reverse: bool, case_of: Maker, tmp_path: Path
) -> None:
    """PEFT sorts the keys when it saves, and reads them in the order in which they stand.

    An adapter trained with overlapping patterns in another order is another one after saving, to
    PEFT as well: only the file counts.
    """
    case = case_of(KINDS["lora"])
    patterns = [("layers.0.self_attn.q_proj", 3), ("q_proj", 64), (r".*\.2\..*", 1)]
    adapter = rewrite(
        case.adapter,
        tmp_path / "adapter",
        read_adapter(case.adapter),
        alpha_pattern=dict(patterns[::-1] if reverse else patterns),
    )
    done = call("merge-lora", case.source, adapter, tmp_path / "out")
    assert done.code == 0, done.err
    found = read_hf(tmp_path / "out")
    assert missed(found, exact(PLAIN.truth, adapter)) <= NEAREST
    assert distance(found, peft_merged(case.source, adapter)) <= SAME_WEIGHTS


def test_a_pattern_that_needs_backtracking_still_names_targets(case_of: Maker) -> None:
    """The file has the factors of all targets anyway."""
    case = case_of(Kind({"target_modules": r"(?!.*\.1\.).*\.(q|up)_proj"}))
    assert missed(case.found, case.wanted) <= NEAREST


# --- adapters that altered their base -------------------------------------------------------------


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_unconverted_adapters_are_refused(init: str, case_of: Maker) -> None:
    """They took a part out of the base: on the base as released their sum is another model."""
    case = case_of(Kind({"target_modules": ["q_proj", "o_proj"], "init_lora_weights": init}))
    done = call("merge-lora", case.source, case.adapter, case.out)
    assert done.code == 3, done.err
    assert "unconverted" in done.err and not case.out.exists()
    merged = peft_merged(case.source, case.adapter)  # where PEFT takes the part out again
    assert distance(case.wanted, merged) > 0.1


def test_an_unconverted_adapter_is_merged_into_the_base_it_altered(
    case_of: Maker, tmp_path: Path
) -> None:
    """As the refusal's hint says: with init_lora_weights true, BASE being what was trained on."""
    case = case_of(Kind({"target_modules": ["q_proj", "o_proj"], "init_lora_weights": "olora"}))
    tensors = read_adapter(case.adapter)
    adapter = rewrite(case.adapter, tmp_path / "adapter", tensors, init_lora_weights=True)
    with quiet():
        load_peft(case.source, case.adapter).unload().save_pretrained(tmp_path / "altered")
    done = call("merge-lora", tmp_path / "altered", adapter, tmp_path / "out")
    assert done.code == 0, done.err
    merged = peft_merged(case.source, case.adapter)
    assert distance(read_hf(tmp_path / "out"), merged) <= SAME_WEIGHTS


@pytest.mark.parametrize("module", VOCABULARY)
def test_half_of_a_grown_vocabulary_is_refused(module: str, case_of: Maker) -> None:
    """PEFT saves only the matrix that has LoRA; new rows of the other one are lost."""
    case = case_of(Kind({"target_modules": [module]}, grown=5))
    done = call("merge-lora", case.source, case.adapter, case.out)
    assert done.code == 3 and "192" in done.err and "197" in done.err
