"""Parts of a plan that share no step, and what tells one plan from another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support.calls import tree
from support.tiny import Tiny
from support.tiny_files import write_hf, write_meta

from llamatools import Options, open_checkpoint
from llamatools.containers.base import InputFile
from llamatools.engine.execute import execute
from llamatools.engine.resources import resources
from llamatools.engine.split import identity, parts
from llamatools.engine.traits import traits
from llamatools.plan.build import plan_conversion
from llamatools.plan.plan import Plan

MODEL = Tiny(heads=8, kv_heads=4, head_dim=6, ffn=64, vocab=40)


def _files(plan: Plan) -> list[list[str]]:
    return [[f.name for f in p.files] for p in parts(plan)]


def test_hf_shards_are_parts_of_their_own(hf: Path, tmp_path: Path) -> None:
    with open_checkpoint(hf) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=9000))
        assert _files(plan) == [[f.name] for f in plan.files] and len(plan.files) > 3
        for name in ("parts", "whole"):
            (tmp_path / name).mkdir()
        for part in parts(plan):
            execute(part, resources(plan), tmp_path / "parts")
        execute(plan, resources(plan), tmp_path / "whole")
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_meta_files_are_one_part(hf: Path) -> None:
    with open_checkpoint(hf) as opened:
        plan = plan_conversion(opened, Options("meta", shards=2))
        assert parts(plan) == [plan]


def test_files_that_share_a_step_belong_together(hf: Path) -> None:
    """However long the chain between them; the order is that of the first file."""
    with open_checkpoint(hf) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=9000))
        n = len(plan.files)
        links = {0: 2, 2: n - 1}
        steps = [
            replace(s, targets=(*s.targets, replace(s.targets[0], file=links[s.targets[0].file])))
            if s.targets[0].file in links
            else s
            for s in plan.steps
        ]
        joined = _files(replace(plan, steps=tuple(steps)))
    names = [f.name for f in plan.files]
    assert joined == [
        [names[0], names[2], names[n - 1]],
        *([name] for i, name in enumerate(names) if i not in (0, 2, n - 1)),
    ]


def test_steps_without_a_file_keep_a_plan_whole(hf: Path) -> None:
    with open_checkpoint(hf) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=9000))
        steps = (*plan.steps, replace(plan.steps[0], targets=()))
        plan = replace(plan, steps=steps)
        assert parts(plan) == [plan]


def test_what_is_read_for_its_digest_belongs_to_the_first(hf: Path) -> None:
    with open_checkpoint(hf) as opened:
        plan = plan_conversion(opened, Options("hf", max_shard_size=9000))
        plan = replace(plan, unused=plan.steps[:1])
        assert [p.unused for p in parts(plan)] == [plan.unused, *[()] * (len(parts(plan)) - 1)]


# --- identity -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    one: object
    other: object


SOME = [
    None, True, 1, 1.0, 1.0000001, "1", b"1", (1,), (1, 1), ((1,), 1), {"1": 1}, frozenset({1}),
    np.arange(3), np.arange(3.0), np.arange(3)[::-1], np.int64(1), np.float32(1), _Pair(1, 2),
    _Pair(2, 1), _Pair(1, (2, None)), "a\nb", ("a", "b"),
]  # fmt: skip


def test_traits_tell_values_apart() -> None:
    assert len({tuple(traits(v)) for v in SOME}) == len(SOME)
    assert [list(traits(v)) for v in SOME] == [list(traits(v)) for v in SOME]
    with pytest.raises(TypeError):
        list(traits(object()))


def test_files_are_known_by_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text(folder)
    a, b = (InputFile(tmp_path / folder / "x") for folder in ("a", "b"))
    assert list(traits(a)) == list(traits(b))


def test_a_step_that_differs_in_one_number(tmp_path: Path) -> None:
    """Even one that its description for people leaves out."""
    folder = write_meta(MODEL, tmp_path / "meta", 2)
    write_hf(MODEL, tmp_path / "hf")
    with open_checkpoint(folder) as opened:
        plan = plan_conversion(opened, Options("hf"))
        step = next(s for s in plan.steps if len(list(s.value.reads())) == 2)
        tensor = next(iter(step.value.reads()))
        moved = replace(tensor, offset=tensor.offset + 2)
        other = replace(plan.steps[0], value=replace(plan.steps[0].value))
        assert identity(replace(plan, steps=(other, *plan.steps[1:]))) == identity(plan)
        assert list(traits(moved)) != list(traits(tensor))
