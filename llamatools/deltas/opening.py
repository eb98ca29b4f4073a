"""From a path to a delta: somebody's additive one, or ours with what it proves itself by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llamatools.checkpoint import Checkpoint, open_checkpoint
from llamatools.deltas.exact import open_exact
from llamatools.deltas.kinds import XOR
from llamatools.deltas.proof import Proof, read_proof
from llamatools.deltas.values import own
from llamatools.opening.folder import scan
from llamatools.text import safe


@dataclass(frozen=True)
class Delta:
    """An opened delta. Close it, or use it as a context manager."""

    name: str
    """The folder's."""
    model: Checkpoint
    """The model that it leads to, with the delta's values in place of its own."""
    proof: Proof | None

    def close(self) -> None:
        self.model.close()

    def __enter__(self) -> Delta:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def open_delta(path: str | Path) -> Delta:
    """Open the folder of a delta. Raises BadInput for what is broken or contradicts itself."""
    folder = scan(Path(path))
    name = folder.path.resolve().name
    proof = read_proof(folder)
    if proof is not None and proof.kind == XOR:
        return Delta(name, open_exact(folder, proof), proof)
    model = open_checkpoint(path)
    try:
        if proof is not None:
            proof.check_tensors(own(model), safe(folder.path))
    except BaseException:
        model.close()
        raise
    return Delta(name, model, proof)
