"""Loads an adapter that kiungo wrote into PEFT, compares every factor, and lets PEFT save it again.

    KIUNGO_BLESS=1 cargo test --release formats::peft        # writes tests/golden/peft/{product,uneven} anew
    venv/bin/python tests/peer/peft_roundtrip.py tests/golden/tiny-llama tests/golden/peft/product tests/golden/peft/product.peer
    venv/bin/python tests/peer/peft_roundtrip.py tests/golden/tiny-llama tests/golden/peft/uneven tests/golden/peft/uneven.peer

`cargo test` reads what PEFT saved and compares it with what was written.
"""
import argparse
import json
import math
import os
import pathlib
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()

    # PEFT only warns of missing, unexpected and ignored things.
    warnings.simplefilter("error", UserWarning)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    weights = {name: w.clone() for name, w in base.state_dict().items()}
    model = PeftModel.from_pretrained(base, args.adapter)
    written = load_file(args.adapter / "adapter_model.safetensors")
    config = json.loads((args.adapter / "adapter_config.json").read_text())

    loaded = {name.replace(".default", ""): w for name, w in model.state_dict().items() if "lora_" in name}
    assert loaded.keys() == written.keys(), loaded.keys() ^ written.keys()
    for name, factor in written.items():
        assert torch.equal(loaded[name], factor), name

    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
    model.save_pretrained(args.out, save_embedding_layers=False)
    (args.out / "README.md").unlink(missing_ok=True)

    merged = model.merge_and_unload().state_dict()
    for name, weight in weights.items():
        key = "base_model.model." + name.removesuffix(".weight")
        expected = weight
        if key + ".lora_A.weight" in written:
            expected = weight + scale * written[key + ".lora_B.weight"] @ written[key + ".lora_A.weight"]
        assert torch.allclose(merged[name], expected, rtol=0, atol=1e-6), name
    print(f"{args.adapter}: {len(written) // 2} modules, scale {scale}")


main()
