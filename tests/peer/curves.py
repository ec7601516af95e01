#!/usr/bin/env python3
"""Loss curves of kiungo beside those of PyTorch, on the same pairs in the same order from the same start.

    python curves.py MODEL PAIRS.tsv --kiungo target/release/kiungo --out DIR [--steps 500] [--device cuda]

PyTorch trains in f32, and in bf16 (autocast over f32 weights); kiungo with AdamW's moments in f32, bf16 and 8 bits, its weights in
f32 or, `none`, in bf16 rounded at random. A run's distance is the root mean square, over windows of ten steps, of its mean loss
less that of PyTorch in f32. The exit code is 1 where kiungo in f32 or bf16 with f32 moments and weights is further away than
PyTorch in bf16 is. Losses are kept in DIR/curves.json, so that a second call makes what is missing.
"""
import argparse
import json
import math
import os
import subprocess
import sys

import torch
from peft import PeftModel

from common import encoder, load, pairs
from train_steps import make_adapter, settings, train

WINDOW = 10
# compute, moments, master
KIUNGO = {
    "lora": [("f32", "f32", "f32"), ("bf16", "f32", "f32")],
    "full": [("f32", "f32", "f32"), ("bf16", "f32", "f32"), ("bf16", "bf16", "f32"), ("bf16", "8-bit", "f32"),
             ("bf16", "8-bit", "none")],
}


def by_torch(options, s, init, compute):
    torch.manual_seed(1)
    model = load(options.model, blocks=s["target"]).to(options.device)
    if s["method"] == "lora":
        model = PeftModel.from_pretrained(model, init, is_trainable=True)
    encode = encoder(options.model, bos=model.config.bos_token_id)
    rows = [(encode(a), encode(b)) for a, b in pairs(options.pairs)]
    return train(model, rows, s, options.steps, compute)[1]


def by_kiungo(options, s, init, folder, compute, moments, master):
    base = "bf16" if master == "none" else "f32"
    command = [options.kiungo, "train", "--model", options.model, "--pairs", options.pairs, "--dev", options.pairs, "--control",
               options.pairs, "--preset", s["preset"], "--method", s["method"], "--base", base, "--compute", compute,
               "--moments", moments, "--shuffle", "off", "--dropout", "0", "--epochs", str(s["epochs"]), "--device", options.device,
               "--target", str(s["target"]), "--save-every", "off", "--layers", str(s["target"]), "--output", folder]
    command += ["--init", init] if s["method"] == "lora" else ["--master", master]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(folder, "metrics.jsonl")) as f:
        losses = [row["loss"] for row in map(json.loads, f) if "loss" in row and "step" in row]
    return losses[:options.steps]


def windows(losses):
    return [sum(losses[i:i + WINDOW]) / WINDOW for i in range(0, len(losses) - WINDOW + 1, WINDOW)]


def distance(losses, reference):
    differences = [a - b for a, b in zip(windows(losses), windows(reference))]
    return math.sqrt(sum(d * d for d in differences) / len(differences))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model")
    arguments.add_argument("pairs")
    arguments.add_argument("--kiungo", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--method", choices=KIUNGO, action="append", help="[both]")
    options = arguments.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    os.makedirs(options.out, exist_ok=True)
    kept = os.path.join(options.out, "curves.json")
    curves = json.load(open(kept)) if os.path.exists(kept) else {}
    per_epoch = math.ceil(len(pairs(options.pairs)) / 64)
    failed = False
    for method in options.method or KIUNGO:
        given = argparse.Namespace(preset="clean", method=method, loss=None, pooling=None, batch=None, lr=None,
                                   epochs=math.ceil(options.steps / per_epoch))
        s = settings(given)
        init = os.path.join(options.out, "init")
        if method == "lora" and not os.path.exists(os.path.join(init, "adapter_config.json")):
            make_adapter(load(options.model, blocks=s["target"]), s, init, 1)

        def curve(name, make):
            if name not in curves:
                curves[name] = make()
                with open(kept, "w") as f:
                    json.dump(curves, f)
            return curves[name]

        reference = curve(f"{method} torch f32", lambda: by_torch(options, s, init, torch.float32))
        spread = distance(curve(f"{method} torch bf16", lambda: by_torch(options, s, init, torch.bfloat16)), reference)
        print(f"{method}: torch f32 ends at {windows(reference)[-1]:.4f}; torch bf16 is {spread:.5f} away")
        for compute, moments, master in KIUNGO[method]:
            name = f"{method} kiungo {compute}, moments {moments}, weights {master}"
            folder = os.path.join(options.out, name.replace(", ", "-").replace(" ", "-"))
            losses = curve(name, lambda: by_kiungo(options, s, init, folder, compute, moments, master))
            away = distance(losses, reference)
            exact = (moments, master) == ("f32", "f32")
            far = exact and away > spread
            failed |= far
            print(f"  {name}: ends at {windows(losses)[-1]:.4f}, {away:.5f} away{'  FURTHER THAN bf16' if far else ''}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
