"""One process of several: runs passes, and leaves what process 0 was shown.

    forward_process.py JOBS.json

JOBS.json: {"sources": [[folder, out], ...], "prompts": [[tokens, positions], ...], "device": ...,
"fail": null or [process, how]}. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from forward_kit import Seen

import llamatools
from llamatools.engine.environment import environment
from llamatools.errors import BadInput, LlamatoolsError
from llamatools.reference.observe import Point, Prompt
from llamatools.reference.reading import Reader
from llamatools.reference.run import run
from llamatools.reference.settings import Settings


class Refuses(Seen):
    def hidden(self, prompt: int, point: Point, x: torch.Tensor) -> None:
        if str(point) == "layer 1 mlp":
            raise BadInput("the observer has seen enough")


def _fail(process: int, how: str) -> None:
    """From here on, this process fails when it reads its second layer."""
    if environment()[0] != process:
        return

    def fill(self: Reader, unit: Any, memory: Any) -> None:
        if how == "dies":
            os._exit(9)
        raise (
            BadInput("this file is damaged", hint="fetch it again")
            if how == "reads"
            else KeyError("x")
        )

    Reader.fill = fill  # type: ignore[method-assign]


def main() -> int:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    process, how = jobs["fail"] or (-1, "")
    if how in ("reads", "dies", "bug"):
        _fail(process, how)
    prompts = [Prompt(str(i), tuple(t), tuple(p)) for i, (t, p) in enumerate(jobs["prompts"])]
    said: dict[str, Any] = {"rank": environment()[0]}
    code = 0
    try:
        for folder, out in jobs["sources"]:
            observer = Refuses() if how == "observer" else Seen()
            with llamatools.open_checkpoint(folder) as opened:
                settings = Settings(device=jobs["device"], timeout=60)
                report = run(opened, prompts, observer, settings)
            said |= {"processes": report.processes, "shown": len(observer.points)}
            said["read"] = said.get("read", 0) + report.read
            if said["rank"] == 0:
                torch.save([observer.states, observer.parts], out)
    except LlamatoolsError as e:
        said |= {"error": type(e).__name__, "problems": e.problems, "hint": e.hint}
        code = e.exit_code
    (Path(sys.argv[1]).parent / f"said.{said['rank']}").write_text(json.dumps(said))
    return code


if __name__ == "__main__":
    sys.exit(main())
