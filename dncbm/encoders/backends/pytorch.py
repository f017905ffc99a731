"""PyTorch as it is, and with the weights in bfloat16."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.encoders.backends.base import ImageBackend
from dncbm.encoders.clip import Encoder
from dncbm.encoders.streams import Streams


def open_eager(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The encoder itself."""
    return encoder.encode_images


def open_bfloat16(encoder: Encoder, streams: Streams) -> ImageBackend:
    """A copy of the image tower with bfloat16 weights.

    Not autocast: that casts every weight again in every pass (ViT-B/32 at batch 16: 6 images/s
    on one core instead of 42).
    """
    tower = copy.deepcopy(encoder.image_tower()).to(torch.bfloat16)

    @torch.inference_mode()
    def embed(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return tower(pixels.to(torch.bfloat16)).float()

    return embed
