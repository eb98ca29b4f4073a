"""Adapters as torchtune, litgpt and mlx-lm write them, and what each of them merges.

    python tests/reference/foreign_adapters.py JOBS.json

JOBS.json is a list of {"tool", "base", "out"} and what the tool's function below is told. `base` is
a model in transformers' layout. `out` gets `adapter`, the folder that the tool would leave, and
`merged.safetensors`, the tool's own merge under transformers' names. Every job calls what the
tool's fine-tuning command calls, but for the training, in whose place factors are drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RANK, ALPHA, SCALE = 3, 7, 2.7


def _config(base: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    return config


def _draw(factors: Iterable[Any], lengths: Iterable[Any] = ()) -> None:
    """Stand-in for training: other factors, and DoRA's lengths times something around 1."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for t in factors:
            t.copy_(0.3 * torch.randn(t.shape, generator=generator))
        for t in lengths:
            t.mul_(torch.exp(0.2 * torch.randn(t.shape, generator=generator)))


def torchtune(
    base: Path, out: Path, attention: list[str], mlp: bool, head: bool, dora: bool
) -> str:
    """As recipes/lora_finetune_single_device.py sets a model up and saves it."""
    from safetensors.torch import load_file, save_file
    from torchtune import __version__, training
    from torchtune.models.llama3 import lora_llama3
    from torchtune.models.llama3_2._component_builders import lora_llama3_2
    from torchtune.modules import peft
    from torchtune.training import FullModelHFCheckpointer

    config, said = _config(base), (attention, mlp, head)
    tied = config["tie_word_embeddings"]
    checkpointer = FullModelHFCheckpointer(
        checkpoint_dir=str(base),
        checkpoint_files=["model.safetensors"],
        model_type="LLAMA3_2" if tied else "LLAMA3",
        output_dir=str(out),
    )
    sizes = {
        "vocab_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "num_kv_heads": config["num_key_value_heads"],
        "embed_dim": config["hidden_size"],
        "intermediate_dim": config["intermediate_size"],
        "max_seq_len": 64,
    }
    build = lora_llama3_2 if tied else lora_llama3
    model = build(*said, **sizes, lora_rank=RANK, lora_alpha=ALPHA, use_dora=dora)
    loaded = checkpointer.load_checkpoint()[training.MODEL_KEY]
    missing, unexpected = model.load_state_dict(loaded, strict=False)
    for module in model.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()
    peft.validate_missing_and_unexpected_for_lora(
        *said, base_missing=missing, base_unexpected=unexpected
    )
    trained = peft.get_adapter_params(model)
    _draw(
        [t for n, t in trained.items() if "lora" in n],
        [t for n, t in trained.items() if "magnitude" in n],
    )
    saved = {
        training.ADAPTER_KEY: peft.get_adapter_state_dict(model.state_dict()),
        training.MODEL_KEY: peft.get_merged_lora_ckpt(dict(model.state_dict()), RANK, ALPHA),
        training.ADAPTER_CONFIG: {
            "r": RANK,
            "lora_alpha": ALPHA,
            "target_modules": peft.get_lora_module_names(*said),
            "peft_type": "LORA",
        },
    }
    checkpointer.save_checkpoint(saved, epoch=0)
    (out / "epoch_0").rename(out / "adapter")
    (shard,) = (out / "adapter").glob("model-*.safetensors")
    save_file(load_file(shard), out / "merged.safetensors")
    return f"torchtune {__version__}"


def litgpt(base: Path, out: Path, trained: list[str], path: str | None = None) -> str:
    """As litgpt/finetune/lora.py saves and merges. `path` is a folder with another litgpt."""
    if path is not None:
        sys.path.insert(0, path)
    from importlib.metadata import version

    import torch
    from lightning import Fabric
    from litgpt.config import Config as BaseConfig
    from litgpt.finetune.lora import save_hyperparameters, save_lora_checkpoint, setup
    from litgpt.lora import GPT, Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint
    from litgpt.scripts.merge_lora import merge_lora
    from litgpt.utils import copy_config_files, save_config
    from safetensors.torch import load_file, save_file

    config, source, adapter = _config(base), out / "source", out / "adapter"
    for folder in (source, adapter):
        folder.mkdir(parents=True)
    sizes = {
        "name": "tiny",
        "hf_config": {"org": "tiny", "name": "tiny"},
        "block_size": 64,
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "n_query_groups": config["num_key_value_heads"],
        "n_embd": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "padded_vocab_size": config["vocab_size"],
        "rotary_percentage": 1.0,
        "parallel_residual": False,
        "bias": False,
        "norm_class_name": "RMSNorm",
        "mlp_class_name": "LLaMAMLP",
    }
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(BaseConfig(**sizes), {}, weights, load_file(base / "model.safetensors"))
    torch.save(weights, source / "lit_model.pth")
    save_config(BaseConfig(**sizes), source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_text("{}")  # looked for, and not read

    flags = {f"lora_{name}": name in trained
             for name in ("query", "key", "value", "projection", "mlp", "head")}  # fmt: skip
    told = {"precision": "32-true", "lora_r": RANK, "lora_alpha": ALPHA} | flags
    model = GPT(Config(**sizes, **{k: v for k, v in told.items() if k.startswith("lora_")}))
    model.load_state_dict(torch.load(source / "lit_model.pth"), strict=False)
    _draw(t for n, t in model.named_parameters() if "lora_" in n)
    fabric = Fabric(devices=1, accelerator="cpu", precision="32-true")
    save_lora_checkpoint(fabric, fabric.setup_module(model), adapter / "lit_model.pth.lora")
    copy_config_files(source, adapter)
    words = [f"--{key}={str(v).lower() if isinstance(v, bool) else v}" for key, v in told.items()]
    sys.argv = ["litgpt", "finetune_lora", str(source), *words]
    save_hyperparameters(setup, adapter)
    merge_lora(adapter)
    convert_lit_checkpoint(adapter, out / "converted")
    # 0.5.3 writes opcodes that a guarded load refuses; the file was made just now.
    merged = torch.load(out / "converted/model.pth", weights_only=False)
    save_file({n: t.contiguous().clone() for n, t in merged.items()}, out / "merged.safetensors")
    return f"litgpt {version('litgpt')}"


def mlx(base: Path, out: Path, kind: str, layers: int, keys: list[str] | None) -> str:
    """As mlx_lm/lora.py, its trainer and mlx_lm/fuse.py."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm import __version__
    from mlx_lm.lora import CONFIG_DEFAULTS
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model, save_config

    parameters = {"rank": RANK, "dropout": 0.0, "scale": SCALE} | ({"keys": keys} if keys else {})
    args = SimpleNamespace(**CONFIG_DEFAULTS)
    args.model, args.train, args.fine_tune_type, args.num_layers = str(base), True, kind, layers
    args.lora_parameters = None if kind == "full" else parameters
    model, _ = load_model(base)
    model.freeze()
    if kind == "full":
        for layer in model.layers[-max(layers, 0) :]:
            layer.unfreeze()
    else:
        linear_to_lora_layers(model, layers, dict(parameters), use_dora=kind == "dora")
    mx.random.seed(1)

    def moved(name: str, t: mx.array) -> mx.array:
        drawn = mx.random.normal(t.shape)
        if name.rpartition(".")[2] in ("lora_a", "lora_b"):
            return 0.3 * drawn
        return t * mx.exp(0.2 * drawn)

    weights = [(name, moved(name, t)) for name, t in tree_flatten(model.trainable_parameters())]
    model.update(tree_unflatten(weights))
    adapter = out / "adapter"
    adapter.mkdir(parents=True)
    save_config(vars(args), adapter / "adapter_config.json")
    trained = dict(tree_flatten(model.trainable_parameters()))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), trained)
    fused = [(n, m.fuse()) for n, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(fused))
    mx.save_safetensors(str(out / "merged.safetensors"), dict(tree_flatten(model.parameters())))
    return f"mlx-lm {__version__}"


TOOLS: dict[str, Callable[..., str]] = {"torchtune": torchtune, "litgpt": litgpt, "mlx": mlx}


def main() -> None:
    versions = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        base, out = Path(job.pop("base")), Path(job.pop("out"))
        versions.append(TOOLS[job.pop("tool")](base, out, **job))
    print(", ".join(sorted(set(versions))))


if __name__ == "__main__":
    main()
