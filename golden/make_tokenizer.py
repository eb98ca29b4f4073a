"""Trains the small SentencePiece model in golden/tokenizer: options as Llama 2's, text of our own.

python golden/make_tokenizer.py --out golden/tokenizer
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import sentencepiece

TEXT = """
A checkpoint is a folder of tensors with names. The names, the order of the rows and the number
of files are customs of the code that wrote it, and other code has other customs. What the
tensors are is the same in all of them. A tokenizer cuts text into pieces and numbers them. The
model has a row for every number, and nothing else tells it what a piece means: one number off
by one, and every word is another word. So the numbers are compared, not the words. In 2023
there were 32000 pieces, in 2024 there were 128256; 7 and 13 and 70 billion parameters, 8 and
405 later on.
    def rows(pieces):
        return [embedding[i] for i in pieces]  # one row for each
"Don't trust, compare," she said; it's what we'd do. Ein Wort, deux mots, три слова, 四个字。
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines() * 4),
        model_writer=model,
        vocab_size=512,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9999,
        num_threads=1,
        minloglevel=2,
    )
    out.mkdir(exist_ok=True)
    (out / "tokenizer.model").write_bytes(model.getvalue())


if __name__ == "__main__":
    main()
