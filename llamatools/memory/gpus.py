"""GPUs and the memory a process can see on them: a data file, gpus.json, and its names.

A GPU that is not in it can be given as a size: 48GiB.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from llamatools.errors import UsageError
from llamatools.memory.estimates import usable
from llamatools.memory.units import gib
from llamatools.text import safe

_FILE = Path(__file__).with_name("gpus.json")


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU; `visible` bytes of memory."""

    key: str
    title: str
    visible: int

    @property
    def usable(self) -> int:
        return usable(self.visible)


@cache
def known() -> dict[str, Gpu]:
    """Every GPU in the data file by its key, the smallest first."""
    rows = json.loads(_FILE.read_text(encoding="utf-8"))["gpus"]
    found = (
        Gpu(row["key"], row["title"], int(Decimal(row["visible_gib"]) * (1 << 30))) for row in rows
    )
    return {g.key: g for g in sorted(found, key=lambda g: g.visible)}


def find(names: Sequence[str | int]) -> tuple[Gpu, ...]:
    """The GPUs of these names or sizes in bytes; UsageError says everything it does not know."""
    found, problems, near = [], [], []
    for name in names:
        gpu = _sized(name) if isinstance(name, int) else _named(name)
        if gpu is not None:
            found.append(gpu)
            continue
        problems.append(f"--gpu {safe(name)}: no such GPU is listed")
        near += get_close_matches(_plain(str(name)), known(), 2, 0.5)
    if problems:
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        raise UsageError(
            problems, hint=f"{hint}known: {', '.join(known())}; or give a size: --gpu 48GiB"
        )
    return _told_apart(tuple(dict.fromkeys(found)))


def _told_apart(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Sizes that three digits do not tell apart are named in bytes."""
    named = Counter(g.key for g in gpus)
    return tuple(_sized(g.visible, f"{g.visible}B") if named[g.key] > 1 else g for g in gpus)


def _sized(visible: int, name: str | None = None) -> Gpu:
    text = name or gib(visible).replace(" ", "")
    return Gpu(text, f"a GPU of {text}", visible)


def _plain(name: str) -> str:
    text = re.sub(r"nvidia|geforce|amd|instinct|tesla", "", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _named(name: str) -> Gpu | None:
    """By key, or by what only one key begins with: h100, rtx-4090, 4090, a100-80."""
    wanted = _plain(name).replace("-", "")
    exact = {k.replace("-", ""): g for k, g in known().items()}
    if wanted in exact:
        return exact[wanted]
    parts = {g for k, g in exact.items() if wanted in _short_names(g.key, k)}
    return parts.pop() if len(parts) == 1 else None


def _short_names(key: str, plain: str) -> tuple[str, ...]:
    model = key.split("-")[0]
    return (model, model.removeprefix("rtx"), plain.removesuffix("gb"))
