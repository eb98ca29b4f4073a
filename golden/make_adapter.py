"""Writes the golden adapter: a LoRA made by PEFT for llama3-gqa, and the logits the two must give.

    pip install -e '.[test]'
    python golden/make_adapter.py --out golden/llama3-gqa-lora

The logits are those of PEFT's model with the adapter beside its weights, never merged, in float32.
The base is `llamatools convert golden/llama3-gqa/mp1 BASE --to hf`, whose own logits are tested
against golden/llama3-gqa. Every linear layer has factors; `down_proj` of the last layer has another
rank and alpha.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

HERE = Path(__file__).resolve().parent
BASE = HERE / "llama3-gqa"
SEED = 20261121


def load_base(folder: Path) -> LlamaForCausalLM:
    command = ["convert", str(BASE / "mp1"), str(folder), "--to", "hf", "--quiet"]
    subprocess.run([sys.executable, "-m", "llamatools", *command], check=True)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def train(model: PeftModel) -> None:
    """Random numbers in place of training; large enough that a wrong scale shows."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        rank_pattern={"layers.1.mlp.down_proj": 6},
        alpha_pattern={"layers.1.mlp.down_proj": 24},
        task_type="CAUSAL_LM",
    )
    with tempfile.TemporaryDirectory() as folder:
        model = get_peft_model(load_base(Path(folder) / "base"), config)
        train(model)
        model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    config_json = out / "adapter_config.json"
    # PEFT puts the folder of a moment here.
    said = json.loads(config_json.read_text()) | {"base_model_name_or_path": None}
    said["target_modules"] = sorted(said["target_modules"])
    config_json.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
    asked = load_file(BASE / "golden.safetensors")
    tokens, positions = asked["tokens"], asked["positions"]
    with torch.no_grad():
        logits = model.eval()(tokens[None], position_ids=positions[None]).logits[0]
    found = {"tokens": tokens, "positions": positions, "logits": logits.float()}
    made = {"logits": "PEFT's model, never merged, float32", "seed": SEED} | {
        name: version(name) for name in ("torch", "transformers", "peft")
    }
    save_file(found, out / "golden.safetensors", {"provenance": json.dumps(made)})
    for path in out.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
