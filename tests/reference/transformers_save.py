"""Load checkpoints with transformers in float32 and save them again, as it writes them.

    python tests/reference/transformers_save.py JOBS.json

JOBS.json is a list of {"folder", "out"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers import __version__ as version


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        model = AutoModelForCausalLM.from_pretrained(
            job["folder"], local_files_only=True, torch_dtype=torch.float32
        )
        model.save_pretrained(job["out"])
    print(version)


if __name__ == "__main__":
    main()
