"""Six channels of three: the input of a B-cos network, in which dark is as much as bright.

A B-cos factor grows with the length of the input, so black pixels would never contribute. Networks
from scratch therefore see [x, 1 - x] of colours in [0, 1]. B-cosified ones see [n, -n] of the
normalised pixels n that the original saw: its first weights w become [w, -w] / 2, which reads the
same. Explanations are linear maps of these six channels.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.errors import InvalidInput, UnknownName

ENCODINGS = ("inverse", "negated")


@final
class ImageModel(nn.Module):
    """A B-cos network together with the encoding of images that it was made for.

    Args:
        network: takes (n, 6, h, w).
        encoding: `inverse` of colours in [0, 1], or `negated` of normalised pixels.

    Raises:
        UnknownName: another encoding.
    """

    def __init__(self, network: nn.Module, *, encoding: str) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise UnknownName("input encoding", encoding, ENCODINGS)
        self.network, self.encoding = network, encoding

    def encode(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 6 h w"]:
        """What the network sees."""
        return inverse(images) if self.encoding == "inverse" else negated(images)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Tensor:
        """What the network makes of the images."""
        return self.network(self.encode(images))


def inverse(images: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n 6 h w"]:
    """[r, g, b, 1-r, 1-g, 1-b] of colours in [0, 1].

    Raises:
        InvalidInput: not three channels.
    """
    _require_colours(images)
    return torch.cat([images, 1 - images], dim=-3)


def negated(pixels: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n 6 h w"]:
    """[n, -n] of normalised pixels: [x, 1 - x] normalised by [m, 1 - m] and [s, s].

    Raises:
        InvalidInput: not three channels.
    """
    _require_colours(pixels)
    return torch.cat([pixels, -pixels], dim=-3)


def _require_colours(images: Tensor) -> None:
    if images.dim() < 3 or images.shape[-3] != 3:
        raise InvalidInput(
            f"Images have shape {tuple(images.shape)}; the rule is (..., 3, h, w). "
            "Convert them to RGB first."
        )
