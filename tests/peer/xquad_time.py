#!/usr/bin/env python3
"""How long transformers takes to embed one language of XQuAD on two threads, and the accuracy@1 it reaches.

    python xquad_time.py MODEL xquad.en.json [--tokens N] [--limit N] [--attention sdpa|eager] [--layers 1,12,final]

f32, the tokenizer's own special tokens, mean without position 0, at most 512 tokens, sorted by length so that little is
padded. The clock covers tokenising, the forward passes, pooling and scoring, not loading the model.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

from common import THREADS, encoder, load, pad, pool


def read(path):
    """(questions, index of each one's paragraph, paragraphs) of a SQuAD JSON file."""
    with open(path, encoding="utf-8") as f:
        data = json.load(f)["data"]
    questions, own, paragraphs = [], [], []
    for paragraph in (p for article in data for p in article["paragraphs"]):
        for qa in paragraph["qas"]:
            questions.append(qa["question"])
            own.append(len(paragraphs))
        paragraphs.append(paragraph["context"])
    return questions, torch.tensor(own), paragraphs


def batches(rows, tokens):
    """Indices sorted by length, cut into batches of at most so many tokens, padding counted."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    picked = []
    for i in order:
        if picked and len(rows[i]) * (len(picked) + 1) > tokens:
            yield picked
            picked = []
        picked.append(i)
    yield picked


def embed(model, rows, layers, tokens):
    """{layer: unit rows [n, h]}, in the order of `rows`."""
    out = {layer: torch.empty(len(rows), model.config.hidden_size) for layer in layers}
    for picked in batches(rows, tokens):
        ids, mask = pad([rows[i] for i in picked])
        # Rows of one length need no mask, and torch then takes its faster causal path.
        given = None if bool(mask.all()) else mask
        states = model.model(input_ids=ids, attention_mask=given, output_hidden_states=True, use_cache=False).hidden_states
        for layer in layers:
            state = states[-1 if layer == "final" else int(layer)]
            out[layer][picked] = F.normalize(pool(state, mask, "mean-no-sink"), dim=1)
    return out


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model")
    arguments.add_argument("xquad")
    arguments.add_argument("--tokens", type=int, default=512, help="in a batch; 512 is the quickest on two cores")
    arguments.add_argument("--limit", type=int, help="only so many questions and paragraphs, for choosing --tokens")
    arguments.add_argument("--attention", default="sdpa")
    arguments.add_argument("--layers", default="1,12,final")
    options = arguments.parse_args()
    layers = options.layers.split(",")
    model = load(options.model)
    model.set_attn_implementation(options.attention)
    questions, own, paragraphs = read(options.xquad)
    if options.limit:
        every = max(1, len(paragraphs) // options.limit)
        questions, own, paragraphs = questions[::every], None, paragraphs[::every]
    with torch.inference_mode():
        begin = time.perf_counter()
        encode = encoder(options.model, max_length=512)
        rows = [encode(t) for t in questions], [encode(t) for t in paragraphs]
        q = embed(model, rows[0], layers, options.tokens)
        middle = time.perf_counter()
        p = embed(model, rows[1], layers, options.tokens)
        end = time.perf_counter()
        tokens = [sum(map(len, r)) for r in rows]
        print(f"{len(questions)} questions ({tokens[0]} tokens) {middle - begin:.1f} s, {len(paragraphs)} paragraphs "
              f"({tokens[1]} tokens) {end - middle:.1f} s; {THREADS} threads, {options.tokens} tokens a batch")
        if own is not None:
            for layer in layers:
                found = (q[layer] @ p[layer].T).argmax(1)
                print(f"hidden {layer}: accuracy@1 {(found == own).double().mean():.4f}")
            print(f"total {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
