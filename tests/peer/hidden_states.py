#!/usr/bin/env python3
"""Hidden states of every layer of a real model, by transformers in f32: tests/golden/smollm2_hidden.safetensors.

    python hidden_states.py MODEL OUT.safetensors

For each of three short sentences: `NAME.ids` [tokens]; `NAME.hidden` [layers + 1, tokens, h], hidden(0) the embedding,
hidden(L) BEFORE the final norm (transformers' last `hidden_states` entry is after it); `NAME.final` [tokens, h].
The model's BOS is in front. One sentence at a time: no padding.
"""
import argparse

import torch
from safetensors.torch import save_file

from common import encoder, load

SENTENCES = {
    "sw": "Maji ni uhai wa watu.",
    "en": "Rivers carry salt to the sea.",
    "es": "El sol sale hoy.",
}


def states(llama, ids):
    """All residual streams of a LlamaModel in order, then `final`. Hooks, so that the last block's output is seen before
    the norm."""
    seen = []

    def keep(_module, _input, output):
        seen.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    hooks = [m.register_forward_hook(keep) for m in [llama.embed_tokens, *llama.layers, llama.norm]]
    with torch.no_grad():
        llama(input_ids=torch.tensor([ids], device=llama.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen[:-1]), seen[-1]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model")
    arguments.add_argument("out")
    options = arguments.parse_args()
    model = load(options.model)
    encode = encoder(options.model, bos=model.config.bos_token_id)
    tensors = {}
    for name, text in SENTENCES.items():
        ids = encode(text)
        hidden, final = states(model.model, ids)
        tensors |= {f"{name}.ids": torch.tensor(ids, dtype=torch.int64), f"{name}.hidden": hidden, f"{name}.final": final}
        wide = states(model.double().model, ids)[0]
        model.float()
        worst = ((hidden - wide).norm(dim=2) / wide.norm(dim=2)).max().item()
        print(f"{name}: {len(ids)} tokens; f32 against float64 weights, worst token of any layer: {worst:.1e}")
    save_file(tensors, options.out, metadata={k: v for k, v in SENTENCES.items()})


if __name__ == "__main__":
    main()
