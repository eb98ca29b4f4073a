"""The conversion script of transformers 4.46.3, called through its function: SRC OUT.

Its command line wants a tokenizer, which the benchmark's inputs do not have. It is told "3.1",
not "3.2": for the latter it takes every model as tied and leaves the output matrix out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from durable import sync_folder
from transformers.models.llama.convert_llama_weights_to_hf import write_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()

    vocab = json.loads((given.source / "params.json").read_text())["vocab_size"]
    write_model(
        model_path=str(given.out),
        input_base_path=str(given.source),
        llama_version="3.1",
        vocab_size=vocab,
        num_shards=1,
    )
    sync_folder(given.out)


if __name__ == "__main__":
    main()
