"""The usual merge, as a yardstick: BASE ADAPTER OUT.

Loads the model in its own type, merges with PEFT, saves; ends when the output is on the disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from durable import sync_folder
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    base, adapter, out = sys.argv[1:4]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(out)
    sync_folder(Path(out))


if __name__ == "__main__":
    main()
