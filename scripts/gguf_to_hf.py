#!/usr/bin/env python3
"""A Llama in a GGUF file to a Hugging Face folder: model.safetensors (bf16, dequantised), config.json, tokenizer.json.

    python gguf_to_hf.py IN.gguf OUT_DIR        needs numpy, gguf, ml_dtypes, safetensors
"""
import json
import os
import pathlib
import sys

import ml_dtypes
import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

BLOCK = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def config(field):
    heads = field("llama.attention.head_count")
    hidden = field("llama.embedding_length")
    # The file keeps epsilon as f32; its shortest decimal is what config.json says.
    epsilon = float(str(np.float32(field("llama.attention.layer_norm_rms_epsilon"))))
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"), "head_dim": hidden // heads,
        "vocab_size": field("llama.vocab_size"), "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": epsilon, "rope_theta": field("llama.rope.freq_base"), "rope_scaling": None,
        "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "bfloat16",
    }


def tokenizer(field):
    """Byte-level BPE. As transformers reads a GGUF: digits are not split one by one, as the original tokenizer does."""
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i]} | plain for i, kind in enumerate(kinds) if kind == 3],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
                  "ignore_merges": False, "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in field("tokenizer.ggml.merges")]},
    }


def half_rotation(weight, heads):
    """GGUF interleaves the rows of q and k for its own rotary layout; Hugging Face keeps the two halves apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def weights(reader, field):
    out = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, block, kind, _ = tensor.name.split(".")
            name = f"model.layers.{block}.{BLOCK[kind]}.weight"
            if kind in ("attn_q", "attn_k"):
                suffix = "head_count" if kind == "attn_q" else "head_count_kv"
                weight = half_rotation(weight, field(f"llama.attention.{suffix}"))
        out[name] = np.ascontiguousarray(weight.astype(ml_dtypes.bfloat16))
    return out


def main():
    source, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    reader = GGUFReader(source)
    field = lambda key: reader.fields[key].contents()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in [("config.json", config(field)), ("tokenizer.json", tokenizer(field))]:
        with open(folder / name, "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False, indent=1)
    tensors = weights(reader, field)
    # Written last and renamed into place: where model.safetensors is, the folder is complete.
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")
    print(f"{len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} parameters in {folder}")


if __name__ == "__main__":
    main()
