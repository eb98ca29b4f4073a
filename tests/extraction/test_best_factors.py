"""Factors are the best there are, whatever way they are found, and the same every time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from llamatools.extraction import factors
from llamatools.extraction.crew import Crew
from llamatools.extraction.factors import Factors, low_rank, residual


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew(2) as found:
        yield found


def _energy(d: torch.Tensor) -> float:
    return float((d.double() ** 2).sum())


def _error(d: torch.Tensor, f: Factors) -> float:
    return float((d.double() - f.left @ f.right).norm() / d.double().norm())


def _best(d: torch.Tensor, rank: int) -> float:
    """By torch's own decomposition, all of it."""
    s = torch.linalg.svdvals(d.double())
    return float(s[rank:].norm() / s.norm())


def _matrix(rows: int, columns: int, spectrum: torch.Tensor) -> torch.Tensor:
    """With the singular values given."""
    generator = torch.Generator().manual_seed(2)
    left, right = (
        torch.linalg.qr(torch.randn(n, len(spectrum), generator=generator).double()).Q
        for n in (rows, columns)
    )
    return (left * spectrum) @ right.T


def _power(n: int, exponent: float) -> torch.Tensor:
    return torch.arange(1, n + 1, dtype=torch.float64) ** -exponent


SMALL = [(40, 40), (40, 24), (24, 40), (1, 30), (30, 1), (200, 3)]


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("rank", [1, 2, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_matrices(shape: tuple[int, int], rank: int, dtype: torch.dtype, crew: Crew) -> None:
    d = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    f = low_rank(d, rank, _energy(d), crew)
    r = min(rank, *shape)
    assert (f.left.shape, f.right.shape) == ((shape[0], r), (r, shape[1]))
    assert f.left.dtype == f.right.dtype == torch.float64
    assert _error(d, f) == pytest.approx(_best(d, r), abs=1e-7)
    values = torch.linalg.svdvals(d.double())
    assert torch.tensor(f.energies).sqrt() == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("shape", SMALL)
def test_singular_values_are_split_evenly(shape: tuple[int, int], crew: Crew) -> None:
    """Both factors have orthogonal columns and rows, of one length each."""
    d = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    f = low_rank(d, 2, _energy(d), crew)
    values = torch.diag(torch.linalg.svdvals(d.double())[:2])
    torch.testing.assert_close(f.left.T @ f.left, values, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(f.right @ f.right.T, values, atol=1e-7, rtol=1e-7)


N = 1100
"""Beyond what is taken apart exactly."""
SPECTRA = {
    "flat": torch.linspace(1, 0.01, N, dtype=torch.float64),
    "slow": _power(N, 0.5),
    "steep": _power(N, 1.5),
    "steps": torch.tensor([1.0] * 16 + [1e-3] * (N - 16), dtype=torch.float64),
}


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(N, N + 60), (N + 60, N)], ids=["wide", "tall"])
def test_large_matrices(kind: str, shape: tuple[int, int], crew: Crew) -> None:
    """Within a thousandth of the best; much closer where there is something to be found."""
    spectrum = SPECTRA[kind]
    d = _matrix(*shape, spectrum).float()
    f = low_rank(d, 16, _energy(d), crew)
    best = float(spectrum[16:].norm() / spectrum.norm())
    assert len(f.energies) < N, "this was to be found by iteration"
    assert best * (1 - 1e-5) < _error(d, f) < best * (1 + (1e-3 if kind == "flat" else 1e-5))


def test_iterating_is_what_finds_them(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "_STEPS", 1)
    d = _matrix(N, N, SPECTRA["slow"]).float()
    f = low_rank(d, 16, _energy(d), crew)
    assert _error(d, f) > _best(d, 16) * 1.01


@pytest.mark.parametrize("size", [60, N])
@pytest.mark.parametrize("rank", [5, 8])
def test_a_low_rank_is_found_exactly(size: int, rank: int, crew: Crew) -> None:
    """Also where its parts differ by many orders; and factors are no wider than need be."""
    d = _matrix(size, size + 4, 10.0 ** -torch.arange(5, dtype=torch.float64))
    f = low_rank(d, rank, _energy(d), crew)
    assert f.left.shape[1] == 5
    assert _error(d, f) < 1e-8
    rounded = residual(d, f.left.float(), f.right.float(), crew)
    assert (rounded / _energy(d)) ** 0.5 < 2e-7


@pytest.mark.parametrize("size", [60, N])
def test_rows_of_zeros(size: int, crew: Crew) -> None:
    d = torch.zeros(size, size)
    d[3, 5], d[size - 1, :2] = 2.0, 1.0
    f = low_rank(d, 16, _energy(d), crew)
    assert f.left.shape[1] == 2
    torch.testing.assert_close(f.left @ f.right, d.double(), atol=1e-12, rtol=0)


def _bits(d: torch.Tensor, jobs: int) -> tuple[bytes, bytes]:
    with Crew(jobs) as crew:
        f = low_rank(d, 8, _energy(d), crew)
        return f.left.numpy().tobytes(), f.right.numpy().tobytes()


@pytest.mark.parametrize("shape", [(N, N + 60), (900, 64)])
def test_the_same_bits_whatever_works(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factors, "_BLOCK", 100_000)
    d = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    first = _bits(d, 1)
    before = torch.get_num_threads()
    for jobs in (1, 2, 5):
        torch.manual_seed(jobs)  # nobody else's randomness matters
        torch.set_num_threads(1 + jobs % 2)
        assert _bits(d, jobs) == first
    torch.set_num_threads(before)


def test_what_is_global_stays_as_it_was() -> None:
    before = torch.random.get_rng_state(), torch.get_num_threads()
    d = torch.randn(N, N, generator=torch.Generator().manual_seed(1))
    _bits(d, 2)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_residual(dtype: torch.dtype, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of factors as they are stored, in blocks; and one wrong number in them shows."""
    monkeypatch.setattr(factors, "_BLOCK", 64)
    d = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    f = low_rank(d, 20, _energy(d), crew)
    left, right = f.left.to(dtype), f.right.to(dtype)
    plain = float((d.double() - left.double() @ right.double()).pow(2).sum())
    found = residual(d, left, right, crew)
    assert found == pytest.approx(plain, rel=1e-9)
    left[29, 3] += 1
    assert residual(d, left, right, crew) > 2 * found
    assert torch.equal(d, torch.randn(30, 20, generator=torch.Generator().manual_seed(1)))


def test_results_come_in_order_and_failures_come_out() -> None:
    with Crew(3) as crew:
        assert list(crew.ordered(lambda i: i * i, range(50))) == [i * i for i in range(50)]
        with pytest.raises(ZeroDivisionError):
            list(crew.ordered(lambda i: 1 // (7 - i), range(50)))
