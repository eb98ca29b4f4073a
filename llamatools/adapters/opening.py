"""From a folder to an adapter, whatever program wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from llamatools.adapters import config as peft_config
from llamatools.adapters import litgpt, mlx, torchtune
from llamatools.adapters.names import VOCABULARY_MODULES
from llamatools.adapters.part import Adapter
from llamatools.adapters.peft import read_parts
from llamatools.adapters.scan import digest
from llamatools.containers.base import Container
from llamatools.containers.detect import open_container
from llamatools.errors import BadInput, Unsupported
from llamatools.opening.folder import Folder, scan
from llamatools.text import listing, safe


@dataclass(frozen=True)
class Format:
    """One way to store an adapter."""

    name: str
    files: tuple[str, ...]
    """Names of its weight file, or patterns of such, preferred first."""
    recognise: Callable[[Folder], bool]
    read: Callable[[Folder, Container], Adapter]


def _is_peft(folder: Folder) -> bool:
    return peft_config.NAME in folder.names and "peft_type" in folder.json(peft_config.NAME)


def _read_peft(folder: Folder, container: Container) -> Adapter:
    where = safe(folder.path / peft_config.NAME)
    config = peft_config.read_config(folder.json(peft_config.NAME), where)
    parts = read_parts(container.tensors.values(), config)
    # PEFT writes the factors of both where it tied them. It does not where a regular expression
    # names the embedding by its path, nor did it in 0.18, whatever the flag says.
    tied = [m for m, p in parts.items() if p.low_rank and m.endswith(VOCABULARY_MODULES)]
    lone = tied if len(tied) == 1 else []
    kind = "DoRA" if config.dora else "rsLoRA" if config.rslora else "LoRA"
    return Adapter(
        name=folder.path.resolve().name,
        format="peft",
        kind=f"BD-{kind}" if config.blocks else kind,
        parts=parts,
        file=container.file,
        config=config,
        keeps_tied=config.keeps_tied and not lone,
        base_model=config.base_model,
        notes=(_LONE.format(lone[0]),) if config.keeps_tied and lone else (),
    )


_LONE = (
    "says ensure_weight_tying, but holds factors of {} alone: PEFT did not tie it when it was "
    "trained, and neither is it here"
)

PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")

# The first to recognise a folder has it. torchtune's own file lies beside its export to PEFT.
FORMATS = (
    Format("torchtune", torchtune.FILES, torchtune.recognise, torchtune.read),
    Format("litgpt", litgpt.FILES, litgpt.recognise, litgpt.read),
    Format("mlx-lm", mlx.FILES, mlx.recognise, mlx.read),
    Format("PEFT", PEFT_FILES, _is_peft, _read_peft),
)


def open_adapter(path: str | Path) -> Adapter:
    """Open an adapter's folder, or the weight file in it.

    Raises BadInput for what is broken or says contradictory things, Unsupported for what is
    recognised and cannot be merged. All of its numbers are read once.
    """
    folder = scan(Path(path))
    form, file = _recognise(folder)
    container = open_container(folder.path / file)
    try:
        strange = [t for t in container.tensors.values() if not t.dtype.convertible]
        if strange:
            raise Unsupported(
                f"{safe(folder.path / file)}: tensors of types that are not merged: "
                + listing(f"{t.name} ({t.dtype})" for t in strange)
            )
        empty = [t.name for t in container.tensors.values() if not t.numel or not t.shape]
        if empty:
            raise BadInput(
                f"{safe(folder.path / file)}: tensors without rows or elements: {listing(empty)}",
                hint="was the adapter saved from one rank of several?",
            )
        adapter = form.read(folder, container)
        if not adapter.parts:
            raise BadInput(f"{safe(folder.path / file)}: an empty adapter: it changes nothing")
        return replace(adapter, digest=digest(container.tensors.values(), adapter.parts))
    except BadInput as e:
        container.file.close()
        raise type(e)([_named(p, folder) for p in e.problems], hint=e.hint) from e
    except BaseException:
        container.file.close()
        raise


def _named(problem: str, folder: Folder) -> str:
    where = safe(folder.path)
    return problem if where in problem else f"{where}: {problem}"


def _recognise(folder: Folder) -> tuple[Format, str]:
    for form in FORMATS:
        if not form.recognise(folder):
            continue
        names = [n for p in form.files for n in sorted(folder.names) if fnmatchcase(n, p)]
        if folder.chosen is not None:
            names = [n for n in names if n == folder.chosen] or [folder.chosen]
        if not names:
            raise BadInput(
                f"{safe(folder.path)}: no weights of the adapter: "
                f"expected {' or '.join(form.files)}"
            )
        return form, names[0]
    found = listing(sorted(folder.names)) or "no files"
    hint = f"expected {peft_config.NAME} and {' or '.join(PEFT_FILES)}, or the files of " + listing(
        form.name for form in FORMATS[:-1]
    )
    data = folder.json(peft_config.NAME) if peft_config.NAME in folder.names else None
    if data is not None:
        raise BadInput(f"{safe(folder.path / peft_config.NAME)}: peft_type is missing", hint=hint)
    raise BadInput(f"{safe(folder.path)}: not an adapter: found {found}", hint=hint)
