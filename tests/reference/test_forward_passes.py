"""How a pass is cut into prompts, tiles, rows and reads decides what is shown when, and no bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forward_kit import CPU, Seen, error, plain, prompt, seen, shown
from goldens import BY_NAME, FILES, TOLERANCE
from support.calls import call
from support.tiny import Tiny, finite
from support.tiny_files import write_hf, write_meta

import llamatools
from llamatools.adapters.opening import open_adapter
from llamatools.errors import BadInput, IOFailed
from llamatools.merging.values import merge_values
from llamatools.reference import forward, packing, streaming
from llamatools.reference.observe import Point, Prompt
from llamatools.reference.reading import Reader
from llamatools.reference.run import Runner, run
from llamatools.reference.units import Unit

GOLDEN = BY_NAME["llama3-mqa"]
HOME = GOLDEN.folder(2)
PROMPTS = [prompt(GOLDEN), prompt(GOLDEN, slice(0, 7)), plain(0), plain(159, 0, 159)]


@pytest.fixture(scope="module")
def usual() -> Seen:
    return seen(HOME, PROMPTS)


def test_every_prompt_is_shown_at_every_point_in_order(usual: Seen) -> None:
    layers = [Point(kind, i) for i in range(3) for kind in ("attention", "mlp")]  # type: ignore[arg-type]
    points = [Point("embedding"), *layers, Point("norm")]
    assert usual.points == [(p, i) for p in points for i in range(len(PROMPTS))]
    assert usual.rows == [(i, range(len(p.tokens))) for i, p in enumerate(PROMPTS)]
    sizes = [len(p.tokens) for p in PROMPTS] * len(points)
    assert [x.shape for x in usual.states] == [(n, 48) for n in sizes]
    assert [x.shape for x in usual.parts] == [(n, 160) for n in sizes[:4]]


def test_first_and_last_points_are_the_embedding_and_the_normed_states(usual: Seen) -> None:
    with llamatools.open_checkpoint(HOME) as opened:
        read = {
            n: llamatools.read_tensor(opened.values[n]) for n in ("embedding.weight", "head.weight")
        }
    table, head = (torch.from_numpy(x).view(torch.bfloat16).float() for x in read.values())
    assert torch.equal(usual.states[3], table[[159, 0, 159]])
    assert torch.equal(usual.parts[3], usual.states[-1] @ head.T)


def test_a_prompt_does_not_depend_on_its_company(usual: Seen) -> None:
    for i, p in enumerate(PROMPTS):
        alone = seen(HOME, [p])
        assert torch.equal(alone.of(0), usual.of(i))
        mine = [x for (_, j), x in zip(usual.points, usual.states, strict=True) if i == j]
        assert all(torch.equal(a, b) for a, b in zip(alone.states, mine, strict=True))


def test_prompts_that_go_one_by_one_give_the_same_bits(
    usual: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "TOKENS", 1)
    assert packing.together(PROMPTS) == [[0], [1], [2], [3]]
    assert usual.same(seen(HOME, PROMPTS))


def test_rows_of_logits_come_in_pieces_that_fit(
    usual: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = 160 * 4
    monkeypatch.setattr(packing, "SHOWN", 5 * row)
    monkeypatch.setattr(packing, "LOGITS_ON_CPU", 10 * row)
    found = seen(HOME, PROMPTS)
    assert max(len(r) for _, r in found.rows) == 5
    assert [r for p, r in found.rows if p == 1] == [range(5), range(5, 7)]
    for i in range(len(PROMPTS)):
        assert error(found.of(i), usual.of(i)) <= TOLERANCE


def test_the_head_is_read_once_for_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    row, n = 160 * 4, sum(len(p.tokens) for p in PROMPTS)
    bytes_of_head = 160 * 48 * 2
    once = shown(HOME, PROMPTS)[1].read
    monkeypatch.setattr(packing, "SHOWN", 5 * row)
    monkeypatch.setattr(packing, "LOGITS_ON_CPU", 10 * row)
    passes = packing.head_passes(PROMPTS, row, on_cpu=True)
    assert all(sum(len(r.rows) for r in them) <= 10 for them in passes)
    assert sum(len(r.rows) for them in passes for r in them) == n
    assert shown(HOME, PROMPTS)[1].read == once + (len(passes) - 1) * bytes_of_head
    resident = replace(CPU, resident=True)
    assert shown(HOME, PROMPTS, resident)[1].read == once


def test_attention_in_tiles_is_the_same_attention(
    usual: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "SCORES", 3 * len(PROMPTS[0].tokens) * 8)
    assert forward.tile_rows(len(PROMPTS[0].tokens), 8) == 3
    found = seen(HOME, PROMPTS)
    for i in range(len(PROMPTS)):
        assert error(found.of(i), usual.of(i)) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resident_weights_give_the_same_bits(dtype: str) -> None:
    settings = replace(CPU, dtype=dtype)
    assert seen(HOME, PROMPTS, settings).same(seen(HOME, PROMPTS, replace(settings, resident=True)))


def test_resident_weights_are_read_once(usual: Seen) -> None:
    with (
        llamatools.open_checkpoint(HOME) as opened,
        Runner(opened, replace(CPU, resident=True)) as runner,
    ):
        reports = []
        for _ in range(2):
            observer = Seen()
            reports.append(runner.forward(PROMPTS, observer))
            assert observer.same(usual)
        assert reports[1].read < reports[0].read / 5  # rows of the embedding, and the norm


@pytest.mark.parametrize("style", ["llama-2", "llama-3", "llama-3.2"])
@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("room", [1 << 20, 3 * 40 * 4], ids=["one pass", "passes of the head"])
@pytest.mark.parametrize("resident", [False, True])
def test_progress_ends_at_all(
    style: str, files: int, room: int, resident: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is announced is what is read: no less, and no more than 100% is ever shown."""
    monkeypatch.setattr(packing, "SHOWN", room)
    monkeypatch.setattr(packing, "LOGITS_ON_CPU", room)
    model = finite(Tiny(style=style, tied=style == "llama-3.2"))
    asked = [plain(7, 0, 7, 31), plain(39, 5)]
    announced: list[int] = []
    done: list[int] = []

    def begin(total: int) -> Callable[[int], None]:
        announced.append(total)
        done.append(0)

        def more(n: int) -> None:
            done[-1] += n

        return more

    folder = write_meta(model, tmp_path / "m", files)
    settings = replace(CPU, resident=resident, jobs=1)
    with llamatools.open_checkpoint(folder) as opened, Runner(opened, settings, begin) as runner:
        read = [runner.forward(asked, Seen()).read for _ in range(2)]
    assert announced == done == read
    assert (read[1] < read[0]) is resident


@pytest.mark.parametrize("resident", [False, True])
def test_the_way_to_another_device_gives_the_same_bits(
    resident: bool, usual: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes by two buffers and copies on a GPU, with the processor in the place of one."""
    monkeypatch.setattr(streaming, "InPlace", streaming.Staged)
    assert usual.same(seen(HOME, PROMPTS, replace(CPU, resident=resident)))


@pytest.mark.parametrize("jobs", [1, 3])
def test_readers_decide_nothing(jobs: int, usual: Seen) -> None:
    assert usual.same(seen(HOME, PROMPTS, replace(CPU, jobs=jobs)))


@pytest.mark.parametrize("style", ["llama-2", "llama-3.1"])
def test_models_of_every_kind_of_file(style: str, tmp_path: Path) -> None:
    """Uneven shards, biases, norms of another type, an odd vocabulary."""
    model = finite(
        Tiny(style=style, heads=8, kv_heads=2, head_dim=6, layers=3, ffn=36, vocab=41,
             norm_dtype=torch.float32, attention_bias=True, mlp_bias=True)
    )  # fmt: skip
    asked = [Prompt("gapped", tuple(range(0, 40, 2)), (*range(10), *range(5000, 5010))), plain(40)]
    hf = seen(write_hf(model, tmp_path / "hf"), asked)
    for files in FILES:
        assert hf.same(seen(write_meta(model, tmp_path / f"mp{files}", files), asked))


def test_an_adapter_that_is_merged_on_the_way(tmp_path: Path) -> None:
    """Tensors that are merged as they are read give the bits of those that were written so."""
    adapter = HOME.parents[1] / "llama3-gqa-lora"
    base = BY_NAME["llama3-gqa"].folder(2)
    assert call("merge-lora", base, adapter, tmp_path / "out", "--to", "hf").code == 0
    with llamatools.open_checkpoint(base) as opened:
        merged = merge_values(opened, [open_adapter(str(adapter))], None).checkpoint
        found, plain_base = seen(merged, [plain(1, 2, 3)]), seen(opened, [plain(1, 2, 3)])
    assert found.same(seen(tmp_path / "out", [plain(1, 2, 3)]))
    assert not found.same(plain_base)


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Prompt("a", (), ()), "no tokens"),
        (Prompt("b", (1, 2), (0,)), "2 tokens and 1 positions"),
        (Prompt("c", (1, 160), (0, 1)), "token 160"),
        (Prompt("d", (-1,), (0,)), "token -1"),
        (Prompt("e", (1, 2), (3, 3)), "do not grow"),
        (Prompt("f", (1, 2), (-1, 3)), "not within"),
        (Prompt("g", (1,), (1 << 24,)), "not within"),
    ],
)
def test_prompts_that_a_model_cannot_be_given_are_refused(asked: Prompt, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        seen(HOME, [PROMPTS[0], asked])


def test_all_prompts_that_are_wrong_are_named() -> None:
    with pytest.raises(BadInput) as caught:
        seen(HOME, [Prompt("one", (999,), (0,)), PROMPTS[0], Prompt("two", (), ())])
    assert len(caught.value.problems) == 2
    with pytest.raises(BadInput, match="no prompts"):
        seen(HOME, [])


def test_a_damaged_archive_is_found(tmp_path: Path) -> None:
    """All of a layer is read, so the archive's own CRC tells."""
    source = tmp_path / "damaged"
    source.mkdir()
    for file in HOME.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    with llamatools.open_checkpoint(source) as opened:
        stored = next(t for t in opened.stored if t.name == "layers.1.feed_forward.w2.weight")
        at, path = stored.offset + 8, stored.file.path
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="CRC-32"):
        seen(source, PROMPTS)


@pytest.mark.parametrize("failing", ["layers.0", "layers.2", "head 140"])
def test_a_failing_read_ends_the_pass(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Reader.fill

    def broken(self: Reader, unit: Unit, memory: object) -> None:
        if unit.name == failing:
            raise IOFailed("the disk is gone")
        fill(self, unit, memory)  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "fill", broken)
    with pytest.raises(IOFailed, match="disk is gone"):
        seen(HOME, PROMPTS)


@pytest.mark.parametrize("way", [streaming.InPlace, streaming.Staged])
@pytest.mark.parametrize("at", ["embedding", "layer 1 attention", "norm", "logits"])
def test_a_failing_observer_ends_the_pass(
    at: str, way: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no thread behind that waits to be asked for more."""

    class Fails(Seen):
        def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
            if str(point) == at:
                raise BadInput("enough")

        def logits(self, prompt: int, rows: range, x: torch.Tensor) -> None:
            raise BadInput("enough")

    monkeypatch.setattr(streaming, "InPlace", way)
    before = threading.active_count()
    with llamatools.open_checkpoint(HOME) as opened, pytest.raises(BadInput, match="enough"):
        run(opened, PROMPTS, Fails(), CPU)
    assert threading.active_count() == before
