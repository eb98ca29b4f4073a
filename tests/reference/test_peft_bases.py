"""Adapters on bases of every layout and type, alone, in order and weighted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.adapters import (
    KINDS,
    LINEAR,
    PLAIN,
    TIED,
    VOCABULARY,
    Kind,
    base,
    distance,
    exact,
    in_order,
    make,
    missed,
    one_thread,
    peft_merged,
    skip_unknown,
    steps,
    untied,
    weighted,
    write_base,
)
from support.calls import call, tree
from support.tiny import Tensors, Tiny
from support.tiny_files import read_hf, read_meta, unequal, write_meta

SAME_WEIGHTS = 1e-6
"""Of the largest number of a tensor: PEFT adds up in fp32."""
NEAREST = {torch.bfloat16: 1e-4, torch.float16: 1e-3, torch.float32: 1e-4}
"""Share of elements that may not be the nearest of their type.

Sums for 16 bits are in fp32, for fp32 in fp64. The closer the type's numbers, the more sums lie
so near to the middle of two that fp32 cannot tell on which side.
"""


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


Source = Callable[..., Path]
Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A base's folder: in HF layout, or in that many of Meta's files."""

    made: dict[tuple[Tiny, int], Path] = {}

    def write(model: Tiny, files: int = 0) -> Path:
        if (model, files) not in made:
            folder = tmp_path_factory.mktemp("bases") / "base"
            made[model, files] = (
                write_meta(model, folder, files) if files else write_base(model, folder)
            )
        return made[model, files]

    return write


@pytest.fixture(scope="module")
def adapter(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """An adapter of a kind, for the HF form of its base."""

    def build(kind: Kind, seed: int = 1) -> Path:
        skip_unknown(kind)
        return make(kind, source(kind.base), tmp_path_factory.mktemp("made") / "adapter", seed)

    return build


def merged(out: Path, *words: object) -> Tensors:
    """The HF tensors that `merge-lora WORDS OUT` writes."""
    done = call("merge-lora", *words, out)
    assert done.code == 0, done.err
    return read_hf(out)


# --- Meta's layout --------------------------------------------------------------------------------

OF_META = [
    "linear", "dora-rslora-patterns", "dora-embedding", "dora-head", "dora-biased",
    "embedding-and-head", "biases", "saved-norms", "saved-block", "tokens-by-module",
    "grown-lora", "grown-saved", "bd", "bin-dora",
]  # fmt: skip


@pytest.fixture(scope="module", params=OF_META)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def pair(
    kind: Kind,
    source: Source,
    adapter: Maker,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Tensors]:
    """An adapter, and its HF base with it."""
    folder = adapter(kind)
    return folder, merged(tmp_path_factory.mktemp("hf") / "out", source(kind.base), folder)


@pytest.mark.parametrize("files", [1, 2, 4])
def test_a_meta_base_gives_the_bytes_that_its_hf_form_gives(
    files: int,
    kind: Kind,
    pair: tuple[Path, Tensors],
    source: Source,
    tmp_path: Path,
) -> None:
    """PEFT trains on transformers' rows; in Meta's files those of q and k stand in another order,
    and each file has a part. In four files, two hold the same key-value head.
    """
    folder, wanted = pair
    found = merged(tmp_path / "out", source(kind.base, files), folder, "--to", "hf")
    assert not unequal(found, wanted)


@pytest.mark.parametrize(("files", "shards"), [(1, 2), (2, 1), (4, 4)])
def test_a_meta_result_converts_to_the_same_bytes(
    files: int,
    shards: int,
    kind: Kind,
    pair: tuple[Path, Tensors],
    source: Source,
    tmp_path: Path,
) -> None:
    """Meta's own layout is what a Meta base's result has by default."""
    folder, wanted = pair
    meta, back = tmp_path / "meta", tmp_path / "back"
    done = call("merge-lora", source(kind.base, files), folder, meta, "--shards", shards)
    assert done.code == 0, done.err
    assert len(read_meta(meta)) == shards
    assert call("convert", meta, back, "--to", "hf").code == 0
    assert not unequal(read_hf(back), wanted)


def test_hf_bases_go_to_meta_files_in_one_step(
    kind: Kind,
    pair: tuple[Path, Tensors],
    source: Source,
    tmp_path: Path,
) -> None:
    folder, wanted = pair
    meta, back = tmp_path / "meta", tmp_path / "back"
    words = ("--to", "meta", "--shards", 1)
    assert call("merge-lora", source(kind.base), folder, meta, *words).code == 0
    assert call("convert", meta, back, "--to", "hf").code == 0
    assert not unequal(read_hf(back), wanted)


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("module", ["q_proj", *VOCABULARY])
def test_tied_meta_bases_part_where_hf_bases_do(
    files: int, module: str, source: Source, adapter: Maker, tmp_path: Path
) -> None:
    """Meta's files hold the head of a tied model too."""
    folder = adapter(Kind({"target_modules": [module]}, TIED))
    wanted = merged(tmp_path / "hf", source(TIED), folder)
    found = merged(tmp_path / "out", source(TIED, files), folder, "--to", "hf")
    assert ("lm_head.weight" in found) is (module != "q_proj")
    assert not unequal(found, wanted)
    if module != "q_proj":
        assert missed(found, exact(untied(TIED), folder)) == 0


# --- types, rounded once --------------------------------------------------------------------------

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SMALL = {name: base(dtype=dtype, layers=2) for name, dtype in TYPES.items()}
MIXED = Kind(
    {"target_modules": [*LINEAR, "embed_tokens"], "use_dora": True, "modules_to_save": ["lm_head"]}
)
WIDE = base(head_dim=64, ffn=1408, layers=1, vocab=64, dtype=torch.bfloat16)
"""2.8 million elements in linear layers: 0.01 % of them can be told."""
ON_WIDE = Kind({"target_modules": LINEAR}, WIDE)


@pytest.fixture(scope="module")
def three(adapter: Maker) -> list[Path]:
    """Adapters of the wide model."""
    return [adapter(ON_WIDE, seed) for seed in (1, 2, 3)]


def changed(found: Tensors, wanted: Tensors) -> float:
    """`missed`, of the tensors that an adapter of all linear layers changes."""
    names = [n for n in wanted if "_proj" in n]
    assert sum(wanted[n].numel() for n in names) > 1_000_000
    return missed({n: found[n] for n in names}, {n: wanted[n] for n in names})


@pytest.mark.parametrize("count", [1, 3])
def test_nearest_bf16_numbers_but_for_one_in_ten_thousand(
    count: int, three: list[Path], source: Source, tmp_path: Path
) -> None:
    """However many adapters: the sum is rounded at its end alone."""
    found = merged(tmp_path / "out", source(WIDE), *three[:count])
    wanted = in_order(WIDE.truth, *three[:count])
    assert changed(found, wanted) <= NEAREST[torch.bfloat16]
    assert distance(found, wanted) <= 1.01 * 2**-8  # half a step


def test_nearest_numbers_are_not_what_peft_finds_in_sequence(
    three: list[Path], source: Source
) -> None:
    """Each of its three merges rounds to bf16; the first is still right."""
    one, all_of_them = (peft_merged(source(WIDE), *three[:n]) for n in (1, 3))
    assert changed(one, in_order(WIDE.truth, *three[:1])) < 0.01
    assert changed(all_of_them, in_order(WIDE.truth, *three)) > 0.2


@pytest.mark.parametrize("to", ["keep", *TYPES])
@pytest.mark.parametrize("of", TYPES)
def test_nearest_numbers_of_every_type(
    of: str, to: str, source: Source, adapter: Maker, tmp_path: Path
) -> None:
    """Also where --dtype asks for another than the base's: it is not rounded to that one first."""
    model, dtype = SMALL[of], TYPES[of if to == "keep" else to]
    folder = adapter(Kind(MIXED.settings, model))
    found = merged(tmp_path / "out", source(model), folder, "--dtype", to)
    assert {t.dtype for t in found.values()} == {dtype}
    assert missed(found, exact(model.truth, folder)) <= NEAREST[dtype]


def test_fp32_from_a_bf16_base_keeps_all_of_the_change(
    three: list[Path], source: Source, tmp_path: Path
) -> None:
    """Next to fp64, where a detour over bf16 would leave an error of 1e-3."""
    found = merged(tmp_path / "out", source(WIDE), *three, "--dtype", "fp32")
    wanted = in_order(WIDE.truth, *three)
    assert changed(found, wanted) <= NEAREST[torch.float32]
    assert distance(found, wanted) < 1e-7


# --- several adapters -----------------------------------------------------------------------------

SEQUENCES: dict[str, list[str]] = {
    "lora, rslora": ["lora", "rslora"],
    "the same kind thrice": ["linear", "linear", "linear"],
    "dora, dora": ["dora", "dora"],
    "lora, dora, lora": ["linear", "dora-rslora-patterns", "lora"],
    "embeddings": ["embedding-full-name", "embedding-full-name"],
    "dora of embeddings": ["dora-embedding-full-name", "dora-embedding-full-name"],
    "saved, then more": ["saved-norms", "saved-vocabulary", "embedding-full-name"],
    "more, then saved": ["dora-head", "embedding-full-name", "saved-vocabulary"],
    "tokens": ["tokens", "tokens-by-module", "embedding-full-name"],
    "biases": ["biases", "lora-bias", "bias-all", "dora-biased"],
    "grown twice": ["grown", "grown-lora"],
    "bd, pissa": ["bd", "pissa", "rslora"],
}


def _made(names: list[str], adapter: Maker) -> tuple[Tiny, list[Path]]:
    kinds = [KINDS[name] for name in names]
    return kinds[0].base, [adapter(kind, seed) for seed, kind in enumerate(kinds, 1)]


@pytest.mark.parametrize("name", SEQUENCES)
def test_several_in_order_are_what_peft_makes_of_them(
    name: str, source: Source, adapter: Maker, tmp_path: Path
) -> None:
    """PEFT's way: load, merge and unload, load the next.

    So the second DoRA adapter's magnitudes are held against the merged weight's lengths.
    """
    model, folders = _made(SEQUENCES[name], adapter)
    found = merged(tmp_path / "out", source(model), *folders)
    assert missed(found, in_order(model.truth, *folders)) <= NEAREST[torch.float32]
    assert distance(found, peft_merged(source(model), *folders)) <= SAME_WEIGHTS


@pytest.mark.parametrize(
    "names",
    [["embedding", "embedding"], ["dora-embedding", "dora-embedding"], ["head", "dora-head"]],
)
def test_a_copy_of_the_base_in_a_file_does_not_undo_the_adapter_before(
    names: list[str], source: Source, adapter: Maker, tmp_path: Path
) -> None:
    """PEFT is wrong here, or its files are.

    Beside factors of the embedding or the head it saves the base's own matrix. Loading the second
    adapter puts that in place of the merged one, and the first is lost.
    """
    model, folders = _made(names, adapter)
    found = merged(tmp_path / "out", source(model), *folders)
    assert missed(found, in_order(model.truth, *folders)) <= NEAREST[torch.float32]


def test_order_matters(source: Source, adapter: Maker, tmp_path: Path) -> None:
    """Else the test above would say nothing of it."""
    model, folders = _made(["linear", "dora"], adapter)
    one = merged(tmp_path / "one", source(model), *folders)
    other = merged(tmp_path / "other", source(model), *folders[::-1])
    assert distance(one, other) > 1e-3


WEIGHTED: dict[str, tuple[list[str], list[float]]] = {
    "lora": (["linear", "rslora"], [0.7, 0.3]),
    "one": (["linear"], [0.25]),
    "nothing of one": (["linear", "dora"], [1, 0]),
    "dora": (["dora", "dora-rslora-patterns"], [0.7, 0.3]),
    "dora of embeddings": (["dora-embedding", "dora-embedding", "dora-head"], [0.5, 0.25, 2]),
    "against": (["linear", "bd"], [1.5, -0.5]),
    "saved": (["saved-vocabulary", "saved-norms", "embedding-and-head"], [0.6, 0.3, 0.1]),
    "blocks": (["saved-block", "linear"], [0.5, 0.5]),
    "tokens": (["tokens", "tokens-by-module"], [0.5, 0.25]),
    "biases": (["biases", "lora-bias", "bias-all"], [0.5, 0.25, 0.25]),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_add_up_shares_of_what_each_does_alone(
    name: str, source: Source, adapter: Maker, tmp_path: Path
) -> None:
    """W + 0.7 D1 + 0.3 D2; D is the whole change, so that DoRA's is DoRA(W) - W."""
    names, shares = WEIGHTED[name]
    model, folders = _made(names, adapter)
    words = ("--weights=" + ",".join(map(str, shares)),)
    found = merged(tmp_path / "out", source(model), *folders, *words)
    wanted = weighted(model.truth, folders, shares)
    assert missed(found, wanted) <= NEAREST[torch.float32]
    assert max(steps(t, wanted[n]) for n, t in found.items()) <= 1


def test_a_weight_of_one_is_the_adapter_itself(
    source: Source, adapter: Maker, tmp_path: Path
) -> None:
    folder = adapter(KINDS["dora"])
    plain = merged(tmp_path / "plain", source(PLAIN), folder)
    assert distance(merged(tmp_path / "w", source(PLAIN), folder, "--weights=1"), plain) < 1e-7


def test_weights_on_a_tied_model(source: Source, adapter: Maker, tmp_path: Path) -> None:
    """One changes the embedding, the other what both are: the first parts them for both."""
    one = adapter(Kind({"target_modules": ["embed_tokens"]}, TIED), 1)
    two = adapter(Kind({"target_modules": ["lm_head"]}, TIED), 2)
    found = merged(tmp_path / "out", source(TIED), one, two, "--weights=0.7,0.3")
    assert missed(found, weighted(untied(TIED), [one, two], [0.7, 0.3])) <= NEAREST[torch.float32]


# --- workers and memory ---------------------------------------------------------------------------


LIMITS = {
    PLAIN: (("--jobs", 1), ("--jobs", 4), ("--max-memory", "2MB")),
    WIDE: (("--jobs", 1), ("--jobs", 4), ("--max-memory", "24MB"), ("--jobs", 3)),
}
"""By model. What is computed at once is as large as a quarter of a million numbers, or a tensor."""


@pytest.mark.parametrize("files", [0, 2])
@pytest.mark.parametrize("model", LIMITS, ids=["narrow", "wide"])
def test_bytes_depend_on_neither_workers_nor_memory(
    model: Tiny, files: int, source: Source, adapter: Maker, tmp_path: Path
) -> None:
    """The wide model's tensors are cut into many blocks, of other sizes with other limits."""
    last = "embed_tokens" if model is WIDE else "lm_head"
    folders = [
        adapter(Kind({"target_modules": [*LINEAR, module], "use_dora": True}, model), seed)
        for seed, module in enumerate(("lm_head", last))
    ]
    found = []
    for i, limit in enumerate(LIMITS[model]):
        merged(tmp_path / str(i), source(model, files), *folders, *limit)
        found.append(tree(tmp_path / str(i)))
    assert all(folder == found[0] for folder in found[1:])
