"""Writes one random bf16 model twice, as Meta's .pth and as HF safetensors: SHAPE FOLDER.

No conversion is involved. Each tensor is drawn from a seed that its name gives; the HF copy of
q and k takes its rows by an index computed from the definition of the two orders, so that it can
stand as the expected answer for converters, which permute by views.

Memory stays far below the model's size. The safetensors file is written tensor by tensor, and
the tensors whose bytes are equal in both layouts then reach torch.save as maps of that file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
import torch
from durable import sync_folder
from model_files import config_json, params_json
from shapes import SHAPES, Row, Shape


def draw(row: Row) -> torch.Tensor:
    """The tensor as Meta's layout holds it."""
    seeded = torch.Generator().manual_seed(crc32(row.meta.encode()))
    return torch.empty(row.shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=seeded)


def hf_row_sources(n_rows: int, heads: int) -> torch.Tensor:
    """For each row of an HF q or k matrix, the number of the same row in Meta's matrix.

    Within a head of D rows, the pair that is rotated together is rows (2i, 2i + 1) in Meta's
    order and rows (i, i + D/2) in HF's.
    """
    head_dim = n_rows // heads
    position = torch.arange(n_rows)
    head, within = position // head_dim, position % head_dim
    half, pair = within // (head_dim // 2), within % (head_dim // 2)
    return head * head_dim + 2 * pair + half


def write_hf(shape: Shape, folder: Path) -> dict[str, int]:
    """Writes the HF checkpoint; returns where each tensor's bytes start in its file."""
    folder.mkdir(parents=True)
    rows = sorted(shape.rows(), key=lambda row: row.hf)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for row in rows:
        start, end = end, end + row.nbytes
        header[row.hf] = {"dtype": "BF16", "shape": row.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        offsets = {row.hf: _append(out, row) for row in rows}
    (folder / "config.json").write_text(json.dumps(config_json(shape), indent=2) + "\n")
    sync_folder(folder)
    return offsets


def _append(out: BinaryIO, row: Row) -> int:
    offset = out.tell()
    tensor = draw(row)
    if row.heads is not None:
        tensor = tensor[hf_row_sources(row.shape[0], row.heads)]
    out.write(tensor.view(torch.int16).numpy().data)
    return offset


def write_meta(shape: Shape, folder: Path, hf_file: Path, offsets: dict[str, int]) -> None:
    folder.mkdir(parents=True)

    def tensor(row: Row) -> torch.Tensor:
        if row.heads is not None:
            return draw(row)
        mapped = np.memmap(hf_file, np.int16, mode="c", offset=offsets[row.hf], shape=row.shape)
        return torch.from_numpy(mapped).view(torch.bfloat16)

    torch.save({row.meta: tensor(row) for row in shape.rows()}, folder / "consolidated.00.pth")
    (folder / "params.json").write_text(json.dumps(params_json(shape)) + "\n")
    sync_folder(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    shape: Shape = SHAPES[given.shape]
    folder: Path = given.folder

    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    offsets = write_hf(shape, partial / "hf")
    write_meta(shape, partial / "meta", partial / "hf" / "model.safetensors", offsets)
    partial.rename(folder)


if __name__ == "__main__":
    main()
