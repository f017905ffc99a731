"""Image-text models with random weights: what contrastive training from scratch begins with."""

import logging
from typing import Any, Final

import open_clip
from torch import nn

from dncbm.artifacts import fingerprint
from dncbm.encoders.spec import MINI, parse_spec
from dncbm.errors import UnknownName

SCRATCH: Final = "scratch"
"""Scheme of such models; they are trained, never used as they are."""


def untrained(name: str) -> tuple[nn.Module, Any, str]:
    """A model with random weights (of torch's global generator), its tokenizer, a fingerprint.

    Args:
        name: an architecture of open_clip, or `mini`.

    Returns:
        The fingerprint is over architecture and tokenizer, not over the weights: those that are
        trained are stored elsewhere.

    Raises:
        UnknownName: no such architecture.
    """
    spec = parse_spec(MINI) if name == MINI else None
    model_name = name.replace("/", "-") if spec is None else spec.model_name
    if model_name not in open_clip.list_models():
        raise UnknownName("image-text architecture", name, [MINI, *open_clip.list_models()])
    root = logging.getLogger()
    root.addFilter(_not_about_weights)
    try:
        model = open_clip.create_model(model_name, pretrained=None, precision="fp32")
    finally:
        root.removeFilter(_not_about_weights)
    options = {"bpe_path": str(spec.tokenizer_merges)} if spec is not None else {}
    tokenizer = open_clip.get_tokenizer(model_name, **options)
    config = open_clip.get_model_config(model_name)
    tokens = tokenizer(["a photo of a cat."]).tolist()
    return model, tokenizer, fingerprint([SCRATCH, repr(config), tokens])


def _not_about_weights(record: logging.LogRecord) -> bool:
    """open_clip warns that weights are random, which is what is wanted here."""
    return "No pretrained weights" not in record.getMessage()
