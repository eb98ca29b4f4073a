"""All bad checkpoints, by theme and name."""

from __future__ import annotations

import importlib

from kit import Case

THEMES = ("pickles", "zips", "safetensors", "folders", "json", "tensors")

CASES: dict[str, Case] = {
    f"{theme}: {name}": case
    for theme in THEMES
    for name, case in importlib.import_module(f"bad_{theme}").CASES.items()
}
