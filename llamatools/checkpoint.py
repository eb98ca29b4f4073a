"""Opening a checkpoint: from a path to canonical expressions, a spec and the model's identity.

Only headers and configs are read, unless `probe` allows a look at tensor data for the two
questions that headers cannot answer: is the stored head the embedding (tied), and do
model-parallel files hold copies of key-value heads?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llamatools.canonical import EMBEDDING, HEAD
from llamatools.claims import Claims
from llamatools.containers.base import InputFile, StoredTensor
from llamatools.dtypes import DType
from llamatools.errors import BadInput
from llamatools.expr.nodes import Expr
from llamatools.family.identify import Identity, identify
from llamatools.family.refuse import refuse_config, refuse_files, refuse_params
from llamatools.layouts import hf_config, meta_config
from llamatools.layouts.hf import HF
from llamatools.layouts.join import check_copies, match
from llamatools.layouts.meta import META_2, META_3
from llamatools.layouts.table import Layout
from llamatools.opening.evidence import find_kv_copies, find_same_head, join_all
from llamatools.opening.folder import Folder, scan
from llamatools.opening.native import NativeTensors, read_native
from llamatools.opening.reconcile import reconcile
from llamatools.spec import ModelSpec
from llamatools.text import listing, safe


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Close it, or use it as a context manager."""

    path: Path
    folder: Folder
    layout: Layout
    container: str
    files: tuple[InputFile, ...]
    config: Mapping[str, object]
    claims: Claims
    spec: ModelSpec
    identity: Identity
    values: Mapping[str, Expr]
    """Canonical name -> how its value is read. Holds the head where the files store one."""
    same_head: bool
    """The head's values are the embedding's, whatever the config says of tying them."""
    stored: tuple[StoredTensor, ...]
    dropped: tuple[str, ...]
    """Buffers the files hold that are no weights."""
    shards: int
    """Model-parallel files; 1 for HF layouts."""
    kv_copies: int
    """Files that hold the same key-value head; 1 where none is repeated."""
    conflicts: tuple[str, ...]
    """Where files, tensors and claims disagree, and who was believed."""
    notes: tuple[str, ...]
    """Defaults taken, and other things worth knowing."""

    @property
    def dtype(self) -> DType:
        """The type most bytes are in: what a config calls the model's dtype."""
        return main_dtype(self.values)

    def close(self) -> None:
        for f in self.files:
            f.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def main_dtype(values: Mapping[str, Expr]) -> DType:
    """The type that most bytes are in."""
    sizes: Counter[DType] = Counter()
    for value in values.values():
        sizes[value.dtype] += value.nbytes
    return max(sizes, key=lambda d: (sizes[d], d.name))


def open_checkpoint(source: str | Path | Folder, *, probe: bool = True) -> Checkpoint:
    """Open a folder, or the one weight file in it, of any layout and container.

    Raises BadInput for what is broken or contradicts itself, Unsupported for what is recognised
    and not handled. With `probe` False no tensor data is read.
    """
    folder = source if isinstance(source, Folder) else scan(Path(source))
    path = folder.path if isinstance(source, Folder) else Path(source)
    refuse_files(folder.names)
    config = _refuse_by_config(folder)
    native = read_native(folder)
    try:
        return _assemble(path, folder, config, native, probe)
    except BaseException:
        native.close()
        raise


_REFUSALS = {hf_config.NAME: refuse_config, meta_config.NAME: refuse_params}
_READERS = {hf_config.NAME: hf_config.read_config, meta_config.NAME: meta_config.read_params}
_CONFIG_OF = {"hf": hf_config.NAME, "meta": meta_config.NAME}


def _refuse_by_config(folder: Folder) -> dict[str, dict[str, object]]:
    """Both configs a folder may hold, unless one names a model that is not handled."""
    configs = {}
    for name, refuse in _REFUSALS.items():
        if name in folder.names:
            configs[name] = folder.json(name)
            inner = configs[name]
            refuse(meta_config.unwrap(inner) if name == meta_config.NAME else inner)
    return configs


def _assemble(
    path: Path,
    folder: Folder,
    configs: Mapping[str, dict[str, object]],
    native: NativeTensors,
    probe: bool,
) -> Checkpoint:
    layout = _choose_layout(folder, native)
    config = configs.get(_CONFIG_OF[layout.name])
    if config is None:
        rejected = _CONFIG_OF[layout.name] in folder.rejected
        what = "is not a regular file, or a link that leads away" if rejected else "is missing"
        raise BadInput(
            f"{safe(folder.path)}: {_CONFIG_OF[layout.name]} {what}; the tensors are named as "
            f"in {'Meta' if layout.name == 'meta' else 'Hugging Face'} checkpoints",
            hint="tensor shapes do not tell the number of heads or the rope settings: "
            "put the config beside the weights",
        )
    claims = _READERS[_CONFIG_OF[layout.name]](config)
    _check_layer_count(layout, claims, native)
    matched = match(layout, claims.n_layers, _optional(layout, claims), native.tensors)
    check_copies(matched, uneven=(EMBEDDING, HEAD))
    kv_copies = find_kv_copies(claims, matched, probe=probe)
    values = join_all(claims, matched, kv_copies)
    same_head = find_same_head(claims, values, probe=probe)
    # HF's flag may keep a head apart that happens to be equal; Meta's files have no flag.
    tied = same_head and claims.tied is not False
    shapes = {name: value.shape for name, value in values.items()}
    spec, conflicts = reconcile(claims, shapes, tied=tied, same_head=same_head, kv_copies=kv_copies)
    return Checkpoint(
        path=path,
        folder=folder,
        layout=layout,
        container=native.container,
        files=native.files,
        config=config,
        claims=claims,
        spec=spec,
        identity=identify(spec, context_is_known=claims.context is not None),
        values=values,
        same_head=same_head,
        stored=tuple(c for copies in native.tensors.values() for c in copies),
        dropped=matched.dropped,
        shards=native.shards,
        kv_copies=kv_copies,
        conflicts=(*conflicts, *_stale_dtype(claims, values)),
        notes=(*claims.notes, *native.notes),
    )


def _stale_dtype(claims: Claims, values: Mapping[str, Expr]) -> tuple[str, ...]:
    found = main_dtype(values)
    if claims.dtype is None or claims.dtype.removeprefix("torch.") == found.torch:
        return ()
    return (f"{claims.source} says dtype {safe(claims.dtype)}, most weights are {found}",)


def _choose_layout(folder: Folder, native: NativeTensors) -> Layout:
    """The layout whose embedding the files hold."""
    if "model.embed_tokens.weight" in native.tensors:
        return HF
    copies = native.tensors.get("tok_embeddings.weight")
    if copies is None:
        raise BadInput(
            f"{safe(folder.path)}: neither Hugging Face's nor Meta's names of a Llama's tensors: "
            f"{listing(native.tensors)}",
            hint="llamatools handles dense, text-only Llama models",
        )
    # One file is not split, and either table reads it. Of several, the shape tells: the final
    # norm is as long as a row of the whole embedding.
    norm = native.tensors.get("norm.weight")
    whole_rows = norm is not None and copies[0].shape[1:] == norm[0].shape
    return META_3 if len(copies) == 1 or whole_rows else META_2


def _check_layer_count(layout: Layout, claims: Claims, native: NativeTensors) -> None:
    """BadInput where the config counts other layers than the files hold.

    Believing either would make a model that is cut short, or one with layers of noise.
    """
    prefix = layout.rows[1].native.partition("{i}")[0]
    numbers = {n[len(prefix) :].partition(".")[0] for n in native.tensors if n.startswith(prefix)}
    found = len(numbers)
    if claims.n_layers != found:
        raise BadInput(
            f"{claims.source}: {claims.n_layers} layers, but the files hold tensors of {found}",
            hint="a file may be missing, or the config belongs to another model",
        )


def _optional(layout: Layout, claims: Claims) -> Callable[[str], bool]:
    """Biases are optional; so is the head where the config, or a layout without flag, allows."""
    headless = layout.name == "meta" or bool(claims.tied)

    def optional(name: str) -> bool:
        return name.endswith(".bias") or (name == HEAD and headless)

    return optional
