"""What the peer scripts share: loading a model as kiungo does, texts to token ids, pooling."""
import csv
import os
import unicodedata

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

THREADS = 2
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load(folder, blocks=None):
    """The model in f32; with `blocks`, only its first blocks, so that a target of hidden(blocks) runs no others."""
    torch.set_num_threads(THREADS)
    config = AutoConfig.from_pretrained(folder)
    if blocks is not None:
        config.num_hidden_layers = blocks
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    return model.eval()


def encoder(folder, bos=None, max_length=None):
    """Text -> token ids: NFC, the tokenizer's own special tokens, `bos` put in front where it is not there."""
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    def encode(text):
        ids = tokenizer.encode(unicodedata.normalize("NFC", text)).ids
        if bos is not None and ids[:1] != [bos]:
            ids = [bos] + ids
        return ids[:max_length]

    return encode


def pad(rows):
    """Rows of ids -> (ids, mask), padded on the right with id 0."""
    longest = max(map(len, rows))
    ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return ids, mask


def pool(hidden, mask, pooling):
    """[n, tokens, h] -> [n, h]: the mean of the tokens, of all but the first (a lone token stays), or the last."""
    lengths = mask.sum(1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    weight = mask.to(hidden.dtype)
    if pooling == "mean-no-sink":
        weight = weight.clone()
        weight[lengths > 1, 0] = 0
    return (hidden * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True)


def pairs(path):
    """The two columns of a TSV file with a header."""
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(source, target) for source, target, *_ in rows[1:]]
