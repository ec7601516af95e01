#!/usr/bin/env python3
"""The losses of the first steps of training, by transformers + PEFT, f32, no shuffle, no dropout.

    python train_steps.py MODEL PAIRS.tsv --preset clean|paper --method lora|full [--init DIR] [--steps 100] [--out JSON]

With `--method lora` the adapter starts from the PEFT folder `--init`; where that folder is absent it is made first, seeded,
its values exact in bf16. The model is cut to the blocks below the target, which changes nothing at hidden(target).
`--out FILE` adds this run, under the name PRESET-METHOD, to a JSON file.
"""
import argparse
import json
import math
import os
import platform

import peft
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from common import THREADS, encoder, load, pad, pairs, pool

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PRESETS = {
    "clean": dict(loss="infonce", direction="both", projections=ALL, batch=64, epochs=20,
                  lr=dict(lora=1e-3, full=2e-4), pooling="mean-no-sink"),
    "paper": dict(loss="triplet", direction="forward", projections=["q_proj", "v_proj"], batch=8, epochs=5,
                  lr=dict(lora=2e-4, full=2e-5), pooling="mean"),
}
COMMON = dict(temperature=0.05, margin=0.4, target=2, rank=16, alpha=32, dropout=0.0, warmup=50, schedule="linear", weight_decay=0.01,
              clip=None, shuffle=False, bos="add", betas=[0.9, 0.999], eps=1e-8)


def settings(options):
    """The preset with what the command line changes: a flat dictionary, written beside the losses."""
    s = dict(preset=options.preset, method=options.method) | COMMON | PRESETS[options.preset]
    s["lr"] = s["lr"][options.method]
    for name in ["loss", "pooling", "epochs", "batch", "lr"]:
        given = getattr(options, name)
        if given is not None:
            s[name] = given
    return s


def make_adapter(model, s, folder, seed):
    """PEFT's own start (A Kaiming-uniform, B zero), A rounded to bf16 and both stored so."""
    torch.manual_seed(seed)
    config = LoraConfig(r=s["rank"], lora_alpha=s["alpha"], lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                        target_modules=s["projections"], layers_to_transform=list(range(s["target"])))
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder)
    adapted.unload()
    path = os.path.join(folder, "adapter_model.safetensors")
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        written = json.load(f)
    written["base_model_name_or_path"] = None  # the folder must not name a place on this machine
    written["target_modules"] = sorted(written["target_modules"])
    with open(path, "w") as f:
        json.dump(written, f, indent=2)
    readme = os.path.join(folder, "README.md")
    if os.path.exists(readme):
        os.remove(readme)


def infonce(similarity, s):
    return F.cross_entropy(similarity / s["temperature"], torch.arange(len(similarity), device=similarity.device))


def triplet(similarity, s):
    """mean_i max(0, margin + max_{j != i} S_ij - S_ii)"""
    if len(similarity) == 1:
        return similarity.sum() * 0
    positive = similarity.diagonal()
    hardest = similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool, device=similarity.device), -math.inf).amax(1)
    return F.relu(s["margin"] + hardest - positive).mean()


def loss_of(similarity, s):
    one_way = infonce if s["loss"] == "infonce" else triplet
    forward = one_way(similarity, s)
    return forward if s["direction"] == "forward" else (forward + one_way(similarity.T, s)) / 2


def train(model, rows, s, steps=None, compute=torch.float32):
    """Steps of the whole run, the loss before each, and its learning rate. Weights are f32; `compute` is autocast's type."""
    # The model ends at the target, whose hidden state is read before the final norm.
    llama = (model.get_base_model() if s["method"] == "lora" else model).model
    llama.norm = torch.nn.Identity()
    learned = [p for n, p in model.named_parameters() if p.requires_grad and "lm_head" not in n]
    device = learned[0].device
    optimizer = torch.optim.AdamW(learned, lr=s["lr"], betas=s["betas"], eps=s["eps"], weight_decay=s["weight_decay"])
    per_epoch = math.ceil(len(rows) / s["batch"])
    total = per_epoch * s["epochs"]
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, s["warmup"], total)
    print(f"{sum(p.numel() for p in learned):,} parameters learn; {total} steps in the whole run")

    losses, rates = [], []
    for step in range(min(steps or total, total)):
        first = step % per_epoch * s["batch"]
        batch = rows[first:first + s["batch"]]
        ids, mask = (t.to(device) for t in pad([a for a, _ in batch] + [b for _, b in batch]))
        with torch.autocast(device.type, compute, enabled=compute != torch.float32):
            hidden = llama(input_ids=ids, attention_mask=mask).last_hidden_state
        unit = F.normalize(pool(hidden.float(), mask, s["pooling"]), dim=1)
        similarity = unit[:len(batch)] @ unit[len(batch):].T
        loss = loss_of(similarity, s)
        rates.append(schedule.get_last_lr()[0])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            print(f"step {step:4} lr {rates[-1]:.3e} loss {losses[-1]:.6f}", flush=True)
    return total, losses, rates


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model")
    arguments.add_argument("pairs")
    arguments.add_argument("--preset", choices=PRESETS, default="clean")
    arguments.add_argument("--method", choices=["lora", "full"], default="lora")
    arguments.add_argument("--loss", choices=["infonce", "triplet"])
    arguments.add_argument("--pooling", choices=["mean", "mean-no-sink", "last"])
    arguments.add_argument("--epochs", type=int)
    arguments.add_argument("--batch", type=int)
    arguments.add_argument("--lr", type=float)
    arguments.add_argument("--steps", type=int, default=100, help="stop after so many; the schedule is the whole run's")
    arguments.add_argument("--init", help="PEFT folder to start from; made where absent")
    arguments.add_argument("--seed", type=int, default=1, help="of the adapter that is made")
    arguments.add_argument("--out", help="JSON file to add this run to")
    options = arguments.parse_args()
    s = settings(options)

    torch.manual_seed(options.seed)
    model = load(options.model, blocks=s["target"])
    encode = encoder(options.model, bos=model.config.bos_token_id)
    rows = [(encode(a), encode(b)) for a, b in pairs(options.pairs)]
    if s["method"] == "lora":
        if options.init is None:
            arguments.error("--method lora needs --init DIR")
        if not os.path.exists(os.path.join(options.init, "adapter_config.json")):
            make_adapter(model, s, options.init, options.seed)
        model = PeftModel.from_pretrained(model, options.init, is_trainable=True)
    total, losses, rates = train(model, rows, s, options.steps)
    if options.out:
        record(options, s, total, losses, rates)


def record(options, s, total, losses, rates):
    runs = {"about": "Loss before each step (and that step's learning rate) by transformers + PEFT, f32: train_steps.py",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
                         "python": platform.python_version(), "threads": THREADS}, "runs": {}}
    if os.path.exists(options.out):
        with open(options.out) as f:
            runs["runs"] = json.load(f)["runs"]
    s.pop("margin" if s["loss"] == "infonce" else "temperature")
    runs["runs"][f"{options.preset}-{options.method}"] = dict(
        settings=s, pairs=os.path.basename(options.pairs), init=os.path.basename(options.init) if options.init else None,
        total_steps=total, losses=losses, learning_rates=rates)
    with open(options.out, "w") as f:
        json.dump(runs, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
