"""The `dncbm-mini` model through open_clip, and the parts that training calls by themselves."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

import dncbm

CONFIG = Path(dncbm.__file__).parent / "encoders" / "mini" / "dncbm-mini.json"
NAME = CONFIG.stem


def create_model() -> nn.Module:
    """A freshly initialised model; seed the generators first."""
    open_clip.add_model_config(CONFIG)
    model: nn.Module = open_clip.create_model(NAME, precision="fp32")
    return model


def create_tokenizer(merges: Path) -> open_clip.SimpleTokenizer:
    """The tokenizer with our own merges, at the model's context length."""
    open_clip.add_model_config(CONFIG)
    tokenizer: open_clip.SimpleTokenizer = open_clip.get_tokenizer(NAME, bpe_path=str(merges))
    return tokenizer


def text_features(model: nn.Module, tokens: Tensor) -> Tensor:
    """Pre-projection features ``[n, width]`` of ``tokens[n, length]`` cut to their longest row.

    The same numbers as ``encode_text`` gives before its projection: attention is causal, so
    the padding behind the last token cannot matter.
    """
    length = int((tokens != 0).sum(1).max())
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    rows = torch.arange(len(tokens))
    return model.ln_final(x[rows, tokens.argmax(1)])


@torch.inference_mode()
def all_text_features(
    model: nn.Module, tokenizer: open_clip.SimpleTokenizer, texts: Sequence[str], batch: int = 512
) -> Tensor:
    """Pre-projection features ``[n, width]`` of any number of texts, in eval mode."""
    was_training, parts = model.training, []
    model.eval()
    for first in range(0, len(texts), batch):
        parts.append(text_features(model, tokenizer(list(texts[first : first + batch]))).float())
    model.train(was_training)
    return torch.cat(parts)


@torch.inference_mode()
def encode_texts(
    model: nn.Module, tokenizer: open_clip.SimpleTokenizer, texts: Sequence[str]
) -> Tensor:
    """Unit embeddings ``[n, 256]`` of any number of texts."""
    features = all_text_features(model, tokenizer, texts)
    return torch.nn.functional.normalize(features @ model.text_projection, dim=1)
