"""Which modules of a Llama an adapter's config names, by PEFT's rules.

Merging goes by the tensors in the file; this finds those that the file should have and lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from llamatools.adapters.config import Config, Names
from llamatools.adapters.names import VOCABULARY_MODULES
from llamatools.adapters.part import Part
from llamatools.adapters.patterns import compiled, every
from llamatools.errors import BadInput, Unsupported
from llamatools.text import safe

ALL_LINEAR = "all-linear"
_EMBEDDING, _HEAD = VOCABULARY_MODULES
_LAYER = re.compile(r"[\w.]*?\.[^.]*\.([0-9]+)\.", re.ASCII)


def lacking(
    config: Config, parts: dict[str, Part], modules: Iterable[str], *, tied: bool
) -> list[str]:
    """Modules of the base that the config names for training, of which the file holds nothing.

    Of rows that a tied embedding and head share PEFT stores one copy.
    """
    low_rank = {m for m, p in parts.items() if p.low_rank is not None}
    weights = {m for m, p in parts.items() if p.weight is not None}
    rows = {m for m, p in parts.items() if p.tokens is not None}
    if tied and any(_listed((_EMBEDDING,), m) for m in rows):
        rows |= {_HEAD}
    wanted = {m: config.saves(m) for m in modules}
    return [
        m
        for m, saved in wanted.items()
        if (saved and m not in weights)
        or (not saved and m not in low_rank and _is_target(config, m))
        or (m not in rows and _listed(tuple(config.tokens or ()), m))
    ]


def _listed(names: tuple[str, ...], module: str) -> bool:
    return any(module == name or module.endswith("." + name) for name in names)


def _matches(names: Names, module: str, where: str) -> bool:
    if isinstance(names, str):
        return bool(compiled(names, where)(module))
    return _listed(names or (), module)


def _is_target(config: Config, module: str) -> bool:
    if _matches(config.exclude, module, f"{config.where}: exclude_modules"):
        return False
    if isinstance(config.target, str) and config.target.lower() == ALL_LINEAR:
        # PEFT leaves out the output layer.
        return module.endswith("_proj") and not _listed(VOCABULARY_MODULES, module)
    if not _matches(config.target, module, f"{config.where}: target_modules"):
        return False
    if isinstance(config.target, str) or module in (config.target or ()):
        return True  # layers_to_transform restricts modules that are named by the end of their path
    return not config.layers or _in_layers(config, module)


def _in_layers(config: Config, module: str) -> bool:
    patterns = [rf"(?:|.*?\.){p}\.([0-9]+)\..*" for p in config.layers_pattern]
    compile_one = every(patterns, f"{config.where}: layers_pattern")
    for pattern in patterns:
        match = compile_one(pattern)(module)
        if match is not None:
            number = match.group(1)
            if number is None or not number.isdecimal():
                raise BadInput(f"{config.where}: layers_pattern: a group in {safe(pattern)}")
            return int(number) in config.layers
    found = None if patterns else _LAYER.match(module)
    return found is not None and int(found[1]) in config.layers


def unsaid(config: Config, parts: dict[str, Part]) -> list[str]:
    """Modules the file has factors of, though the config does not name them."""
    try:
        return [m for m, p in parts.items() if p.low_rank is not None and not _is_target(config, m)]
    except Unsupported:
        return []
