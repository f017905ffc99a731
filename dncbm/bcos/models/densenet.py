"""DenseNets (Huang et al. 2017) as B-cos networks (Böhle et al. 2024) or ordinary ones.

State dicts have torchvision's keys; those of B-cos layers end in `.linear.weight`, as in B-cos v2.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import Parts


class _Layer(nn.Module):
    """`growth` new channels of all earlier ones."""

    def __init__(self, parts: Parts, inside: int, growth: int) -> None:
        super().__init__()
        self.norm1 = parts.norm2d(inside)
        self.conv1 = parts.conv(inside, 4 * growth, 1)
        self.norm2 = parts.norm2d(4 * growth)
        self.conv2 = parts.conv(4 * growth, growth, 3, padding=1)
        self.relu = parts.activation()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.conv1(self.relu(self.norm1(x)))
        grown: Tensor = self.conv2(self.relu(self.norm2(squeezed)))
        return grown


class _Block(nn.Sequential):
    """Layers that each see what all before them made."""

    def __init__(self, parts: Parts, inside: int, growth: int, depth: int) -> None:
        layers = [_Layer(parts, inside + growth * i, growth) for i in range(depth)]
        super().__init__(OrderedDict((f"denselayer{i + 1}", la) for i, la in enumerate(layers)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = torch.cat([x, layer(x)], dim=1)
        return x


@final
class DenseNet(Network):
    """A DenseNet-BC.

    Args:
        parts: B-cos or ordinary.
        depths: layers of each block.
        growth: channels that each layer adds.
        num_classes: k.
        in_chans: channels of the images.
        width: channels of the stem.
        small_inputs: a 3 x 3 stem without norm and pooling, for images of about 32 pixels.
    """

    head = "classifier"

    def __init__(
        self, parts: Parts, *, depths: Sequence[int], growth: int = 32, num_classes: int = 1000,
        in_chans: int = 6, width: int = 64, small_inputs: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(num_classes=num_classes, in_chans=in_chans, is_bcos=parts.is_bcos)
        self.smallest = 2 ** (len(depths) - 1) * (1 if small_inputs else 4)
        layers = _stem(parts, in_chans, width, small_inputs)
        for place, depth in enumerate(depths):
            layers[f"denseblock{place + 1}"] = _Block(parts, width, growth, depth)
            width += growth * depth
            if place < len(depths) - 1:
                layers[f"transition{place + 1}"] = _transition(parts, width)
                width //= 2
        layers["norm5"] = parts.norm2d(width)
        layers["relu5"] = parts.activation()
        self.features = nn.Sequential(layers)
        self.classifier = parts.head(width, num_classes)
        self.draw()

    @staticmethod
    def initialise(layer: nn.Module) -> None:
        """He et al. 2015, by the inputs."""
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _stem(
    parts: Parts, in_chans: int, width: int, small_inputs: bool
) -> OrderedDict[str, nn.Module]:
    if small_inputs:
        return OrderedDict(conv0=parts.conv(in_chans, width, 3, padding=1))
    return OrderedDict(
        conv0=parts.conv(in_chans, width, 7, stride=2, padding=3),
        norm0=parts.norm2d(width),
        relu0=parts.activation(),
        pool0=parts.pool(),
    )


def _transition(parts: Parts, width: int) -> nn.Sequential:
    """Half the channels at half the size; the mean of 2 x 2 is a low-pass of its own."""
    layers = OrderedDict[str, nn.Module](
        norm=parts.norm2d(width),
        relu=parts.activation(),
        conv=parts.conv(width, width // 2, 1),
        pool=nn.AvgPool2d(2),
    )
    return nn.Sequential(layers)
