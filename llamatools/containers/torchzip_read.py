"""Opens a torch checkpoint, as torch.save has written them since 1.6, without torch.

The file is a zip archive with one root folder:

    data.pkl    the pickle of a dict of tensors; each names a storage, an offset, shape, strides
    data/KEY    the bytes of one storage, stored without compression
    byteorder   "little" or "big"; absent in old files, which are little
    version     and other records that a reader of tensors has no need of
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from llamatools.containers.base import Container, InputFile, Record, StoredTensor
from llamatools.containers.numbers import extent, read_cost
from llamatools.containers.pickleglobals import PickledTensor, Storage
from llamatools.containers.pickles import MAX_BYTES, load_pickle
from llamatools.containers.problems import refuse_if
from llamatools.containers.statedict import StateDict, find_state_dict
from llamatools.containers.zipheaders import STORED
from llamatools.containers.zipindex import ZipIndex, read_zip_index
from llamatools.errors import BadInput, Unsupported
from llamatools.text import listing, safe

_RESAVE = "load it with torch and save it again with torch.save(state_dict, ...)"


def read_torch(file: InputFile) -> Container:
    """The tensors of a torch checkpoint, in file order; nothing of their data is read.

    Where the state dict was nested, `metadata` says under which key, and what lay beside it.
    Raises BadInput or Unsupported with everything that is wrong.
    """
    index = read_zip_index(file)
    _check_kind(index)
    where = f"{file.path} (data.pkl)"
    pickle = index.read_small("data.pkl", MAX_BYTES)
    state = find_state_dict(load_pickle(pickle, where), where)
    problems = list(_problems(index, state))
    refuse_if([text for kind, text in problems if kind is BadInput])
    refuse_if([text for _, text in problems], error=Unsupported, hint=_RESAVE)

    stored = [_stored(index, name, t) for name, t in state.tensors.items()]
    stored.sort(key=lambda t: t.offset)
    metadata = {"key": state.key, "beside": listing(state.beside)} if state.key else {}
    return Container("torch", file, {t.name: t for t in stored}, metadata)


def _check_kind(index: ZipIndex) -> None:
    """Whether the archive is a checkpoint at all, and one whose bytes are in our order."""
    where = safe(index.file.path)
    if "constants.pkl" in index.entries:
        raise Unsupported(f"{where}: a TorchScript program", hint=_RESAVE)
    if "data.pkl" not in index.entries:
        raise BadInput(
            f"{where}: a zip archive without {safe(index.root)}/data.pkl: not a torch checkpoint"
        )
    order = index.read_small("byteorder", 16) if "byteorder" in index.entries else b"little"
    if order == b"big":
        raise Unsupported(
            f"{where}: written on a big-endian machine", hint=f"on any machine, {_RESAVE}"
        )
    if order != b"little":
        raise BadInput(f"{where}: byte order {safe(order)}, expected little or big")


_Problem = tuple[type[BadInput], str]


def _problems(index: ZipIndex, state: StateDict) -> Iterator[_Problem]:
    """Everything that keeps the tensors from being read, each with its kind of error."""
    where = safe(index.file.path)
    storages: dict[str, Storage] = {}
    for name, tensor in state.tensors.items():
        storage = tensor.storage
        if storages.setdefault(storage.key, storage) != storage:
            found: list[_Problem] = [
                (BadInput, f"storage {safe(storage.key)} has another type or size elsewhere")
            ]
        else:
            found = list(_record_problems(index, storage)) or list(_view_problems(tensor))
        for kind, text in found:
            yield kind, f"{where}: tensor {safe(name)}: {text}"


def _record_problems(index: ZipIndex, storage: Storage) -> Iterator[_Problem]:
    """Whether a storage's record is there, as it is, and as long as the pickle says."""
    record = index.entries.get(f"data/{storage.key}")
    if record is None:
        yield BadInput, f"its record data/{safe(storage.key)} is missing"
    elif record.method != STORED:
        yield Unsupported, f"its record data/{safe(storage.key)} is compressed"
    elif storage.nbytes > record.size:
        yield (
            BadInput,
            f"its storage has {storage.nbytes:,} bytes, "
            f"its record data/{safe(storage.key)} only {record.size:,}",
        )


def _view_problems(tensor: PickledTensor) -> Iterator[_Problem]:
    """Whether a tensor stays within its storage, and takes no element of it twice."""
    held = tensor.storage.nbytes // tensor.dtype.size
    used = tensor.offset + extent(tensor.shape, tensor.strides)
    if used > held:
        yield (
            BadInput,
            f"shape {tensor.shape}, strides {tensor.strides}, offset {tensor.offset} "
            f"need {used:,} elements; its storage has {held:,}",
        )
    elif prod(tensor.shape) > held:
        # An expanded tensor: a few stored bytes could stand for any amount of output.
        yield Unsupported, f"shape {tensor.shape} repeats the {held:,} elements of its storage"
    elif read_cost(tensor.shape, tensor.strides) > held:
        # A small file could take hours to read.
        yield (
            Unsupported,
            f"strides {tensor.strides} scatter the elements of shape {tensor.shape} among each "
            "other",
        )


def _stored(index: ZipIndex, name: str, tensor: PickledTensor) -> StoredTensor:
    entry = index.entries[f"data/{tensor.storage.key}"]
    return StoredTensor(
        name,
        tensor.dtype,
        tensor.shape,
        index.file,
        entry.start + tensor.offset * tensor.dtype.size,
        tensor.strides,
        Record(entry.start, entry.size, entry.crc if index.has_crcs else None),
    )
