#!/usr/bin/env python3
"""Times what people use today on the same GPU, at the shapes of `cargo bench`.

    python3 benches/peers/peers.py --json peers.json [OP...]
    cargo bench -- --peers peers.json --json benches/results/h100.json

Needs torch; bitsandbytes and liger-kernel where installed; `load` and `embed` need transformers and --checkpoint DIR, a Llama's
folder, as `kiungo random --model llama-3-8b --output DIR` writes one. Method as in benches/harness.rs: standard normal data, caches
flushed by reading before every run, CUDA events, the median of 21 runs; what takes less than 0.3 ms by what a graph of
12 flushes and runs takes more than one of 12 flushes. Of several peers for one op the fastest is kept.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

RUNS, WARM_UPS = 21, 3
SHORT_MS, REPEATS, REPLAYS = 0.3, 12, 7
BF16 = torch.bfloat16
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
    """Milliseconds on the GPU. The pause lets the host queue the work that is timed."""
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
    ms = sorted(s.elapsed_time(e) for s, e in times)[runs // 2]
    if ms < SHORT_MS:
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


def pretrained(kind, base):
    """How users load a model."""
    import transformers

    options = {"dtype": BF16, "device_map": {"": 0}, "attn_implementation": "sdpa"}
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


OPS = {f.__name__: f for f in (gemm, nf4, linear, rmsnorm, swiglu, rope, adamw, attention, load, embed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)}; all without")
    parser.add_argument("--json", metavar="FILE", required=True)
    parser.add_argument("--checkpoint", metavar="DIR", help="a Llama's folder, for load and embed")
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
