"""VGG (Simonyan and Zisserman 2015) as a B-cos network (Böhle et al. 2024).

Its three fully connected layers are convolutions before the mean over places.
"""

from collections.abc import Sequence
from typing import final

from torch import nn

from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import Parts


@final
class VGG(Network):
    """A VGG with norms.

    Args:
        parts: B-cos.
        depths: convolutions of each stage.
        num_classes: k.
        in_chans: channels of the images.
        width: channels of the first stage; doubled by the next ones up to eight times.
        hidden: channels of the first two layers of the classifier.
    """

    head = "classifier.2"

    def __init__(
        self, parts: Parts, *, depths: Sequence[int], num_classes: int = 1000, in_chans: int = 6,
        width: int = 64, hidden: int = 4096,
    ) -> None:  # fmt: skip
        super().__init__(num_classes=num_classes, in_chans=in_chans, is_bcos=parts.is_bcos)
        self.smallest = 2 ** len(depths)
        layers: list[nn.Module] = []
        inside = in_chans
        for stage, depth in enumerate(depths):
            outside = width * min(2**stage, 8)
            for _ in range(depth):
                layers += [parts.conv(inside, outside, 3, padding=1), parts.norm2d(outside)]
                inside = outside
            layers.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            parts.conv(inside, hidden, 7, padding=3),
            parts.conv(hidden, hidden, 1),
            parts.head(hidden, num_classes),
        )
        self.draw()

    @staticmethod
    def initialise(layer: nn.Module) -> None:
        """He et al. 2015, by the outputs."""
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
