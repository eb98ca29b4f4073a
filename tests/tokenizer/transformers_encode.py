"""Run by another python: what its transformers makes of tokenizer folders.

    python transformers_encode.py JOB.json

JOB.json is {"folders": {name: folder}, "texts": [...], "out": file}. Written to `out`: for each
name the class, ids without and with special tokens, decoded text, and roles.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers import __version__ as version


def found(folder: str, texts: list[str]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(t, add_special_tokens=False) for t in texts]
    return {
        "class": type(tokenizer).__name__,
        "ids": ids,
        "with": [tokenizer(t)["input_ids"] for t in texts[:5]],
        "text": [tokenizer.decode(i) for i in ids],
        "roles": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "size": len(tokenizer),
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    result = {name: found(folder, job["texts"]) for name, folder in job["folders"].items()}
    Path(job["out"]).write_text(json.dumps({"version": version, "found": result}))


if __name__ == "__main__":
    main()
