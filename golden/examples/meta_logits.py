"""Logits of Meta's code (llama-models, fairscale), as `llamatools golden import` takes them.

torchrun --nproc-per-node FILES golden/examples/meta_logits.py FOLDER logits.safetensors
"""

import json
import sys
from pathlib import Path

import torch
from fairscale.nn.model_parallel.initialize import initialize_model_parallel
from llama_models.llama3.args import ModelArgs
from llama_models.llama3.model import Transformer
from safetensors.torch import save_file

folder, out = map(Path, sys.argv[1:])
torch.distributed.init_process_group("gloo")
rank, files = torch.distributed.get_rank(), torch.distributed.get_world_size()
initialize_model_parallel(files)
state = torch.load(folder / f"consolidated.{rank:02}.pth", weights_only=True)
settings = json.loads((folder / "params.json").read_text())
settings["vocab_size"] = state["output.weight"].shape[0] * files
model = Transformer(ModelArgs(max_batch_size=1, max_seq_len=64, **settings))
model.load_state_dict(state, strict=True)
tokens = torch.randint(settings["vocab_size"], (64,), generator=torch.Generator().manual_seed(0))
logits = model(tokens[None], 0)[0].float().contiguous()
if rank == 0:
    save_file({"tokens": tokens, "logits": logits}, out)
