#!/usr/bin/env python3
"""Files that kiungo writes, in transformers, PEFT and bitsandbytes; files that those write, in kiungo.

    python interchange.py MODEL [--kiungo PATH] [--device cuda|cpu] [--work DIR]

MODEL is a folder of a Llama in Hugging Face's layout (config.json, tokenizer.json, *.safetensors in bf16). Nothing is
downloaded. On a CPU bitsandbytes 0.50 needs sizes that are multiples of 64. Checked are

    tokens    texts give the same ids
    base      the model as it is
    ours      an adapter that `kiungo train` made, in PEFT
    theirs    an adapter that PEFT made, in kiungo
    full      all weights trained by kiungo, in transformers
    nf4       a folder by `kiungo quantize`, and one by transformers + bitsandbytes: each in the other, and their bytes;
              with plain and with quantised scales

each by the residual stream of every token, at several layers. What is true is transformers in f32 with the same weights.
On CUDA kiungo computes in bf16, and its error may be twice that of the peer's own bf16; on a CPU it computes in f32,
and the error may be 1e-4. Errors are means over tokens of |found - true| / |true|. Prints a line a check, at the end
'N passed, N failed', and fails where one did.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import bitsandbytes
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from common import encoder
from hidden_states import states

TEXTS = [
    "maji",
    "Maji ni uhai wa watu, na mito hupeleka chumvi baharini.",
    "Rivers carry salt to the sea.",
    "El sol sale hoy sobre las montañas, y los pájaros cantan.",
    "Apa este viață; râurile duc sare în mare, iar soarele răsare peste munți în fiecare dimineață, vara și iarna.",
]
PAIRS = [("maji", "water"), ("moto", "fire"), ("nyumba", "house"), ("mto", "river"), ("jua", "sun"), ("mwezi", "moon"),
         ("mti", "tree"), ("samaki", "fish"), ("ndege", "bird"), ("mkono", "hand"), ("jicho", "eye"), ("njia", "road")]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Blocks that learn, and adapters' blocks.
DEPTH = 2


class Checks:
    """What was checked, and how it came out."""

    def __init__(self):
        self.passed = self.failed = 0

    def add(self, what, ok, figures=""):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        print(f"{'ok    ' if ok else 'FAILED'} {what:44} {figures}", flush=True)


def mean_error(found, true):
    found, true = found.double().cpu(), true.double().cpu()
    return ((found - true).norm(dim=1) / true.norm(dim=1)).mean().item()


class Interchange:
    def __init__(self, options, work):
        self.model, self.kiungo, self.device, self.work = options.model, options.kiungo, options.device, work
        self.checks = Checks()
        self.texts = work / "texts.txt"
        self.texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        self.pairs = work / "pairs.tsv"
        rows = [f"{a} {n}\t{b} {n}" for n in range(10) for a, b in PAIRS]
        self.pairs.write_text("sw\ten\n" + "\n".join(rows) + "\n", encoding="utf-8")
        config = self.load().config
        self.layers = sorted({0, 1, DEPTH, config.num_hidden_layers // 2, config.num_hidden_layers})
        encode = encoder(self.model, bos=config.bos_token_id)
        self.ids = [encode(text) for text in TEXTS]

    # kiungo's side

    def run(self, *arguments):
        command = [str(a) for a in (self.kiungo, *arguments, "--device", self.device)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

    def train(self, name, *arguments):
        """A few steps with large updates, so that what is learnt shows."""
        self.run("train", "--model", self.model, "--pairs", self.pairs, "--output", self.work / name, "--target", DEPTH,
                 "--epochs", 4, "--batch", 16, "--warmup", 0, "--layers", DEPTH, *arguments)

    def embed(self, model, *arguments):
        """{layer: [tokens, h]} of all texts by kiungo, from the same token ids as the peers have."""
        out = self.work / "states.safetensors"
        layers = ",".join(map(str, self.layers)) + ",final"
        base = [] if "quantization_config" in (pathlib.Path(model) / "config.json").read_text() else ["--base", "bf16"]
        self.run("embed", "--model", model, "--texts", self.texts, "--output", out, "--tokens", "--layers", layers,
                 *base, *arguments)
        found = load_file(out)
        if found["ids"].tolist() != sum(self.ids, []):
            sys.exit(f"{model}: kiungo's token ids are not the tokenizer's: {found['ids'].tolist()}")
        return {layer: found[f"hidden.{layer}"] for layer in [*self.layers, "final"]}

    # the peers' side

    def load(self, folder=None, dtype=torch.float32, **arguments):
        model = AutoModelForCausalLM.from_pretrained(folder or self.model, dtype=dtype, **arguments)
        return model.eval() if "quantization_config" in model.config.to_dict() else model.to(self.device).eval()

    def states_of(self, model):
        """The same of a model of transformers, or of PEFT."""
        causal = model.get_base_model() if isinstance(model, PeftModel) else model
        runs = [states(causal.model, ids) for ids in self.ids]
        found = {layer: torch.cat([stream[layer] for stream, _ in runs]) for layer in self.layers}
        return found | {"final": torch.cat([final for _, final in runs])}

    def compare(self, what, found, true, theirs):
        """Every layer of `found` against f32 states, with those of the peer in bf16 for the measure."""
        for layer, state in found.items():
            error, peer = mean_error(state, true[layer]), mean_error(theirs[layer], true[layer])
            allowed = 1e-4 if self.device == "cpu" else 2 * peer + 1e-6
            figures = f"error {error:.1e}, allowed {allowed:.1e} (the peer's bf16: {peer:.1e})"
            name = layer if layer == "final" else f"hidden({layer})"
            self.checks.add(f"{what}: {name}", error <= allowed, figures)

    # the checks

    def all(self):
        self.base()
        self.our_adapter()
        self.their_adapter()
        self.full()
        for double in [False, True]:
            self.nf4(double)
        return self.checks

    def base(self):
        self.true = self.states_of(self.load())
        found = self.embed(self.model)
        self.checks.add("tokens", True, f"{len(TEXTS)} texts, {sum(map(len, self.ids))} tokens")
        self.compare("base", found, self.true, self.states_of(self.load(dtype=torch.bfloat16)))

    def adapted(self, folder, dtype):
        return PeftModel.from_pretrained(self.load(dtype=dtype), folder).eval()

    def adapter(self, what, folder):
        true, theirs = (self.states_of(self.adapted(folder, dtype)) for dtype in [torch.float32, torch.bfloat16])
        self.compare(what, self.embed(self.model, "--adapter", folder), true, theirs)
        change = mean_error(true[DEPTH], self.true[DEPTH])
        self.checks.add(f"{what}: it changes hidden({DEPTH})", change > 0.02, f"by {change:.1e}")

    def our_adapter(self):
        self.train("lora", "--method", "lora", "--blocks", f"0..{DEPTH}", "--dropout", 0, "--lr", 2e-3)
        self.adapter("ours, in PEFT", self.work / "lora/adapter")

    def their_adapter(self):
        folder = self.work / "peft"
        torch.manual_seed(1)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=PROJECTIONS, layers_to_transform=list(range(DEPTH)),
                            init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(self.load(), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(0.2)
        model.save_pretrained(folder)
        self.adapter("theirs, in kiungo", folder)

    def full(self):
        self.train("full", "--method", "full", "--lr", 1e-3)
        folder = self.work / "full/model"
        true, theirs = (self.states_of(self.load(folder, dtype)) for dtype in [torch.float32, torch.bfloat16])
        self.compare("full, in transformers", self.embed(folder), true, theirs)
        change = mean_error(true[DEPTH], self.true[DEPTH])
        self.checks.add(f"full: it changes hidden({DEPTH})", change > 0.02, f"by {change:.1e}")

    def nf4(self, double):
        kind = "nf4-double" if double else "nf4"
        ours, theirs = self.work / f"our-{kind}", self.work / f"their-{kind}"
        self.run("quantize", "--model", self.model, "--output", ours, *(["--double"] if double else []))
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
                                    bnb_4bit_compute_dtype=torch.bfloat16)
        their_model = self.load(dtype=torch.bfloat16, quantization_config=config, device_map=self.device)
        their_model.save_pretrained(theirs)
        shutil.copy(os.path.join(self.model, "tokenizer.json"), theirs)
        our_model = self.load(ours, dtype=torch.bfloat16, device_map=self.device)

        self.same_bytes(kind, ours, theirs)
        self.same_weights(kind, our_model, their_model)
        for what, folder, model in [("ours, in bitsandbytes", ours, our_model), ("theirs, in kiungo", theirs, their_model)]:
            true = self.states_of(self.dequantised(model))
            found = self.embed(folder)
            self.compare(f"{kind}, {what}", found, true, self.states_of(model))
        self.logits(kind, our_model, found["final"])

    def same_bytes(self, kind, ours, theirs):
        """Codes, scales and settings of every quantised weight, as the files hold them."""
        ours, theirs = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
        missing = ours.keys() ^ theirs.keys()
        differing = [n for n in theirs.keys() - missing if not torch.equal(ours[n].cpu(), theirs[n].cpu())]
        figures = f"{len(theirs)} tensors; only in one: {len(missing)}; differing: {len(differing)} {sorted(differing)[:2]}"
        # torch sums the scales in another order than kiungo to make their mean, on a CPU bitsandbytes also divides by what
        # it multiplies with on CUDA: scales that are quantised may differ by a step.
        expected = not differing or kind == "nf4-double"
        self.checks.add(f"{kind}: the files' bytes", not missing and expected, figures)

    def linear_weights(self, model):
        for name, module in model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = module.weight
                yield name, bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).to(torch.bfloat16)

    def same_weights(self, kind, our_model, their_model):
        theirs = dict(self.linear_weights(their_model))
        names, values, differing, worst = 0, 0, 0, 0.0
        for name, weight in self.linear_weights(our_model):
            names, values = names + 1, values + weight.numel()
            differing += (weight.view(torch.int16) != theirs[name].view(torch.int16)).sum().item()
            worst = max(worst, (weight.float() - theirs[name].float()).abs().max().item())
        few = 2e-3 * values if kind == "nf4-double" else 0
        figures = f"{names} layers, {values:,} values, {differing:,} differ, by at most {worst:.1e}"
        self.checks.add(f"{kind}: dequantised weights", names == len(theirs) and differing <= few, figures)

    def dequantised(self, quantised):
        """The model in f32 with the values that the quantised one computes with."""
        model = self.load()
        weights = {f"{name}.weight": weight for name, weight in self.linear_weights(quantised)}
        missing, unknown = model.load_state_dict({n: w.float() for n, w in weights.items()}, strict=False)
        assert not unknown, unknown
        return model

    def logits(self, kind, model, final):
        """What the head makes of kiungo's states, beside the peer's own logits."""
        with torch.no_grad():
            theirs = torch.cat([model(input_ids=torch.tensor([ids], device=model.device)).logits[0] for ids in self.ids])
            ours = model.lm_head(final.to(model.device, torch.bfloat16))
        error = mean_error(ours, theirs)
        same = (ours.argmax(1) == theirs.argmax(1)).double().mean().item()
        self.checks.add(f"{kind}: logits", error <= 0.05 and same > 0.9, f"error {error:.1e}, same best token for {same:.0%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--kiungo", default="kiungo", help="the program [kiungo on the path]")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=pathlib.Path, help="an empty folder that is kept [a temporary one]")
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    versions = [f"{m.__name__} {m.__version__}" for m in map(__import__, ["torch", "transformers", "peft", "bitsandbytes"])]
    print(f"{options.model} on {device}; {', '.join(versions)}")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        checks = Interchange(options, work.resolve()).all()
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


if __name__ == "__main__":
    main()
