"""What is made wrong on purpose must show: in logits, in fingerprints, or as a refusal.

A parity check that passes on a broken conversion proves nothing. Each defect is put either into the
layout table that `convert` reads, or into a checkpoint's files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from goldens import BY_NAME, DEFECT, TOLERANCE, Golden
from support.tiny import Tensors, Tiny
from support.tiny_files import read_hf, read_meta, unequal, write_meta, write_ranks
from transformers_logits import folder_logits

import llamatools
from llamatools import checkpoint
from llamatools.errors import BadInput
from llamatools.layouts.table import Axis, Layout, RowOrder

Q = "layers.{i}.attention.q.weight"
K = "layers.{i}.attention.k.weight"


def _with_row(layout: Layout, canonical: str, **changed: RowOrder | Axis | str) -> Layout:
    assert any(r.canonical == canonical for r in layout.rows)
    rows = (replace(r, **changed) if r.canonical == canonical else r for r in layout.rows)  # type: ignore[arg-type]
    return replace(layout, rows=tuple(rows))


def _patch(monkeypatch: pytest.MonkeyPatch, change: Callable[[Layout], Layout]) -> None:
    """Make the reader use changed tables of Meta's layouts."""
    for name in ("META_2", "META_3"):
        monkeypatch.setattr(checkpoint, name, change(getattr(checkpoint, name)))


def _convert(source: Path, tmp_path: Path) -> Path:
    out = tmp_path / "hf"
    llamatools.convert(source, out, llamatools.Options(to="hf"))
    return out


def _assert_shows(golden: Golden, source: Path, right: str, tmp_path: Path) -> None:
    """Both checks tell the conversion of `source`, as it goes now, from a right one."""
    assert llamatools.fingerprint(source).digest != right
    out = _convert(source, tmp_path)
    assert llamatools.fingerprint(out).digest != right
    assert golden.error(folder_logits(out, golden.prompt)) > DEFECT


# --- defects in the table -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("row", [Q, K], ids=["q", "k"])
def test_dropped_permutation_shows(
    name: str, row: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    golden = BY_NAME[name]
    right = llamatools.fingerprint(golden.folder(2)).digest
    _patch(monkeypatch, lambda layout: _with_row(layout, row, order=RowOrder.SAME))
    _assert_shows(golden, golden.folder(2), right, tmp_path)


@pytest.mark.parametrize("name", ["llama3-gqa", "llama31-scaled", "llama32-tied"])
def test_keys_permuted_by_the_count_of_query_heads_show(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shapes still fit, and nothing complains."""
    golden = BY_NAME[name]
    right = llamatools.fingerprint(golden.folder(1)).digest
    _patch(monkeypatch, lambda layout: _with_row(layout, K, order=RowOrder.PAIRS_Q))
    _assert_shows(golden, golden.folder(1), right, tmp_path)


def test_keys_permuted_by_the_count_of_query_heads_show_in_wide_heads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In narrow ones, as above, the wrong count amounts to no permutation; here it does not."""
    model = Tiny(head_dim=16)
    source = write_meta(model, tmp_path / "meta", 1)
    right = llamatools.fingerprint(source)
    _patch(monkeypatch, lambda layout: _with_row(layout, K, order=RowOrder.PAIRS_Q))
    wrong = llamatools.fingerprint(source)
    assert [d.name for d in llamatools.differences(right, wrong)] == [
        f"layers.{i}.attention.k.weight" for i in range(model.layers)
    ]
    found = read_hf(_convert(source, tmp_path))
    assert unequal(found, model.truth) == [
        f"model.layers.{i}.self_attn.k_proj.weight" for i in range(model.layers)
    ]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.up.weight"),
        ("layers.{i}.attention.norm.weight", "layers.{i}.mlp.norm.weight"),
        ("layers.{i}.attention.k.weight", "layers.{i}.attention.v.weight"),
        ("embedding.weight", "head.weight"),
    ],
)
def test_swapped_names_show(
    left: str, right: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    golden = BY_NAME["llama3-gqa"]
    before = llamatools.fingerprint(golden.folder(1)).digest

    def change(layout: Layout) -> Layout:
        natives = {r.canonical: r.native for r in layout.rows}
        swapped = _with_row(layout, left, native=natives[right])
        return _with_row(swapped, right, native=natives[left])

    _patch(monkeypatch, change)
    _assert_shows(golden, golden.folder(1), before, tmp_path)


@pytest.mark.parametrize(
    ("row", "axis"),
    [
        ("embedding.weight", "columns"),
        ("head.weight", "columns"),
        (Q, "columns"),
        (K, "columns"),
        ("layers.{i}.attention.v.weight", "columns"),
        ("layers.{i}.attention.o.weight", "rows"),
        ("layers.{i}.mlp.gate.weight", "columns"),
        ("layers.{i}.mlp.up.weight", "columns"),
        ("layers.{i}.mlp.down.weight", "rows"),
    ],
)
def test_wrong_shard_axis_is_refused(
    row: str, axis: Axis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Parts joined along the other axis never have the whole's shape."""
    _patch(monkeypatch, lambda layout: _with_row(layout, row, axis=axis))
    with pytest.raises(BadInput):
        _convert(BY_NAME["llama3-gqa"].folder(2), tmp_path)
    assert not (tmp_path / "hf").exists()


# --- defects in the files -------------------------------------------------------------------------


def _spoil(golden: Golden, files: int, spoil: Callable[[list[Tensors]], None], out: Path) -> Path:
    """The golden checkpoint with something made wrong in its tensors."""
    ranks = read_meta(golden.folder(files))
    spoil(ranks)
    params = json.loads((golden.folder(files) / "params.json").read_text())
    return write_ranks(out, ranks, params)


def _roll(name: str, rows: int) -> Callable[[list[Tensors]], None]:
    def spoil(ranks: list[Tensors]) -> None:
        for tensors in ranks:
            for i in range(2):
                key = f"layers.{i}.{name}.weight"
                tensors[key] = torch.roll(tensors[key], rows, 0)

    return spoil


def _recut_wo(ranks: list[Tensors]) -> None:
    """Parts cut along rows, in the shape of parts cut along columns."""
    for i in range(2):
        key = f"layers.{i}.attention.wo.weight"
        whole = torch.cat([r[key] for r in ranks], 1)
        for tensors, part in zip(ranks, whole.chunk(len(ranks)), strict=True):
            tensors[key] = part.reshape(tensors[key].shape)


def _tile_heads(ranks: list[Tensors]) -> None:
    """Repeated heads as 0, 1, 0, 1 instead of 0, 0, 1, 1."""
    for name in [n for n in ranks[0] if ".wk." in n or ".wv." in n]:
        zero, one = ranks[0][name], ranks[2][name]
        for rank, tensors in enumerate(ranks):
            tensors[name] = (zero, one)[rank % 2].clone()


@pytest.mark.parametrize(
    ("name", "files", "spoil"),
    [
        pytest.param("llama3-gqa", 1, _roll("attention.wk", 8), id="kv head rolled in k"),
        pytest.param("llama3-gqa", 1, _roll("attention.wv", 8), id="kv head rolled in v"),
        pytest.param("llama32-tied", 1, _roll("attention.wk", 8), id="kv head rolled, tied"),
        pytest.param("llama2-gqa", 2, list.reverse, id="files in another order, columns"),
        pytest.param("llama3-gqa", 2, list.reverse, id="files in another order, rows"),
        pytest.param("llama3-gqa", 2, _recut_wo, id="wo cut along rows"),
        pytest.param("llama3-gqa", 4, _tile_heads, id="repeated heads tiled"),
    ],
)
def test_misplaced_tensors_show(
    name: str, files: int, spoil: Callable[[list[Tensors]], None], tmp_path: Path
) -> None:
    golden = BY_NAME[name]
    right = llamatools.fingerprint(golden.folder(files)).digest
    untouched = _spoil(golden, files, lambda ranks: None, tmp_path / "untouched")
    assert llamatools.fingerprint(untouched).digest == right
    _assert_shows(golden, _spoil(golden, files, spoil, tmp_path / "spoilt"), right, tmp_path)


def _reorder_ffn(ranks: list[Tensors]) -> None:
    """Another order of hidden units in all three matrices: the same function."""
    for i in range(2):
        prefix = f"layers.{i}.feed_forward."
        for tensors in ranks:
            for name, axis in (("w1", 0), ("w3", 0), ("w2", 1)):
                tensors[f"{prefix}{name}.weight"] = tensors[f"{prefix}{name}.weight"].flip(axis)


def _flip_last_bit(ranks: list[Tensors]) -> None:
    key = "layers.1.feed_forward.w2.weight"
    ranks[-1][key] = ranks[-1][key].clone()
    ranks[-1][key].view(torch.int16)[-1, -1] ^= 1


@pytest.mark.parametrize("spoil", [_reorder_ffn, _flip_last_bit])
def test_fingerprint_shows_what_logits_cannot(
    spoil: Callable[[list[Tensors]], None], tmp_path: Path
) -> None:
    golden = BY_NAME["llama3-gqa"]
    source = _spoil(golden, 2, spoil, tmp_path / "spoilt")
    out = _convert(source, tmp_path)
    right = llamatools.fingerprint(golden.folder(2)).digest
    assert llamatools.fingerprint(source).digest == llamatools.fingerprint(out).digest != right
    if spoil is _reorder_ffn:
        assert golden.error(folder_logits(out, golden.prompt)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama1-mha", "norm_eps", 1e-5),
        ("llama3-gqa", "norm_eps", 1e-6),
        ("llama3-gqa", "rope_theta", 10000.0),
        ("codellama-mha", "rope_theta", 10000.0),
        ("llama31-scaled", "use_scaled_rope", False),
        ("llama31-scaled", "rope_scaling_factor", 32.0),
        ("llama32-tied", "rope_scaling_factor", 8.0),
    ],
)
def test_wrong_constants_show_in_logits(
    name: str, key: str, value: float | bool, tmp_path: Path
) -> None:
    golden = BY_NAME[name]
    params = json.loads((golden.folder(1) / "params.json").read_text()) | {key: value}
    source = write_ranks(tmp_path / "spoilt", read_meta(golden.folder(1)), params)
    error = golden.error(folder_logits(_convert(source, tmp_path), golden.prompt))
    assert error > DEFECT
