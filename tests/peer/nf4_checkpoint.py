"""Two linear layers of a checkpoint that transformers and bitsandbytes quantised and saved, for the reader of such files.

    venv/bin/pip install bitsandbytes==0.50.2
    for kind in plain double bf16; do
      venv/bin/python tests/peer/nf4_checkpoint.py tests/golden/tiny-llama tests/golden/nf4/$kind --kind $kind
    done

`double`: the scales are quantised too. `bf16`: so they are, and the codes are stored as if they were bf16 values. Beside
the layers as they were saved, `NAME.dequantized` (bf16) is what bitsandbytes makes of them.
"""
import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import bitsandbytes
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

LAYERS = ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--kind", choices=["plain", "double", "bf16"], required=True)
    args = parser.parse_args()

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=args.kind != "plain",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16 if args.kind == "bf16" else torch.uint8,
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.base, quantization_config=quantization, dtype=torch.bfloat16, device_map="cpu"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        stored = load_file(pathlib.Path(saved) / "model.safetensors")
        config = (pathlib.Path(saved) / "config.json").read_text()
    tensors = {name: t for name, t in stored.items() if any(name.startswith(layer + ".") for layer in LAYERS)}
    for layer in LAYERS:
        weight = model.get_submodule(layer).weight
        dequantized = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        tensors[layer + ".dequantized"] = dequantized.to(torch.bfloat16).contiguous()
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "config.json").write_text(config)
    for name, t in sorted(tensors.items()):
        print(name, list(t.shape), t.dtype)


main()
