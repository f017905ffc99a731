"""ConvNeXts (Liu et al. 2022) as B-cos networks (Böhle et al. 2024)."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import Parts, StochasticDepth, rising


class _Block(nn.Module):
    """A 7 x 7 convolution of each channel, then two of each place, beside a shortcut."""

    def __init__(self, parts: Parts, width: int, *, drop: float, layer_scale: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            parts.conv(width, width, 7, padding=3, groups=width),
            parts.norm2d(width),
            parts.conv(width, 4 * width, 1),
            parts.conv(4 * width, width, 1),
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), layer_scale))
        self.drop = StochasticDepth(drop)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        found: Tensor = self.drop(self.layer_scale * self.block(x))
        return found + x


@final
class ConvNeXt(Network):
    """A ConvNeXt.

    Args:
        parts: B-cos.
        widths: channels of each stage.
        depths: blocks of each stage.
        num_classes: k.
        in_chans: channels of the images.
        stochastic_depth: share of blocks left out in training, rising to this value.
        layer_scale: what branches are multiplied by at first.
    """

    head = "classifier.1"

    def __init__(
        self, parts: Parts, *, widths: Sequence[int], depths: Sequence[int],
        num_classes: int = 1000, in_chans: int = 6, stochastic_depth: float = 0.0,
        layer_scale: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__(num_classes=num_classes, in_chans=in_chans, is_bcos=parts.is_bcos)
        self.smallest = 4 * 2 ** (len(depths) - 1)
        drops = iter(rising(stochastic_depth, sum(depths)))
        layers = [parts.conv(in_chans, widths[0], 4, stride=4), parts.norm2d(widths[0])]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                before = widths[stage - 1]
                down = parts.conv(before, width, 2, stride=2)
                layers.append(nn.Sequential(parts.norm2d(before), down))
            blocks = [
                _Block(parts, width, drop=next(drops), layer_scale=layer_scale)
                for _ in range(depth)
            ]
            layers.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            parts.norm2d(widths[-1]), parts.head(widths[-1], num_classes)
        )
        self.draw()

    @staticmethod
    def initialise(layer: nn.Module) -> None:
        """Truncated normal."""
        if isinstance(layer, nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
