"""Logits and hidden states of transformers, as `llamatools golden import` takes them.

python golden/examples/transformers_logits.py FOLDER logits.safetensors
"""

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
generator = torch.Generator().manual_seed(0)
saved = {}
for name, length in (("short", 8), ("long", 64)):
    tokens = torch.randint(model.config.vocab_size, (length,), generator=generator)
    with torch.inference_mode():
        found = model(tokens[None], output_hidden_states=True)
    # The embedding, every layer but the last, and the norm: transformers gives no more.
    embedding, *layers, norm = found.hidden_states
    states = {"embedding": embedding, "norm": norm}
    states |= {f"layers.{i}.mlp": x for i, x in enumerate(layers)}
    saved |= {f"{name}.hidden.{point}": x[0].contiguous() for point, x in states.items()}
    saved |= {f"{name}.tokens": tokens, f"{name}.logits": found.logits[0].contiguous()}
save_file(saved, out)
