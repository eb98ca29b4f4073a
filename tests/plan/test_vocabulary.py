"""New rows: copies bit for bit, means as torch takes them, whatever the blocks and workers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import some
from support.tiny import BITS, Tiny
from support.tiny_files import read_hf, write_hf, write_meta

import llamatools
from llamatools.canonical import EMBEDDING, HEAD
from llamatools.containers.base import InputFile, StoredTensor
from llamatools.conversion import prepare, run
from llamatools.dtypes import BY_TORCH, F32
from llamatools.engine.execute import execute
from llamatools.engine.outcome import Outcome
from llamatools.engine.resources import Resources
from llamatools.errors import BadInput
from llamatools.expr.bits import Bits, bits_dtype
from llamatools.expr.context import Once, PlainContext
from llamatools.expr.nodes import Agree, Concat, Context, Expr, Read, ToHalves
from llamatools.plan.build import Options, plan_fingerprint
from llamatools.plan.passes import vocabulary
from llamatools.plan.passes.cast import Cast
from llamatools.plan.passes.vocabulary import NewRows, RowTable, row_table
from llamatools.plan.plan import Plan, Step

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
Sources = list[list[int]]


def _random(
    rows: int, columns: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> torch.Tensor:
    """Any bits: infinities, subnormals and NaN of every payload are among them."""
    size = dtype.itemsize
    data = np.random.default_rng(seed).integers(0, 256, (rows, columns * size), np.uint8)
    return torch.from_numpy(data).view(dtype)


def _normal(
    rows: int, columns: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.02 * torch.randn(rows, columns, generator=generator)).to(dtype)


def _bits(t: torch.Tensor) -> Bits:
    return t.contiguous().view(BITS[t.dtype]).numpy().view(f"u{t.dtype.itemsize}")


def _read(path: Path, t: torch.Tensor) -> Read:
    path.write_bytes(_bits(t).tobytes())
    dtype = BY_TORCH[str(t.dtype)[6:]]
    strides = t.contiguous().stride()
    return Read(StoredTensor(path.name, dtype, tuple(t.shape), InputFile(path), 0, strides))


def _filled(value: Expr, height: int | None = None) -> Bits:
    """All rows, in blocks, each with exactly the scratch memory the expression asks for."""
    out = np.full((value.rows, value.columns), 0xAA, bits_dtype(value.dtype))
    for start in range(0, value.rows, height or value.rows):
        block = out[start : start + (height or value.rows)]
        value.fill(block, start, PlainContext(value.scratch_bytes(len(block))))
    return out


def _naive(old: torch.Tensor, sources: Sequence[Sequence[int]]) -> torch.Tensor:
    """Row by row, in so many words. Without the mean of all, which has tests of its own."""
    wide = torch.float64 if old.dtype == torch.float32 else torch.float32
    rows = []
    for s in sources:
        if len(s) == 1:
            rows.append(old[s[0]])
        else:
            mean = old[list(s)].to(wide).mean(0)
            rows.append(mean.to(old.dtype).masked_fill(mean.isnan(), float("nan")))
    return torch.stack(rows)


def _mixed(old: int, new: int, seed: int = 0) -> Sources:
    """Runs of copies, single copies, means, and rows of nothing, in any order."""
    rng = np.random.default_rng(seed)
    out: Sources = []
    while len(out) < new:
        kind = rng.integers(4)
        if kind == 0:
            first = int(rng.integers(old))
            out += [[i] for i in range(first, min(old, first + int(rng.integers(1, 9))))]
        else:
            many = (1, int(rng.integers(2, 31)), 0)[kind - 1]
            out.append(rng.integers(0, old, many).tolist())
    return out[:new]


# Copies


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(picks=st.lists(st.integers(0, 29), min_size=1, max_size=60), height=st.integers(1, 60))
@some
def test_copies_keep_every_bit(dtype: torch.dtype, picks: list[int], height: int) -> None:
    old = _random(30, 7, dtype)
    assert old.isnan().any()
    with tempfile.TemporaryDirectory() as folder:
        value = NewRows(_read(Path(folder) / "t", old), "e", row_table([i] for i in picks))
        assert np.array_equal(_filled(value, height), _bits(old)[picks])


@pytest.mark.parametrize("height", [1, 4, 17, 50])
def test_an_extension_begins_with_the_old_matrix(height: int, tmp_path: Path) -> None:
    old = _random(40, 16)
    table = row_table([[i] for i in range(40)] + [[3, 9]] * 10)
    got = _filled(NewRows(_read(tmp_path / "t", old), "e", table), height)
    assert np.array_equal(got[:40], _bits(old))
    assert np.array_equal(got[40:], _bits(_naive(old, [[3, 9]] * 10)))


@dataclass(frozen=True)
class _Watched(Read):
    """A read that says what is asked of it."""

    saw: Callable[[int, int], None] = lambda start, rows: None

    def fill(self, out: Bits, start: int, ctx: Context) -> None:
        self.saw(start, len(out))
        super().fill(out, start, ctx)


def test_consecutive_rows_are_read_at_once(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []
    watched = _Watched(
        _read(tmp_path / "t", _random(30, 4)).tensor,
        lambda start, rows: asked.append((start, rows)),
    )
    picks = [*range(30), 7, 8, 9, 3, 0, 0, 1, 29]
    _filled(NewRows(watched, "e", row_table([i] for i in picks)))
    assert asked == [(0, 30), (7, 3), (3, 1), (0, 1), (0, 2), (29, 1)]


def test_a_row_read_one_off_would_be_seen(tmp_path: Path) -> None:
    """What the tests above compare does differ between neighbouring rows."""
    old = _random(30, 4)
    x = _read(tmp_path / "t", old)
    for sources in ([[4]], [[4, 9]], [[4, 9, 11]]):
        other = [[i + 1 for i in sources[0]]]
        right, wrong = (_filled(NewRows(x, "e", row_table(s))) for s in (sources, other))
        assert np.array_equal(right, _bits(_naive(old, sources)))
        assert not np.array_equal(wrong, right)


_COPY_ONLY = """
import sys
from pathlib import Path
import numpy as np
from llamatools.containers.base import InputFile, StoredTensor
from llamatools.dtypes import BF16
from llamatools.expr.context import PlainContext
from llamatools.expr.nodes import Read
from llamatools.plan.passes.vocabulary import NewRows, row_table

x = Read(StoredTensor("t", BF16, (4, 2), InputFile(Path(sys.argv[1])), 0, (2, 1)))
for sources in ([[3], [0], [1]], [[3], [0, 1]]):
    value = NewRows(x, "e", row_table(sources))
    value.fill(np.empty((value.rows, 2), np.uint16), 0, PlainContext(value.scratch_bytes(3)))
    print("torch" in sys.modules)
"""


def test_copying_needs_no_torch(tmp_path: Path) -> None:
    _read(tmp_path / "t", _random(4, 2))
    command = [sys.executable, "-c", _COPY_ONLY, str(tmp_path / "t")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# Means of some rows


@pytest.mark.parametrize("make", [_normal, _random])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("columns", [32, 64, 288])
def test_means_are_torchs(
    columns: int,
    dtype: torch.dtype,
    make: Callable[[int, int, torch.dtype], torch.Tensor],
    tmp_path: Path,
) -> None:
    """Every number of sources up to 64, and where torch starts another level of sums."""
    old = make(700, columns, dtype)
    rng = np.random.default_rng(1)
    numbers = [*range(1, 65), 255, 256, 257, 300, 4096, 4099, 5000]
    sources = [rng.integers(0, 700, n).tolist() for n in numbers]
    value = NewRows(_read(tmp_path / "t", old), "e", row_table(sources))
    assert np.array_equal(_filled(value), _bits(_naive(old, sources)))


def test_sums_of_few_rows_are_torchs_at_any_width(tmp_path: Path) -> None:
    old = _normal(50, 37)
    rng = np.random.default_rng(2)
    sources = [rng.integers(0, 50, n).tolist() for n in (2, 3, 4)]
    value = NewRows(_read(tmp_path / "t", old), "e", row_table(sources))
    assert np.array_equal(_filled(value), _bits(_naive(old, sources)))


def test_the_order_of_sums_does_not_depend_on_the_column(tmp_path: Path) -> None:
    """torch's own does, at the end of a row that is no multiple of its vectors."""
    whole = _normal(40, 67)
    table = row_table([list(range(40)), list(range(5, 29))])
    wide = _filled(NewRows(_read(tmp_path / "wide", whole), "e", table))
    for column in (0, 31, 63, 64, 65, 66):
        narrow = _read(tmp_path / f"{column}", whole[:, column : column + 1])
        assert np.array_equal(_filled(NewRows(narrow, "e", table))[:, 0], wide[:, column])


def test_fp32_rows_are_averaged_in_fp64(tmp_path: Path) -> None:
    """1 + 2**-24 - 1 is nothing in fp32."""
    old = torch.tensor([[1.0] * 16, [2.0**-24] * 16, [-1.0] * 16])
    value = NewRows(_read(tmp_path / "t", old), "e", row_table([[0, 1, 2]]))
    assert _filled(value).view(np.float32).tolist() == [[float(np.float32(2.0**-24 / 3))] * 16]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_is_always_the_same_one(dtype: torch.dtype, tmp_path: Path) -> None:
    inf, nan = float("inf"), float("nan")
    old = torch.tensor([[nan, inf, -inf, 1], [1, -inf, -inf, inf]], dtype=dtype)
    _bits(old)[0, 0] |= 5  # a payload
    _bits(old)[0, 0] |= 1 << (8 * dtype.itemsize - 1)  # and a sign
    value = NewRows(_read(tmp_path / "t", old), "e", row_table([[0, 1], [], [0]]))
    got = _filled(value)
    plain = _bits(torch.tensor([nan, nan, -inf, inf], dtype=dtype))
    assert got[0].tolist() == plain.tolist()
    assert got[1].tolist() == plain.tolist()
    assert got[2].tolist() == _bits(old)[0].tolist()


# The mean of all rows


def _nearest(value: Fraction, dtype: torch.dtype) -> torch.Tensor:
    """The element of a type that is nearest to a value, by trying all near it; ties to even."""
    guess = torch.tensor(float(value), dtype=dtype)
    words = (_bits(guess.reshape(1)).astype(np.int64) + np.arange(-2, 3)).astype(
        f"u{dtype.itemsize}"
    )
    near = torch.from_numpy(words.view(f"i{dtype.itemsize}")).view(dtype)
    distance = [
        (abs(Fraction(float(n)) - value), int(w) & 1) for n, w in zip(near, words, strict=True)
    ]
    return near[distance.index(min(distance))]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_mean_of_all_is_the_nearest_to_the_exact_one(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    old = _normal(333, 24, dtype)
    value = NewRows(_read(tmp_path / "t", old), "e", row_table([[], [4], []]))
    exact = [sum((Fraction(float(v)) for v in column), Fraction(0)) / 333 for column in old.T]
    wanted = _bits(torch.stack([_nearest(f, dtype) for f in exact]))
    got = _filled(value)
    assert np.array_equal(got[0], wanted)
    assert np.array_equal(got[1], _bits(old)[4])
    assert np.array_equal(got[2], wanted)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_mean_of_all_is_torchs_in_fp64(dtype: torch.dtype, tmp_path: Path) -> None:
    old = _normal(5000, 64, dtype, seed=3)
    got = _filled(NewRows(_read(tmp_path / "t", old), "e", row_table([[]])))
    mean = old.to(torch.float64).mean(0)
    assert torch.equal(
        torch.from_numpy(got[0].view(f"i{dtype.itemsize}")).view(dtype), mean.to(dtype)
    )


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("dtype", "last", "little"),
    [(torch.bfloat16, 2.0**-7, 2.0**-38), (torch.float16, 2.0**-10, 2.0**-24)],
    ids=str,
)
def test_the_mean_is_rounded_once(
    dtype: torch.dtype, last: float, little: float, sign: int, tmp_path: Path
) -> None:
    """A little off the middle between two elements, which by way of fp32 is the middle itself."""
    old = sign * torch.tensor(
        [[4, 4, 4, 4], [2 * last, 2 * last, 6 * last, 6 * last], [little, 0, 0, -little], [0] * 4],
        dtype=dtype,
    )
    got = _filled(NewRows(_read(tmp_path / "t", old), "e", row_table([[]])))
    wanted = sign * torch.tensor([1 + last, 1, 1 + 2 * last, 1 + last], dtype=dtype)
    assert np.array_equal(got[0], _bits(wanted))
    twice = old.to(torch.float64).mean(0).to(torch.float32).to(dtype)
    assert (_bits(twice) != got[0]).tolist() == [True, False, False, True]


def test_the_mean_does_not_depend_on_the_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = NewRows(_read(tmp_path / "t", _normal(100, 20)), "e", row_table([[]]))
    wanted = _filled(value)
    for chunk in (1, 40, 41, 333, 3999, 4000):
        monkeypatch.setattr(vocabulary, "_CHUNK_BYTES", chunk)
        assert np.array_equal(_filled(value), wanted)


# What it is made of


def _shards(folder: Path, old: torch.Tensor, axis: int) -> Expr:
    parts = old.tensor_split([old.shape[axis] // 3, old.shape[axis] // 2], axis)
    return Concat(axis, tuple(_read(folder / f"{i}", p) for i, p in enumerate(parts)))


@pytest.mark.parametrize("height", [1, 7, 200])
@pytest.mark.parametrize("axis", [0, 1])
def test_shards_give_what_the_whole_gives(axis: int, height: int, tmp_path: Path) -> None:
    old = _normal(60, 48)
    table = row_table(_mixed(60, 200))
    whole = _filled(NewRows(_read(tmp_path / "t", old), "e", table))
    copies = (_shards(tmp_path, old, axis), _read(tmp_path / "t", old))
    for x in (copies[0], Agree("e", copies)):
        assert np.array_equal(_filled(NewRows(x, "e", table), height), whole)


def test_a_cast_of_new_rows(tmp_path: Path) -> None:
    old = _normal(60, 16)
    sources = [s or [5] for s in _mixed(60, 100)]
    value = NewRows(_read(tmp_path / "t", old), "e", row_table(sources))
    got = _filled(Cast(value, "e", F32), 9)
    assert np.array_equal(got, _bits(_naive(old, sources).to(torch.float32)))


@pytest.mark.parametrize("height", [1, 3, 64])
@pytest.mark.parametrize(
    "sources",
    [[[i] for i in range(40)], [[1, 2]], [[]], [[1], [0, 5], []]],
    ids=["copied", "averaged", "mean", "all"],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_scratch_bytes_are_enough_and_not_generous(
    axis: int, sources: Sources, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 32 KB: what the arena has for alignment would not hide a single one forgotten."""
    monkeypatch.setattr(vocabulary, "_CHUNK_BYTES", 1 << 18)
    columns = 16384
    x = _shards(tmp_path, _normal(40, columns), axis)
    value = NewRows(x, "e", row_table(sources * 64))
    monkeypatch.setattr(vocabulary, "_TEMPORARIES", 0)  # which are not the arena's
    _filled(value, height)
    assert value.scratch_bytes(height) <= 2 * max(height * value.row_bytes, 1 << 18)


def test_reads_are_those_of_the_old_matrix(tmp_path: Path) -> None:
    x = _shards(tmp_path, _random(10, 4), 0)
    value = NewRows(x, "e", row_table([[1], [1, 2], [], []]))
    assert list(value.reads()) == list(x.reads())
    assert value.shape == (4, 4)
    assert value.granule == 1
    assert value.describe() == "rows[4: 1 copied, 1 averaged, 2 mean](rows(0:0, 1:1, 2:2))"


# Tables


def test_tables_compare_by_what_they_say() -> None:
    sources = _mixed(50, 300)
    table = row_table(sources)
    assert [table.sources(i).tolist() for i in range(len(table))] == sources
    assert table == row_table(tuple(map(tuple, sources)))
    assert hash(table) == hash(row_table(iter(sources)))
    assert len({table, row_table(sources), row_table(sources[:-1]), row_table([[], [1]])}) == 3
    assert row_table([[], [1]]) != row_table([[1], []])
    assert table != sources


def test_tables_do_not_change() -> None:
    starts, rows = np.array([0, 1, 2]), np.array([4, 5])
    table = RowTable(starts, rows)
    rows[0] = starts[1] = 9
    assert table == row_table([[4], [5]])
    for held in (table.starts, table.rows, table.sources(0)):
        with pytest.raises(ValueError, match="read-only"):
            held[0] = 1


@given(
    sources=st.lists(st.lists(st.integers(0, 5), max_size=2), max_size=30),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
@some
def test_runs_partition_any_block(sources: Sources, cut: tuple[int, int]) -> None:
    start, stop = sorted(min(c, len(sources)) for c in cut)
    said = []
    for first, past, old in row_table(sources).runs(start, stop):
        assert old >= 0 or past == first + 1
        said += [(i, old + i - first if old >= 0 else -1) for i in range(first, past)]
    assert said == [(i, sources[i][0] if len(sources[i]) == 1 else -1) for i in range(start, stop)]


@pytest.mark.parametrize(
    ("starts", "rows"), [([], []), ([1], [0]), ([0, 2], [0]), ([0, 2, 1, 3], [0, 0, 0])]
)
def test_starts_that_do_not_fit(starts: list[int], rows: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        RowTable(np.array(starts, np.int64), np.array(rows, np.int64))


def test_rows_that_do_not_exist(tmp_path: Path) -> None:
    x = _read(tmp_path / "t", _random(10, 4))
    NewRows(x, "e", row_table([[], [9], [0, 9]]))
    with pytest.raises(ValueError, match="e: row 2 comes from row 10, but there are 10"):
        NewRows(x, "e", row_table([[], [9], [0, 10, 1]]))
    with pytest.raises(ValueError, match="old row -1"):
        row_table([[0], [-1]])


def test_what_has_no_rows_to_choose(tmp_path: Path) -> None:
    x = _read(tmp_path / "t", _random(8, 4))
    with pytest.raises(ValueError, match="belong together"):
        NewRows(ToHalves(x, 2), "e", row_table([[1]]))
    with pytest.raises(ValueError, match="no mean of no rows"):
        NewRows(_read(tmp_path / "none", _random(1, 4)[:0]), "e", row_table([[]]))
    whole = Read(replace(x.tensor, dtype=BY_TORCH["int16"]))
    assert np.array_equal(_filled(NewRows(whole, "e", row_table([[7]]))), _filled(x)[7:])
    with pytest.raises(ValueError, match="no mean is taken of I16"):
        NewRows(whole, "e", row_table([[7], []]))


# What is computed once


def test_results_are_kept_for_the_object_asked_for() -> None:
    """Not for what equals it: two tensors of two files may."""
    results, asked = Once(), []

    def make() -> int:
        asked.append(None)
        return len(asked)

    first, second = [1], [1]
    assert first == second
    assert [results.get(k, make) for k in (first, second, first, second)] == [1, 2, 1, 2]
    # A key that nobody else holds is not followed by another at its address.
    assert len({results.get(object(), make) for _ in range(100)}) == 100


def test_two_keys_are_computed_at_the_same_time() -> None:
    results, barrier = Once(), threading.Barrier(2)
    threads = [
        threading.Thread(target=results.get, args=(key, lambda: barrier.wait(10)))
        for key in (object(), object())
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert not barrier.broken


def test_a_failure_is_everyones() -> None:
    results, raised = Once(), []

    def fail() -> int:
        raise ZeroDivisionError

    def ask() -> None:
        try:
            results.get(results, fail)
        except ZeroDivisionError as e:
            raised.append(e)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert len(raised) == 3


# In a run


def _execute(source: Path, make: Callable[[Expr], Expr], jobs: int, block: int) -> Outcome:
    """A fingerprint of a model whose embedding, the first tensor, is made something else."""
    with llamatools.open_checkpoint(source) as opened:
        plan = plan_fingerprint(opened)
        steps = [Step(s.name, make(s.value)) if s.name == EMBEDDING else s for s in plan.steps]
        changed = Plan(plan.spec, tuple(steps))
        return execute(changed, Resources(jobs, block, changed.peak(block)))


@pytest.mark.parametrize("layout", ["hf", "rows", "columns"])
def test_digests_do_not_depend_on_blocks_or_workers(layout: str, tmp_path: Path) -> None:
    model = Tiny(style="llama-2" if layout == "columns" else "llama-3", vocab=80)
    table = row_table(_mixed(80, 300))
    if layout == "hf":
        source = write_hf(model, tmp_path / "in")
    else:
        source = write_meta(model, tmp_path / "in", 2)
    seen = {
        _execute(source, lambda x: NewRows(x, "e", table), jobs, block).tensors[EMBEDDING]
        for jobs, block in ((1, 1 << 20), (1, 1), (2, 100), (4, 333), (4, 1), (3, 5000))
    }
    assert len(seen) == 1


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_new_rows_is_written(tied: bool, tmp_path: Path) -> None:
    """As files, from two ranks and in blocks of any size; other tensors are as they were."""
    model = Tiny(style="llama-2", vocab=80, tied=tied)
    source = write_meta(model, tmp_path / "in", 2)
    sources = [s or [1, 2] for s in _mixed(80, 120)]
    table = row_table(sources)
    files = set()
    for jobs, memory in ((1, 1 << 18), (4, 1 << 26)):
        out = tmp_path / f"out{jobs}"
        with llamatools.open_checkpoint(source) as opened:
            values = {
                n: NewRows(v, n, table) if n in (EMBEDDING, HEAD) else v
                for n, v in opened.values.items()
            }
            spec = replace(opened.spec, vocab_size=120)
            changed = replace(opened, values=values, spec=spec)
            run(prepare(changed, out, Options(to="hf"), jobs=jobs, max_memory=memory))
        files.add((out / "model.safetensors").read_bytes())
    assert len(files) == 1
    written = read_hf(out)
    assert written.keys() == model.truth.keys()
    for name, t in model.truth.items():
        wanted = _naive(t, sources) if name in VOCABULARY else t
        assert np.array_equal(_bits(written[name]), _bits(wanted)), name


VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_mean_of_all_is_taken_once_in_a_run(jobs: int, hf: Path) -> None:
    """40 rows; blocks of one row; whoever comes while it is computed waits for it."""
    asked: list[tuple[int, int]] = []

    def saw(start: int, rows: int) -> None:
        asked.append((start, rows))
        time.sleep(0.01)

    def make(x: Expr) -> Expr:
        assert isinstance(x, Read)
        return NewRows(_Watched(x.tensor, saw), "e", row_table([[]] * 30))

    _execute(hf, make, jobs, 1)
    assert asked == [(0, 40)]


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_a_failure_while_others_wait(jobs: int, hf: Path) -> None:
    def fail(start: int, rows: int) -> None:
        time.sleep(0.05)
        raise BadInput("the embedding is bad")

    def make(x: Expr) -> Expr:
        assert isinstance(x, Read)
        return NewRows(_Watched(x.tensor, fail), "e", row_table([[]] * 30))

    before = threading.active_count()
    with pytest.raises(BadInput, match="the embedding is bad"):
        _execute(hf, make, jobs, 1)
    assert threading.active_count() == before


@pytest.mark.parametrize("block", [5 * 96, 50 * 96, 1 << 20])
@pytest.mark.parametrize("more", [[], [[]], [[5, 6]] * 3, [[i] for i in range(30)]], ids=len)
def test_checksums_are_checked_though_rows_are_read_again(
    more: Sources, block: int, tmp_path: Path
) -> None:
    source = write_meta(Tiny(vocab=80), tmp_path / "in", 1)
    table = row_table([[i] for i in range(80)] + more)

    def make(x: Expr) -> Expr:
        return NewRows(x, "e", table)

    assert _execute(source, make, 2, block).records_partial == 0
    with llamatools.open_checkpoint(source) as opened:
        (stored,) = opened.values[EMBEDDING].reads()
    data = bytearray(stored.file.path.read_bytes())
    data[stored.offset + 777] ^= 1
    stored.file.path.write_bytes(data)
    with pytest.raises(BadInput, match="CRC-32"):
        _execute(source, make, 2, block)
