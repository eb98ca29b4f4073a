"""The conversion script that came with transformers 4, called through its function.

    python tests/reference/script_run.py JOBS.json

JOBS.json is a list of {"source", "out", "vocab", "version", "files"}: a Meta folder, the folder to
write, rows of the vocabulary, the Llama version as the script counts ("1", "2", "3", "3.1", "3.2")
and the number of files. Its command line takes the vocabulary from a tokenizer, which golden
checkpoints do not have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import __version__ as version
from transformers.models.llama import (  # type: ignore[attr-defined]
    convert_llama_weights_to_hf as script,
)


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        script.write_model(
            model_path=job["out"],
            input_base_path=job["source"],
            llama_version=job["version"],
            vocab_size=job["vocab"],
            num_shards=job["files"],
        )
    print(version)


if __name__ == "__main__":
    main()
