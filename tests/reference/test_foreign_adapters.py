"""Adapters that torchtune, litgpt and mlx-lm make, merged here and by the package that made them.

    python3.11 -m venv VENV
    VENV/bin/pip install -c constraints.txt torch torchtune==0.6.1 torchao==0.13.0 \\
        lightning==2.6.6 'jsonargparse[signatures]==4.41.0' \\
        mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2
    VENV/bin/pip install --no-deps litgpt==0.5.13
    VENV/bin/pip install --no-deps --target VENV/litgpt-0.5.3 litgpt==0.5.3
    LLAMATOOLS_FOREIGN_PYTHON=VENV/bin/python LLAMATOOLS_OLD_LITGPT=VENV/litgpt-0.5.3 \\
        python -m pytest -m foreign tests/reference/test_foreign_adapters.py

litgpt goes without what it asks for, since its huggingface_hub is older than that of mlx-lm's
transformers; 0.5.3 is one that grouped rows of queries, keys and values. Files, settings and
folders are the packages' own, down to the model that torchtune and litgpt leave beside the adapter:
`foreign_adapters.py` makes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from other_python import named_by, run_jobs
from safetensors.torch import load_file, save_file
from support.adapters import distance
from support.lora import LINEAR
from support.merged import merged
from support.tiny import Tensors, Tiny, finite, in_pairs
from support.tiny_files import write_hf, write_meta

pytestmark = pytest.mark.foreign

SAME_WEIGHTS = 1e-6
"""Of the largest number of a tensor: the packages add up in fp32."""


def _model(**changes: Any) -> Tiny:
    return finite(Tiny(dtype=torch.float32, layers=3, **changes))


GROUPED, ALL_HEADS, ONE_GROUP = _model(), _model(kv_heads=8), _model(kv_heads=1)
TIED = _model(style="llama-3.2", tied=True)

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EMBEDDING, HEAD = "embed_tokens", "lm_head"
NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class Case:
    """What a tool is told, and the modules whose weights must change."""

    tool: str
    model: Tiny
    changed: tuple[str, ...]
    told: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    """The first layer that was trained."""

    @property
    def weights(self) -> set[str]:
        """Names of the tensors that must change."""
        return {
            name
            for name in self.model.truth
            if name.split(".")[-2] in self.changed
            and (".layers." not in name or int(name.split(".")[2]) >= self.first)
        }


def _torchtune(model: Tiny, *modules: str, dora: bool = False) -> Case:
    own = [n.replace("o_proj", "output_proj") for n in ATTENTION if n in modules]
    told = {"mlp": "up_proj" in modules, "head": HEAD in modules, "dora": dora}
    return Case("torchtune", model, modules, {"attention": own} | told)


_LITGPT = {
    "query": ("q_proj",),
    "key": ("k_proj",),
    "value": ("v_proj",),
    "projection": ("o_proj",),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "head": (HEAD,),
}


def _litgpt(model: Tiny, *trained: str, old: bool = False) -> Case:
    modules = tuple(m for name in trained for m in _LITGPT[name])
    return Case("old litgpt" if old else "litgpt", model, modules, {"trained": list(trained)})


def _mlx(
    model: Tiny,
    *modules: str,
    kind: str = "lora",
    last: int = -1,
    keys: tuple[str, ...] = (),
) -> Case:
    """`last` layers, all of them with -1; `keys` as in lora_parameters, none for its default."""
    told = {"kind": kind, "layers": last, "keys": list(keys) or None}
    return Case("mlx", model, modules, told, first=model.layers - last if last > 0 else 0)


_KEYS = ("self_attn.q_proj", "self_attn.k_proj")
_ENDS = ("model.embed_tokens", "lm_head")

CASES = {
    "torchtune": _torchtune(GROUPED, *LINEAR, HEAD),
    "torchtune-qv": _torchtune(GROUPED, "q_proj", "v_proj"),
    "torchtune-k": _torchtune(ONE_GROUP, "k_proj"),
    "torchtune-mha": _torchtune(ALL_HEADS, *ATTENTION),
    "torchtune-tied": _torchtune(TIED, *LINEAR),
    "torchtune-dora": _torchtune(GROUPED, *LINEAR, HEAD, dora=True),
    "torchtune-dora-qk": _torchtune(ALL_HEADS, "q_proj", "k_proj", dora=True),
    "torchtune-dora-tied": _torchtune(TIED, *LINEAR, dora=True),
    "litgpt-qkv": _litgpt(GROUPED, "query", "key", "value"),
    "litgpt-qv": _litgpt(GROUPED, "query", "value"),
    "litgpt-k": _litgpt(GROUPED, "key"),
    "litgpt-all": _litgpt(GROUPED, *_LITGPT),
    "litgpt-mha": _litgpt(ALL_HEADS, "query", "key", "value"),
    "litgpt-mqa": _litgpt(ONE_GROUP, "query", "key", "value"),
    "litgpt-rest": _litgpt(GROUPED, "projection", "mlp", "head"),
    "old-litgpt-qkv": _litgpt(GROUPED, "query", "key", "value", old=True),
    "old-litgpt-qv": _litgpt(GROUPED, "query", "value", old=True),
    "old-litgpt-k": _litgpt(GROUPED, "key", old=True),
    "old-litgpt-all": _litgpt(GROUPED, *_LITGPT, old=True),
    "old-litgpt-mha": _litgpt(ALL_HEADS, "query", "key", "value", old=True),
    "old-litgpt-mqa": _litgpt(ONE_GROUP, "query", "key", "value", old=True),
    "mlx": _mlx(GROUPED, *LINEAR),
    "mlx-last": _mlx(GROUPED, *LINEAR, last=2),
    "mlx-qk": _mlx(GROUPED, "q_proj", "k_proj", keys=_KEYS),
    "mlx-ends": _mlx(GROUPED, EMBEDDING, HEAD, keys=_ENDS),
    "mlx-tied": _mlx(TIED, EMBEDDING, *LINEAR[:1], keys=(*_KEYS[:1], *_ENDS[:1])),
    "mlx-dora": _mlx(GROUPED, *LINEAR, kind="dora"),
    "mlx-dora-ends": _mlx(GROUPED, EMBEDDING, HEAD, kind="dora", keys=_ENDS),
    "mlx-dora-tied": _mlx(TIED, EMBEDDING, "k_proj", kind="dora", keys=(*_KEYS[1:], *_ENDS[:1])),
    "mlx-full": _mlx(GROUPED, *LINEAR, *NORMS, kind="full", last=1),
}  # fmt: skip

LAYOUTS: dict[str, Callable[[Tiny, Path], Path]] = {
    "hf": write_hf,
    "meta-1": lambda model, folder: write_meta(model, folder, 1),
    "meta-2": lambda model, folder: write_meta(model, folder, 2),
}


@dataclass(frozen=True)
class Made:
    """What a package left: its adapter, and its merge of it."""

    case: Case
    adapter: Path
    merge: Tensors

    def merged_on(self, layout: str, home: Path, adapter: Path | None = None) -> Tensors:
        """What merge-lora makes of the adapter, or of another in its place."""
        base = LAYOUTS[layout](self.case.model, home / "base")
        return merged(base, adapter or self.adapter, home / "out")

    def missed(self, found: Tensors) -> set[str]:
        """Names of tensors that are not the package's."""
        return {n for n, t in self.merge.items()
                if distance({n: found[n]}, {n: t}) > SAME_WEIGHTS}  # fmt: skip


Maker = Callable[[str], Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """A case by its name; all cases of a package are made at once, in one process."""
    python, home = named_by("LLAMATOOLS_FOREIGN_PYTHON"), tmp_path_factory.mktemp("foreign")
    done: set[str] = set()

    def run(tool: str) -> None:
        more = {"tool": tool}
        if tool == "old litgpt":
            more = {"tool": "litgpt", "path": named_by("LLAMATOOLS_OLD_LITGPT")}
        done.add(tool)  # what fails once would fail for every case
        jobs = []
        for name, case in CASES.items():
            if case.tool == tool:
                base = write_hf(case.model, home / name / "base", version=5)
                jobs.append({"base": str(base), "out": str(home / name)} | more | case.told)
        run_jobs(python, "foreign_adapters.py", jobs, home)

    def get(name: str) -> Made:
        case = CASES[name]
        if case.tool not in done:
            run(case.tool)
        return Made(case, home / name / "adapter", load_file(home / name / "merged.safetensors"))

    return get


# --- what must come out ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_package_changed_what_was_trained(name: str, made: Maker) -> None:
    """Else the comparisons below would pass on a merge that does nothing."""
    truth, merge = CASES[name].model.truth, made(name).merge
    assert {n for n, t in truth.items() if n in merge and not torch.equal(t, merge[n])} == (
        CASES[name].weights
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_merged_as_the_package_does(name: str, layout: str, made: Maker, tmp_path: Path) -> None:
    one = made(name)
    found = one.merged_on(layout, tmp_path)
    assert distance(found, one.merge) <= SAME_WEIGHTS
    same = found.keys() - one.case.weights
    assert all(torch.equal(found[n], one.merge[n]) for n in same)


# --- what must show -------------------------------------------------------------------------------


def _copy(one: Made, home: Path, file: str, tensors: Tensors) -> Path:
    """The adapter with other tensors in its file."""
    copy = home / "copy"
    shutil.copytree(one.adapter, copy)
    if file.endswith(".safetensors"):
        save_file({n: t.contiguous() for n, t in tensors.items()}, copy / file)
    else:
        torch.save({"model": tensors} if file.endswith(".lora") else tensors, copy / file)
    return copy


def _of(one: Made, *modules: str) -> set[str]:
    """Names of all weights of these modules."""
    return {n for n in one.case.model.truth if n.split(".")[-2] in modules}


def _in_halves(t: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in transformers' order, from Meta's: `in_pairs` undone."""
    order = in_pairs(torch.arange(len(t))[:, None], heads)[:, 0]
    return t[order.argsort()]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("leaf", ["lora_b.weight", "magnitude"])
def test_torchtune_rows_that_are_not_turned(
    leaf: str, layout: str, made: Maker, tmp_path: Path
) -> None:
    """With the rows of queries and keys in transformers' order, their weights are others."""
    one = made("torchtune-dora")
    tensors = torch.load(one.adapter / "adapter_model.pt", weights_only=True)
    model = one.case.model
    heads = {f"attn.q_proj.{leaf}": model.heads, f"attn.k_proj.{leaf}": model.kv_heads}
    for name, t in tensors.items():
        for end, n in heads.items():
            if name.endswith(end):
                tensors[name] = _in_halves(t, n)
    copy = _copy(one, tmp_path, "adapter_model.pt", tensors)
    assert one.missed(one.merged_on(layout, tmp_path, copy)) == _of(one, "q_proj", "k_proj")


def test_torchtune_exports_the_same_factors(made: Maker, tmp_path: Path) -> None:
    """Its other file is in PEFT's form, whose lora_B it turns itself."""
    one = made("torchtune")
    export = one.adapter / "adapter_model.safetensors"
    assert one.missed(one.merged_on("hf", tmp_path, export)) == set()
    own = torch.load(one.adapter / "adapter_model.pt", weights_only=True)
    ours, theirs = (
        own["layers.0.attn.q_proj.lora_b.weight"],
        load_file(export)["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"],
    )
    assert torch.equal(_in_halves(ours, one.case.model.heads), theirs)
    assert not torch.equal(ours, theirs)


# Of a single group, the grouped matrix is the plain one.
@pytest.mark.parametrize(
    ("name", "differ"),
    [
        ("litgpt-qkv", True),
        ("litgpt-mha", True),
        ("litgpt-mqa", False),
        ("litgpt-qv", False),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_litgpt_grouped_rows_taken_for_plain_ones(
    name: str, differ: bool, old: bool, made: Maker, tmp_path: Path
) -> None:
    """The name of the fused matrix tells which it is: under the other's, the weights are others.

    But not where a part of it was not trained: then litgpt put rows to their places at all times.
    """
    one = made(f"old-{name}" if old else name)
    file = "lit_model.pth.lora"
    tensors = torch.load(one.adapter / file, weights_only=True)["model"]
    mine, other = (".attn.attn.", ".attn.qkv.") if old else (".attn.qkv.", ".attn.attn.")
    assert all(mine in n for n in tensors)
    copy = _copy(one, tmp_path, file, {n.replace(mine, other): t for n, t in tensors.items()})
    missed = one.missed(one.merged_on("hf", tmp_path, copy))
    assert missed == (_of(one, "q_proj", "k_proj", "v_proj") if differ else set())


@pytest.mark.parametrize("name", ["mlx", "mlx-dora"])
def test_mlx_rows_in_metas_order(name: str, made: Maker, tmp_path: Path) -> None:
    one = made(name)
    tensors = load_file(one.adapter / "adapters.safetensors")
    for own, t in tensors.items():
        if own.endswith("q_proj.lora_b"):
            tensors[own] = in_pairs(t.T, one.case.model.heads).T
    copy = _copy(one, tmp_path, "adapters.safetensors", tensors)
    assert one.missed(one.merged_on("hf", tmp_path, copy)) == _of(one, "q_proj")


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("torchtune", "adapter_config.json", '"lora_alpha": 7'),
        ("litgpt-qkv", "hyperparameters.yaml", "lora_alpha: 7"),
        ("mlx", "adapter_config.json", '"scale": 2.7'),
    ],
)
def test_another_scale(name: str, file: str, key: str, made: Maker, tmp_path: Path) -> None:
    """The settings that the package wrote are the ones that are read."""
    one, copy = made(name), tmp_path / "copy"
    shutil.copytree(one.adapter, copy)
    text = (copy / file).read_text()
    assert key in text
    (copy / file).write_text(text.replace(key, key[:-1] + "9"))
    assert one.missed(one.merged_on("hf", tmp_path, copy)) == one.case.weights
