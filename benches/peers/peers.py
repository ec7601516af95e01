#!/usr/bin/env python3
"""Times what people use today on the same GPU, at the shapes of `cargo bench`.

    python3 benches/peers/peers.py --json peers.json [OP...]
    cargo bench -- --peers peers.json --json benches/results/h100.json

Needs torch; bitsandbytes and liger-kernel where installed; `load`, `embed` and the steps need transformers and --checkpoint DIR, a
Llama's folder, as `kiungo random --model llama-3-8b --output DIR` writes one; `word-step` needs peft and bitsandbytes too. Method as in benches/harness.rs: standard normal data, caches
flushed by reading before every run, CUDA events, the median of 21 runs; what takes less than 0.3 ms by what a graph of
12 flushes and runs takes more than one of 12 flushes. Of several peers for one op the fastest is kept.
"""
import argparse
import gc
import json
import time

import torch
import torch.nn.functional as F

RUNS, WARM_UPS = 21, 3
SHORT_MS, REPEATS, REPLAYS = 0.3, 12, 7
BF16 = torch.bfloat16
# Of the 16 words in benches/step/word.rs, on average.
PAPER_TOKENS = 71
WEIGHTS = [("q/o", 4096, 4096), ("k/v", 1024, 4096), ("gate/up", 14336, 4096), ("down", 4096, 14336), ("head", 128256, 4096)]
ROWS = []


def optional(name):
    try:
        return __import__(name, fromlist=["_"])
    except Exception as error:  # a broken installation is as good as none
        print(f"without {name}: {error}")
        return None


def normal(*shape, dtype=BF16):
    return torch.randn(*shape, device="cuda", dtype=dtype)


def time_ms(run, runs=RUNS):
    """Milliseconds on the GPU, which has rested as it has in benches/harness.rs. The pause in the loop lets the host queue the work
    that is timed."""
    torch.cuda.synchronize()
    time.sleep(0.1)
    times = []
    for i in range(WARM_UPS + runs):
        FLUSH.sum()
        torch.cuda._sleep(200_000)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        if i >= WARM_UPS:
            times.append((start, end))
    torch.cuda.synchronize()
    took = sorted(s.elapsed_time(e) for s, e in times)
    ms = took[runs // 2]
    # By the shortest: where the host is slow to launch, the median is of its time and not of the GPU's.
    if took[0] < SHORT_MS:
        try:
            return (graph_ms(run) - graph_ms(lambda: None)) / REPEATS
        except Exception as error:
            print(f"no graph, timed by events: {str(error).splitlines()[0]}")
            torch.cuda.synchronize()
    return ms


def graph_ms(run):
    """Milliseconds of a graph of flushes and runs."""
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        for _ in range(REPEATS):
            FLUSH.sum()
            run()
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[REPLAYS // 2]


def add(op, variant, shape, peer, run, runs=RUNS):
    try:
        ms = time_ms(run, runs)
    except Exception as error:
        print(f"{op} {variant} {shape}: {peer} fails: {str(error).splitlines()[0]}")
        return
    m, n, k = shape
    row = {"op": op, "variant": variant, "shape": {"m": m, "n": n, "k": k}, "peer": peer, "ms": ms}
    same = [i for i, r in enumerate(ROWS) if (r["op"], r["variant"], r["shape"]) == (op, variant, row["shape"])]
    if not same:
        ROWS.append(row)
    elif ROWS[same[0]]["ms"] > ms:
        ROWS[same[0]] = row
    print(f"{op:12} {variant:24} {m:6} {n:7} {k:6} {peer:22} {ms:10.4f} ms", flush=True)


def gemm():
    for name, outputs, inputs in WEIGHTS:
        weight = normal(outputs, inputs)
        for tokens in (1, 16, 64, 128, 512, 768, 1024, 4096, 16384):
            if outputs * tokens > 1 << 30:
                continue
            x, dy = normal(tokens, inputs), normal(tokens, outputs)
            y, dx, dw = torch.empty_like(dy), torch.empty_like(x), torch.empty_like(weight)
            shape = (tokens, outputs, inputs)
            add("gemm", f"{name} nt", shape, "cuBLAS", lambda: torch.matmul(x, weight.t(), out=y))
            add("gemm", f"{name} nn", shape, "cuBLAS", lambda: torch.matmul(dy, weight, out=dx))
            if tokens >= 64:
                add("gemm", f"{name} tn", shape, "cuBLAS", lambda: torch.matmul(dy.t(), x, out=dw))
            del x, dy, y, dx, dw
        del weight


def nf4():
    bnb = optional("bitsandbytes")
    if bnb is None:
        return
    functional = bnb.functional
    n, k = 14336, 4096
    weight = normal(n, k)
    for suffix, double in (("", False), (" double", True)):
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
        add("nf4", f"quantize{suffix}", (0, n, k), "bitsandbytes", lambda: functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double))
        add("nf4", f"dequantize{suffix}", (0, n, k), "bitsandbytes", lambda: functional.dequantize_4bit(codes, state))


def linear():
    bnb = optional("bitsandbytes")
    if bnb is None:
        return
    functional = bnb.functional
    n, k = 14336, 4096
    weight = normal(n, k)
    codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=False)
    dense = torch.empty_like(weight)

    def dequantize_then(product):
        functional.dequantize_4bit(codes, state, out=dense)
        product()

    for tokens in (1, 16, 64, 512, 4096):
        x, dy = normal(tokens, k), normal(tokens, n)
        y, dx = torch.empty_like(dy), torch.empty_like(x)
        add("linear", "nf4", (tokens, n, k), "bitsandbytes", lambda: bnb.matmul_4bit(x, codes.t(), quant_state=state))
        add("linear", "nf4", (tokens, n, k), "bitsandbytes + cuBLAS", lambda: dequantize_then(lambda: torch.matmul(x, dense.t(), out=y)))
        add("linear", "nf4 dx", (tokens, n, k), "bitsandbytes + cuBLAS", lambda: dequantize_then(lambda: torch.matmul(dy, dense, out=dx)))


def rmsnorm():
    liger = optional("liger_kernel.ops.rms_norm")
    for tokens in (768, 16384):
        x, dy, weight = normal(tokens, 4096), normal(tokens, 4096), normal(4096)
        if liger:
            y, x2, r, block, warps, mode = liger.rms_norm_forward(x, weight, 1e-5, 0.0, "llama", None)
            add("rmsnorm", "forward", (tokens, 4096, 0), "Liger", lambda: liger.rms_norm_forward(x, weight, 1e-5, 0.0, "llama", None))
            add("rmsnorm", "backward", (tokens, 4096, 0), "Liger", lambda: liger.rms_norm_backward(dy, x2, weight, r, 0.0, mode, block, warps, False, None))
        add("rmsnorm", "forward", (tokens, 4096, 0), "torch", lambda: F.rms_norm(x, (4096,), weight, 1e-5))


def swiglu():
    liger = optional("liger_kernel.ops.swiglu")
    if liger is None:
        return
    for tokens in (768, 4096):
        gate, up, dy = (normal(tokens, 14336) for _ in range(3))
        add("swiglu", "forward", (tokens, 14336, 0), "Liger", lambda: liger.swiglu_forward(gate, up))
        # It overwrites gate and up with their gradients, which keeps the work the same.
        add("swiglu", "backward", (tokens, 14336, 0), "Liger", lambda: liger.swiglu_backward(gate, up, dy))


def rope():
    liger = optional("liger_kernel.ops.rope")
    if liger is None:
        return
    for tokens in (768, 16384):
        q, k = normal(1, 32, tokens, 128), normal(1, 8, tokens, 128)
        q, k = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k))
        cos, sin = normal(1, tokens, 128), normal(1, tokens, 128)
        add("rope", "q and k", (tokens, 5120, 0), "Liger", lambda: liger.rope_forward(q, k, cos, sin))


def adamw():
    count = 1 << 28
    for name, dtype in (("f32 states", torch.float32), ("bf16 states", BF16)):
        weight = torch.nn.Parameter(normal(count // 4096, 4096, dtype=dtype))
        weight.grad = normal(count // 4096, 4096, dtype=dtype)
        optimizer = torch.optim.AdamW([weight], lr=1e-4, fused=True)
        add("adamw", name, (0, count // 4096, 4096), "torch fused", optimizer.step, 9)
        del weight, optimizer
    bnb = optional("bitsandbytes")
    if bnb:
        weight = torch.nn.Parameter(normal(count // 4096, 4096))
        weight.grad = normal(count // 4096, 4096)
        optimizer = bnb.optim.AdamW8bit([weight], lr=1e-4)
        add("adamw", "8-bit states", (0, count // 4096, 4096), "bitsandbytes", optimizer.step, 9)


def attention():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for dim in (64, 128):
        for length in (2048, 4096, 8192):
            batch = 16384 // length
            q = normal(batch, 32, length, dim).requires_grad_()
            k, v = (normal(batch, 8, length, dim).requires_grad_() for _ in range(2))
            for peer, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention 2", SDPBackend.FLASH_ATTENTION)):
                def forward():
                    with sdpa_kernel(backend):
                        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

                shape = (16384, length, dim)
                try:
                    o = forward()
                except Exception as error:
                    print(f"attention {shape}: {peer} fails: {str(error).splitlines()[0]}")
                    continue
                d_o = torch.randn_like(o)
                add("attention", "forward", shape, peer, forward)
                add("attention", "backward", shape, peer, lambda: torch.autograd.grad(o, (q, k, v), d_o, retain_graph=True))


def add_job(op, variant, shape, peer, run, runs=3):
    """A whole job by the clock on the wall, after a first time."""
    times = []
    try:
        for _ in range(runs + 1):
            start = time.perf_counter()
            result = run()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e3)
            del result
            torch.cuda.empty_cache()
    except Exception as error:
        print(f"{op} {variant} {shape}: {peer} fails: {str(error).splitlines()[0]}")
        return
    ms = sorted(times[1:])[runs // 2]
    m, n, k = shape
    ROWS.append({"op": op, "variant": variant, "shape": {"m": m, "n": n, "k": k}, "peer": peer, "ms": ms})
    print(f"{op:12} {variant:24} {m:6} {n:7} {k:6} {peer:22} {ms:10.1f} ms", flush=True)


def pretrained(kind, base, layers=None):
    """How users load a model; of its lowest layers alone, how careful ones do."""
    import transformers

    options = {} if layers is None else {"config": transformers.AutoConfig.from_pretrained(CHECKPOINT, num_hidden_layers=layers)}
    options |= {"dtype": BF16, "device_map": {"": 0}, "attn_implementation": "sdpa"}
    if base == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=BF16)
    return getattr(transformers, kind).from_pretrained(CHECKPOINT, **options)


def load():
    if CHECKPOINT is None or optional("transformers") is None:
        return print("load: skipped without --checkpoint DIR and transformers")
    config = json.load(open(f"{CHECKPOINT}/config.json"))
    shape = (config["num_hidden_layers"], config["hidden_size"], 0)
    for base in ("nf4", "bf16"):
        add_job("load", base, shape, "transformers", lambda: pretrained("AutoModelForCausalLM", base))


@torch.no_grad()
def embed():
    """As careful users do it: sorted by length, padded to the longest of a batch, mean over the tokens on the GPU."""
    if CHECKPOINT is None or optional("transformers") is None:
        return print("embed: skipped without --checkpoint DIR and transformers")
    lengths = [100 + i * 7919 % 201 for i in range(1600)]
    for base in ("nf4", "bf16"):
        model = pretrained("AutoModel", base).eval()
        config = model.config
        passages = [torch.randint(config.vocab_size, (n,)) for n in sorted(lengths)]
        tokens, blocks = sum(lengths), config.num_hidden_layers
        for batch in (16, 32, 64):

            def run():
                vectors = []
                for at in range(0, len(passages), batch):
                    texts = passages[at : at + batch]
                    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).cuda()
                    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in texts], batch_first=True).cuda()
                    states = model(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
                    mean = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
                    vectors.append(F.normalize(mean).cpu())
                return torch.cat(vectors)

            add_job("embed", base, (tokens, config.hidden_size, blocks), f"transformers, {batch} a batch", run, 1)
        del model
        torch.cuda.empty_cache()
    fastest = {}
    for row in [r for r in ROWS if r["op"] == "embed"]:
        fastest[row["variant"]] = min(row, fastest.get(row["variant"], row), key=lambda r: r["ms"])
    ROWS[:] = [r for r in ROWS if r["op"] != "embed"] + list(fastest.values())


class Steps:
    """Times training steps, with the memory of the card that they take at most."""

    def __init__(self, op, variant, shape, peer):
        self.row = {"op": op, "variant": variant, "shape": dict(zip("mnk", shape)), "peer": peer}

    def run(self, make, warm_ups=5, runs=15):
        gc.collect()  # hooks and their model hold each other
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step, times = make(), []
            for i in range(warm_ups + runs):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                step()
                end.record()
                end.synchronize()
                if i >= warm_ups:
                    times.append(start.elapsed_time(end))
        except Exception as error:
            return print(f"{self.row['op']} {self.row['variant']}: {self.row['peer']} fails: {str(error).splitlines()[0]}")
        memory = torch.cuda.max_memory_allocated() / 1e9
        ROWS.append(self.row | {"ms": sorted(times)[runs // 2], "memory_gb": memory})
        print(f"{self.row['op']:12} {self.row['variant']:24} {self.row['peer']:40} {ROWS[-1]['ms']:10.3f} ms {memory:6.1f} GB", flush=True)


def triplet(a, b, margin=0.4):
    """The loss of arXiv 2506.15415, with the hardest negative of the batch."""
    cosines = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).t()
    others = cosines.masked_fill(torch.eye(len(cosines), dtype=torch.bool, device=cosines.device), -2.0)
    return F.relu(margin - cosines.diagonal() + others.max(dim=1).values).mean()


def words(pairs, lengths, vocabulary):
    """Both sides of pairs of random words, padded; their masks."""
    longest = max(lengths)
    tokens = torch.tensor([lengths[i % len(lengths)] for i in range(2 * pairs)])
    mask = (torch.arange(longest)[None] < tokens[:, None]).long()
    return torch.randint(vocabulary, (2 * pairs, longest)).cuda(), mask.cuda(), int(tokens.sum())


def mean(states, mask):
    return (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]


def word_step():
    """Adapters of rank 16 on q and v over NF4: the whole model in three calls and in one, as users write it, and the model cut by
    hand to the blocks that are needed."""
    peft, transformers = optional("peft"), optional("transformers")
    if CHECKPOINT is None or peft is None or transformers is None or optional("bitsandbytes") is None:
        return print("word-step: skipped without --checkpoint DIR, transformers, peft and bitsandbytes")
    config = transformers.AutoConfig.from_pretrained(CHECKPOINT)
    sizes = config.hidden_size, config.intermediate_size
    cases = [("96x8-nf4", 48, [8], [0, 1], 2), ("paper-batch", 8, [1, 2, 3, 4, 5, 6, 7, 8], [0, 1], 2), ("literal", 48, [8], [2], 3)]
    for variant, pairs, lengths, blocks, target in cases:
        ids, mask, tokens = words(pairs, lengths, config.vocab_size)

        def make(calls, layers):
            model = pretrained("AutoModel", "nf4", layers)
            adapter = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=rf"layers\.({'|'.join(map(str, blocks))})\.self_attn\.[qv]_proj")
            cut = layers is not None
            if cut:
                model.norm = torch.nn.Identity()
            model = peft.get_peft_model(model, adapter).train()
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

            def states(ids, mask):
                out = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=not cut)
                return mean(out.last_hidden_state if cut else out.hidden_states[target], mask)

            def step():
                with torch.autocast("cuda", BF16):
                    if calls == 1:
                        a, b = states(ids, mask).chunk(2)
                    else:
                        a, b = (states(i, m) for i, m in zip(ids.chunk(2), mask.chunk(2)))
                    if calls == 3:
                        states(ids[:pairs], mask[:pairs])  # the negatives, where they are given
                    loss = triplet(a, b)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            return step

        shape = (PAPER_TOKENS if variant == "paper-batch" else tokens, *sizes)
        Steps("word-step", variant, shape, "transformers + PEFT + bitsandbytes, three calls").run(lambda: make(3, None))
        Steps("word-step", variant, shape, "transformers + PEFT + bitsandbytes").run(lambda: make(1, None))
        Steps("word-step", variant, shape, "transformers + PEFT + bitsandbytes, cut by hand").run(lambda: make(1, target))


def full_step():
    """All weights but the head, each updated as soon as its gradient is there, on 8 sequences of 8 tokens."""
    transformers = optional("transformers")
    if CHECKPOINT is None or transformers is None:
        return print("full-step: skipped without --checkpoint DIR and transformers")
    config = transformers.AutoConfig.from_pretrained(CHECKPOINT)
    ids, mask, tokens = words(4, [8], config.vocab_size)
    shape = (tokens, config.hidden_size, config.intermediate_size)
    bnb = optional("bitsandbytes")

    def make(optimizer):
        model = pretrained("AutoModel", "bf16").train()
        optimizers = {p: optimizer([p]) for p in model.parameters()}

        def update(p):
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(update)

        def step():
            a, b = mean(model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, mask).chunk(2)
            triplet(a, b).backward()

        return step

    fused = lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True)
    Steps("full-step", "bf16", shape, "torch fused AdamW in backward").run(lambda: make(fused), 2, 5)
    if bnb:
        Steps("full-step", "8-bit", shape, "bitsandbytes AdamW8bit in backward").run(lambda: make(lambda p: bnb.optim.AdamW8bit(p, lr=1e-5)), 2, 5)


OPS = {f.__name__.replace("_", "-"): f for f in (gemm, nf4, linear, rmsnorm, swiglu, rope, adamw, attention, load, embed, word_step, full_step)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)}; all without")
    parser.add_argument("--json", metavar="FILE", required=True)
    parser.add_argument("--checkpoint", metavar="DIR", help="a Llama's folder, for whole jobs")
    arguments = parser.parse_args()
    unknown = [op for op in arguments.ops if op not in OPS]
    if unknown:
        parser.error(f"unknown op {unknown[0]}: expected {', '.join(OPS)}")
    global FLUSH, CHECKPOINT
    CHECKPOINT = arguments.checkpoint
    FLUSH = torch.ones(32 << 20, device="cuda", dtype=torch.int64)
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for name, run in OPS.items():
        if not arguments.ops or name in arguments.ops:
            run()
            torch.cuda.empty_cache()
            with open(arguments.json, "w") as file:
                json.dump(ROWS, file, indent=1)


if __name__ == "__main__":
    main()
