"""What no tokenizer reaches, so that a hostile one cannot make work without end."""

MAX_TOKENS = 2_000_000
MAX_TOKEN_BYTES = 512
"""Finding the pairs that make a token takes time with the square of its length. The longest
tokens of Llama 3 and 4 are runs of 128 and 129 characters or less."""
