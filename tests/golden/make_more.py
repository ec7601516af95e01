#!/usr/bin/env python3
"""Makes what make_reference.py leaves out: more.safetensors, words.safetensors, and three small model folders in
Hugging Face's layout (llama3-rope, tied, wide-heads). Run it after make_reference.py: it reads tiny-llama/ and replaces
its own part of README.md. CPU only, a few seconds.

    python make_more.py

The float64 numbers come from the plain functions below. transformers and PEFT, in float32, are only compared with.
"""
import json
import math
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from make_reference import relerr, rms, rot

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 20240608
PROJECTIONS = {"self_attn": ["q_proj", "k_proj", "v_proj", "o_proj"], "mlp": ["gate_proj", "up_proj", "down_proj"]}
MARGIN, TEMPERATURE, RANK, ALPHA = 0.4, 0.05, 4, 8

BASE = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", attention_bias=False,
            mlp_bias=False, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5, num_hidden_layers=2, use_cache=False)
CONFIGS = {
    # Llama 3.1's own layout: rope_theta at the top, rope_scaling beside it, torch_dtype, no head_dim. Of the 16
    # frequencies, 2 are kept (wavelength below 96 / 4), 2 are blended, 12 are divided by 8 (above 96 / 1).
    "llama3-rope": dict(BASE, hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1,
                        vocab_size=128, max_position_embeddings=768, tie_word_embeddings=False, rope_theta=500000.0,
                        rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                          original_max_position_embeddings=96, rope_type="llama3"),
                        torch_dtype="bfloat16"),
    "tied": dict(BASE, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                 vocab_size=128, max_position_embeddings=256, tie_word_embeddings=True,
                 rope_parameters=dict(rope_theta=10000.0, rope_type="default"), dtype="float32"),
    # head_dim is given, and is not hidden_size / num_attention_heads; hidden_size is no multiple of 16.
    "wide-heads": dict(BASE, hidden_size=40, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2,
                       head_dim=16, vocab_size=72, max_position_embeddings=256, tie_word_embeddings=False,
                       rope_parameters=dict(rope_theta=10000.0, rope_type="default"), dtype="bfloat16"),
}


# ------------------------------------------------------------------ the independent implementation
def inverse_frequencies(cfg):
    d = cfg.get("head_dim") or cfg["hidden_size"] // cfg["num_attention_heads"]
    theta = cfg.get("rope_theta") or cfg["rope_parameters"]["rope_theta"]
    inv = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    s = cfg.get("rope_scaling")
    if s is None:
        return inv
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    out = []
    for f in inv.tolist():
        turns = s["original_max_position_embeddings"] * f / (2 * math.pi)  # within the original context
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(share * f + (1 - share) * f / s["factor"])
    return torch.tensor(out, dtype=torch.float64)


def llama(cfg, P, ids, lora={}, layers=None):
    """One sequence of ids. P: weights by Hugging Face name. lora: {name of a weight: (A, B)}.
    Returns (hidden(0) .. hidden(layers), logits of the final norm, or None where layers are left out)."""
    nh, nk, eps = cfg["num_attention_heads"], cfg["num_key_value_heads"], cfg["rms_norm_eps"]
    d = cfg.get("head_dim") or cfg["hidden_size"] // nh
    S = len(ids)
    x = P["model.embed_tokens.weight"][ids]
    angle = torch.outer(torch.arange(S, dtype=torch.float64), inverse_frequencies(cfg)).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    hidden = [x]
    for l in range(cfg["num_hidden_layers"] if layers is None else layers):
        p = f"model.layers.{l}."

        def lin(y, name):
            o = y @ P[p + name + ".weight"].T
            if p + name in lora:
                a, b = lora[p + name]
                o = o + (y @ a.T) @ b.T * (ALPHA / RANK)
            return o

        y = rms(x, P[p + "input_layernorm.weight"], eps)
        q, k, v = (lin(y, f"self_attn.{n}_proj").view(S, -1, d).transpose(0, 1) for n in "qkv")
        q, k = rot(q, cos, sin), rot(k, cos, sin)
        k, v = k.repeat_interleave(nh // nk, 0), v.repeat_interleave(nh // nk, 0)
        s = (q @ k.transpose(-1, -2) / d ** 0.5).masked_fill(~causal, float("-inf"))
        o = (torch.softmax(s, -1) @ v).transpose(0, 1).reshape(S, nh * d)
        x = x + lin(o, "self_attn.o_proj")
        y = rms(x, P[p + "post_attention_layernorm.weight"], eps)
        x = x + lin(F.silu(lin(y, "mlp.gate_proj")) * lin(y, "mlp.up_proj"), "mlp.down_proj")
        hidden.append(x)
    if layers is not None:
        return hidden, None
    head = P["model.embed_tokens.weight" if cfg["tie_word_embeddings"] else "lm_head.weight"]
    return hidden, rms(x, P["model.norm.weight"], eps) @ head.T


def lm_loss(cfg, P, sequences, labels):
    """Mean over all labels that are not -100 of -log p(label of t+1 | tokens up to t)."""
    terms = []
    for ids, label in zip(sequences, labels):
        logp = torch.log_softmax(llama(cfg, P, ids)[1], -1)
        terms += [-logp[t, label[t + 1]] for t in range(len(ids) - 1) if label[t + 1] != -100]
    return torch.stack(terms).mean()


def mean_no_sink(h):
    return h[1:].mean(0) if len(h) > 1 else h[0]


def cosines(anchor, positive):
    unit = lambda x: x / x.pow(2).sum(-1, keepdim=True).sqrt()  # noqa: E731
    return unit(anchor) @ unit(positive).T


def directions(loss, s, excluded, both):
    forward = loss(s, excluded)
    return (forward + loss(s.T, excluded.T)) / 2 if both else forward


def infonce(s, excluded):
    n = len(s)
    total = 0.0
    for i in range(n):
        kept = [j for j in range(n) if j == i or not excluded[i, j]]
        total = total + torch.logsumexp(s[i, kept] / TEMPERATURE, 0) - s[i, i] / TEMPERATURE
    return total / n


def hardest(s, excluded):
    n = len(s)
    total = 0.0
    for i in range(n):
        negatives = [s[i, j] for j in range(n) if j != i and not excluded[i, j]]
        if negatives:
            total = total + torch.relu(MARGIN + torch.stack(negatives).max() - s[i, i])
    return total / n


# ------------------------------------------------------------------ helpers
def narrow(x):
    """Values that bfloat16 holds exactly, as float32."""
    return x.to(torch.bfloat16).float()


def leaves(P):
    return {n: t.double().clone().requires_grad_(True) for n, t in P.items()}


def gradients(loss, P):
    g = torch.autograd.grad(loss, list(P.values()), allow_unused=True)
    return {n: None if d is None else d.detach() for n, d in zip(P, g)}


def padded(sequences, fill):
    rows = torch.full((len(sequences), max(map(len, sequences))), fill)
    for row, s in zip(rows, sequences):
        row[: len(s)] = s
    return rows


def random_weights(cfg, g):
    h, i, v = cfg["hidden_size"], cfg["intermediate_size"], cfg["vocab_size"]
    d = cfg.get("head_dim") or h // cfg["num_attention_heads"]
    q, kv = cfg["num_attention_heads"] * d, cfg["num_key_value_heads"] * d
    shapes = {"model.embed_tokens.weight": (v, h), "model.norm.weight": (h,)}
    if not cfg["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (v, h)
    for l in range(cfg["num_hidden_layers"]):
        block = {"input_layernorm": (h,), "post_attention_layernorm": (h,), "self_attn.q_proj": (q, h),
                 "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, q),
                 "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i)}
        shapes |= {f"model.layers.{l}.{n}.weight": s for n, s in block.items()}

    def draw(name, shape):
        if len(shape) == 1:
            return 1 + 0.2 * torch.randn(shape, generator=g)
        return torch.randn(shape, generator=g) * (0.5 if "embed" in name else shape[1] ** -0.5)

    return {n: narrow(draw(n, s)) for n, s in sorted(shapes.items())}


def save_model(name, cfg, P):
    """bfloat16 in one file, or float32 in two shards with an index."""
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(cfg, f, indent=2)
        f.write("\n")
    meta = {"format": "pt"}
    if "bfloat16" in (cfg.get("dtype"), cfg.get("torch_dtype")):
        save_file({n: t.bfloat16() for n, t in P.items()}, os.path.join(folder, "model.safetensors"), meta)
        return
    shards = {n: f"model-0000{1 + ('layers.1.' in n or n == 'model.norm.weight')}-of-00002.safetensors" for n in P}
    for file in sorted(set(shards.values())):
        save_file({n: P[n] for n in P if shards[n] == file}, os.path.join(folder, file), meta)
    total = sum(t.numel() * 4 for t in P.values())
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": shards}, f, indent=2)
        f.write("\n")


def transformers_model(name):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(os.path.join(HERE, name), dtype=torch.float32,
                                                attn_implementation="eager").eval()


class Report(dict):
    def compare(self, what, found, expected, bound):
        error = max(relerr(found[k].detach(), expected[k].detach()) for k in expected)
        assert error < bound, (what, error)
        self[what] = error


# ------------------------------------------------------------------ the cases
def llama3_rope(g, out, report):
    name, cfg = "llama3-rope", CONFIGS["llama3-rope"]
    P = random_weights(cfg, g)
    save_model(name, cfg, P)
    ids = torch.randint(3, cfg["vocab_size"], (60,), generator=g)
    hidden, logits = llama(cfg, {n: t.double() for n, t in P.items()}, ids)
    golden = {f"{name}.hidden.{i}": h for i, h in enumerate(hidden)}
    out |= golden | {f"{name}.input_ids": ids, f"{name}.inverse_frequencies": inverse_frequencies(cfg)}
    hf = transformers_model(name)
    assert hf.config.rope_parameters["rope_type"] == "llama3"
    with torch.no_grad():
        o = hf(input_ids=ids[None], output_hidden_states=True)
    # transformers' last hidden state is normed; the logits stand for it.
    found = {k: h[0] for k, h in zip(golden, o.hidden_states[:-1])} | {"logits": o.logits[0]}
    golden.popitem()
    report.compare(f"{name}: transformers float32", found, golden | {"logits": logits}, 5e-6)
    inv = inverse_frequencies(cfg)
    report.compare(f"{name}: inverse frequencies", {"": hf.model.rotary_emb.inv_freq}, {"": inv}, 1e-6)
    plain = llama(dict(cfg, rope_scaling=None), {n: t.double() for n, t in P.items()}, ids)[0][-1]
    print(f"{name}: without the scaling hidden(2) would be off by {relerr(plain, hidden[-1]):.1e}")


def language_model(name, lengths, keep, g, out, report):
    """Loss of padded sequences, hidden states, and those gradients that `keep` names."""
    cfg = CONFIGS[name]
    P = random_weights(cfg, g)
    save_model(name, cfg, P)
    sequences = [torch.randint(3, cfg["vocab_size"], (n,), generator=g) for n in lengths]
    labels = [s.clone() for s in sequences]
    labels[0][3:5] = -100  # a gap, as a prompt would leave one
    P64 = leaves(P)
    loss = lm_loss(cfg, P64, sequences, labels)
    grads = gradients(loss, P64)
    ids, mask = padded(sequences, 0), padded([torch.ones_like(s) for s in sequences], 0)
    out |= {f"{name}.input_ids": ids, f"{name}.attention_mask": mask, f"{name}.labels": padded(labels, -100),
            f"{name}.loss": loss.reshape(1)}
    out |= {f"{name}.grad.{n}": d.float() for n, d in grads.items() if keep(n)}
    hidden = [llama(cfg, P64, s)[0] for s in sequences]
    for i in range(cfg["num_hidden_layers"] + 1):
        out[f"{name}.hidden.{i}"] = torch.cat([h[i] for h in hidden])
    hf = transformers_model(name)
    o = hf(input_ids=ids, attention_mask=mask, labels=padded(labels, -100))
    o.loss.backward()
    report.compare(f"{name}: loss, transformers float32", {"": o.loss.reshape(1)}, {"": loss.reshape(1)}, 5e-6)
    found = {n: p.grad for n, p in hf.named_parameters()}
    report.compare(f"{name}: gradients, transformers float32", found, grads, 2e-5)


def in_batch(g, out, report):
    n, h = 7, 20
    anchor = torch.randn(n, h, generator=g)
    # From far apart to nearly equal, so that some hinges are open and some are closed.
    share = torch.linspace(0, 0.97, n)[:, None]
    positive = narrow(3 * (share * anchor + (1 - share) * torch.randn(n, h, generator=g)))
    anchor = narrow(anchor)
    excluded = torch.rand(n, n, generator=g) < 0.3
    excluded[2] = True  # no negatives in row 2
    none = torch.zeros_like(excluded)
    out |= {"in_batch.anchor": anchor, "in_batch.positive": positive, "in_batch.excluded": excluded.to(torch.uint8)}
    for loss in (hardest, infonce):
        for both in (False, True):
            for mask in (none, excluded):
                leaf = leaves({"anchor": anchor, "positive": positive})
                s = cosines(leaf["anchor"], leaf["positive"])
                value = directions(loss, s, mask, both)
                grads = gradients(value, leaf)
                words = ["in_batch", loss.__name__, "both" if both else "forward", *["excluded"] * (mask is excluded)]
                name = ".".join(words)
                out |= {f"{name}.loss": value.reshape(1), f"{name}.danchor": grads["anchor"],
                        f"{name}.dpositive": grads["positive"]}
                if loss is infonce and mask is none:
                    logits = F.normalize(anchor) @ F.normalize(positive).T / TEMPERATURE
                    sides = [logits, logits.T] if both else [logits]
                    library = torch.stack([F.cross_entropy(l, torch.arange(n)) for l in sides]).mean()
                    report.compare(f"{name}: torch cross_entropy", {"": library}, {"": value}, 2e-6)


def word_pairs(g, out, report):
    """tiny-llama on 4 word pairs: InfoNCE, both ways, over mean-no-sink pooled hidden(2)."""
    from peft import LoraConfig, get_peft_model
    with open(os.path.join(HERE, "tiny-llama", "config.json")) as f:
        cfg = json.load(f)
    W = load_file(os.path.join(HERE, "tiny-llama", "model.safetensors"))
    lengths = (1, 4, 2, 8, 3, 1, 7, 5)  # four anchors, then their positives
    words = [torch.randint(3, cfg["vocab_size"], (n,), generator=g) for n in lengths]
    none = torch.zeros(4, 4, dtype=torch.bool)

    def loss_of(states):
        e = torch.stack([mean_no_sink(h) for h in states])
        return directions(infonce, cosines(e[:4], e[4:]), none, True), e

    factors = {}
    for l in (0, 1):
        for part, names in PROJECTIONS.items():
            for p in names:
                rows, columns = W[f"model.layers.{l}.{part}.{p}.weight"].shape
                factors[f"model.layers.{l}.{part}.{p}.lora_A"] = narrow(0.1 * torch.randn(RANK, columns, generator=g))
                factors[f"model.layers.{l}.{part}.{p}.lora_B"] = narrow(0.1 * torch.randn(rows, RANK, generator=g))
    P = {n: t.double() for n, t in W.items()}
    AB = leaves(factors)
    lora = {n.removesuffix(".lora_A"): (AB[n], AB[n.replace("lora_A", "lora_B")]) for n in AB if n.endswith("lora_A")}
    loss, embeddings = loss_of([llama(cfg, P, w, lora, 2)[0][2] for w in words])
    grads = gradients(loss, AB)
    ids = padded(words, 0)
    out |= {"input_ids": ids, "lengths": torch.tensor(lengths),
            "lora.loss": loss.reshape(1), "lora.embeddings": embeddings}
    out |= {f"lora.{n}.weight": t for n, t in factors.items()}
    out |= {f"lora.{n}.grad": d.float() for n, d in grads.items()}

    full = leaves(W)
    loss_full, embeddings = loss_of([llama(cfg, full, w, {}, 2)[0][2] for w in words])
    grads_full = {n: d for n, d in gradients(loss_full, full).items() if d is not None}
    rows = torch.unique(torch.cat(words))
    assert grads_full["model.embed_tokens.weight"].norm() == grads_full["model.embed_tokens.weight"][rows].norm()
    out |= {"full.loss": loss_full.reshape(1), "full.embeddings": embeddings,
            "full.embed_tokens.rows": rows,
            "full.embed_tokens.grad": grads_full["model.embed_tokens.weight"][rows].float()}
    out |= {f"full.{n}.grad": d.float() for n, d in grads_full.items() if ".layers." in n}

    def run(model):
        return loss_of([model(input_ids=w[None], output_hidden_states=True).hidden_states[2][0] for w in words])[0]

    hf = transformers_model("tiny-llama")
    l32 = run(hf)
    l32.backward()
    report.compare("words, full: loss, transformers float32", {"": l32.reshape(1)}, {"": loss_full.reshape(1)}, 2e-6)
    found = {n: p.grad for n, p in hf.named_parameters()}
    report.compare("words, full: gradients, transformers float32", found, grads_full, 2e-5)
    names = [p for part in PROJECTIONS.values() for p in part]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=names,
                        layers_to_transform=[0, 1], task_type="CAUSAL_LM")
    peft = get_peft_model(transformers_model("tiny-llama"), config).eval()
    mine = {n.replace("base_model.model.", "").replace(".default.weight", ""): p
            for n, p in peft.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for n, p in mine.items():
            p.copy_(factors[n])
    l32 = run(peft)
    l32.backward()
    report.compare("words, LoRA: loss, PEFT float32", {"": l32.reshape(1)}, {"": loss.reshape(1)}, 2e-6)
    report.compare("words, LoRA: gradients, PEFT float32", {n: p.grad for n, p in mine.items()}, grads, 2e-5)


def adamw(g, out, report):
    """torch.optim.AdamW itself, in float64: five steps at changing learning rates, gradients of every magnitude."""
    n, rates = 257, [2e-4, 1e-3, 5e-4, 2e-2, 0.0]
    settings = dict(betas=(0.8, 0.999), eps=1e-6, weight_decay=0.1)
    w0 = torch.randn(n, generator=g)
    grads = torch.randn(len(rates), n, generator=g) * 10.0 ** torch.linspace(-9, 3, n)
    grads[:, 5] = 0.0
    for dtype in (torch.float64, torch.float32):
        w = w0.to(dtype).clone().requires_grad_(True)
        optimizer = torch.optim.AdamW([w], foreach=False, fused=False, **settings)
        for lr, d in zip(rates, grads):
            optimizer.param_groups[0]["lr"] = lr
            w.grad = d.to(dtype)
            optimizer.step()
        state = optimizer.state[w]
        result = {"adamw.w": w.detach(), "adamw.m": state["exp_avg"], "adamw.v": state["exp_avg_sq"]}
        if dtype == torch.float64:
            out |= result | {"adamw.w0": w0, "adamw.gradients": grads, "adamw.lr": torch.tensor(rates, dtype=dtype)}
        else:
            report.compare("adamw: torch float32", result, {k: out[k] for k in result}, 1e-6)


# ------------------------------------------------------------------ what is written
def readme(report):
    lines = [README]
    lines += [f"- {what}: {error:.1e}" for what, error in report.items()]
    sizes = {p: os.path.getsize(os.path.join(HERE, p)) for p in FILES}
    for p in FILES:
        tensors = load_file(os.path.join(HERE, p))
        lines += ["", f"### {p} ({sizes[p]:,} bytes)", "", "| tensor | shape | dtype |", "| --- | --- | --- |"]
        for n, t in sorted(tensors.items()):
            lines.append(f"| {n} | {list(t.shape)} | {str(t.dtype).removeprefix('torch.')} |")
    path = os.path.join(HERE, "README.md")
    with open(path) as f:
        before = f.read().split(README.split("\n")[0])[0].rstrip()
    with open(path, "w") as f:
        f.write(before + "\n\n" + "\n".join(lines) + "\n")
    return sizes


FILES = ["more.safetensors", "words.safetensors", "llama3-rope/model.safetensors",
         "tied/model-00001-of-00002.safetensors", "tied/model-00002-of-00002.safetensors",
         "wide-heads/model.safetensors"]

README = f"""# More reference data, made by make_more.py

`python make_more.py`, after make_reference.py (which rewrites the part above and drops this one). Seed {SEED}. All
results are computed in float64; gradients named `grad` are stored rounded to float32. Inputs are exact in bfloat16,
but for those of `adamw`. "Padded" ids are [sequences, longest], filled with 0.

Model folders, random weights exact in bfloat16:

- `llama3-rope/`: 2 blocks, hidden 64, 2 heads of 32, 1 key/value head; config in Llama 3.1's layout (`rope_theta` and
  `rope_scaling` at the top level, `torch_dtype`, no `head_dim`), llama3 scaling by 8 over an original context of 96:
  of 16 frequencies 2 are kept, 2 blended, 12 divided. One bfloat16 file.
- `tied/`: 2 blocks, hidden 32, 4 heads of 8, 2 key/value heads, `tie_word_embeddings`, no lm_head tensor. float32, two
  shards and an index.
- `wide-heads/`: 2 blocks, hidden 40 (no multiple of 16), 4 heads of `head_dim` 16 (hidden / heads would be 10), 2
  key/value heads: q_proj is [64, 40], o_proj [40, 64]. One bfloat16 file.

`more.safetensors`:

- `llama3-rope.*`: one sequence of 60 tokens; `hidden.0..2` [60, 64] before the final norm; `inverse_frequencies` [16].
- `tied.*`, `wide-heads.*`: padded `input_ids`, `attention_mask` and `labels` (-100: not counted) of 2 sequences;
  `loss`: mean over counted labels of the cross-entropy of token t+1; `hidden.0..2` [tokens, hidden], without pads;
  `grad.NAME`: d loss / d weight (`tied`: every weight, the embedding's being the sum of both uses; `wide-heads`: the
  attention of block 0).
- `in_batch.*`: losses over `anchor` and `positive` [7, 20], not of unit length: `hardest` (triplet, margin {MARGIN})
  and `infonce` (temperature {TEMPERATURE}), `forward` (rows) and `both`, plain and with `excluded` [7, 7] (row 2 has no
  negatives): `loss`, and `danchor`, `dpositive`, the gradients through the normalisation.
- `adamw.*`: torch.optim.AdamW, betas 0.8 and 0.999, eps 1e-6, weight decay 0.1: `w0` [257] after five steps with
  `gradients` [5, 257] (1e-9 to 1e3; element 5 has none) at learning rates `lr` [5]: `w`, and the moments `m`, `v`.

`words.safetensors`:

- tiny-llama on 4 word pairs of 1 to 8 tokens (padded `input_ids` [8, 8], `lengths`; rows 0..3 are anchors, 4..7 their
  positives): mean of hidden(2) without position 0 (a lone token is kept) as `embeddings` [8, 64], symmetric InfoNCE at
  temperature {TEMPERATURE}.
- `lora.*`: rank {RANK}, alpha {ALPHA}, on all seven projections of blocks 0 and 1: `loss`, factors
  (`NAME.lora_A.weight`) and gradients (`NAME.lora_A.grad`).
- `full.*`: no adapters, gradients of every weight of blocks 0 and 1, and of the embedding for the token ids in
  `embed_tokens.rows` (zero for all others).

Agreement when this was made (relative error, worst tensor, against float64):
"""


def main():
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(SEED)
    more, words, report = {}, {}, Report()
    llama3_rope(g, more, report)
    language_model("tied", (12, 7), lambda n: True, g, more, report)
    language_model("wide-heads", (13, 6), lambda n: "layers.0.self_attn" in n, g, more, report)
    in_batch(g, more, report)
    word_pairs(g, words, report)
    adamw(g, more, report)
    for name, tensors in (("more", more), ("words", words)):
        tensors = {n: t.detach().contiguous() for n, t in sorted(tensors.items())}
        save_file(tensors, os.path.join(HERE, name + ".safetensors"))
    for p in FILES:
        os.chmod(os.path.join(HERE, p), 0o644)
    sizes = readme(report)
    for what, error in report.items():
        print(f"{what}: {error:.1e}")
    print(sizes, f"all {sum(sizes.values()):,}")
    assert max(sizes.values()) < 600_000 and sum(sizes.values()) < 1_400_000, sizes


if __name__ == "__main__":
    main()
