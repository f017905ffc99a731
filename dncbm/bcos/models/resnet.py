"""ResNets (He et al. 2016; Xie et al. 2017) as B-cos networks (Böhle et al. 2024) or ordinary ones.

State dicts have torchvision's keys; those of B-cos layers end in `.linear.weight`, as in B-cos v2.
"""

from collections.abc import Sequence
from typing import NamedTuple, final

from jaxtyping import Float
from torch import Tensor, nn

from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import Parts, StochasticDepth, rising


class _Kind(NamedTuple):
    bottleneck: bool
    groups: int
    per_group: int


class _Block(nn.Module):
    """Two convolutions, or three with a bottleneck, beside a shortcut."""

    def __init__(
        self, parts: Parts, kind: _Kind, inside: int, width: int, *, stride: int, drop: float
    ) -> None:
        super().__init__()
        groups = kind.groups
        outside = width * 4 if kind.bottleneck else width
        middle = width * kind.per_group // 64 * groups
        if kind.bottleneck:
            self.conv1 = parts.conv(inside, middle, 1)
            self.bn1 = parts.norm2d(middle)
            self.conv2 = parts.conv(middle, middle, 3, stride=stride, padding=1, groups=groups)
            self.bn2 = parts.norm2d(middle)
            self.conv3 = parts.conv(middle, outside, 1)
            self.bn3 = parts.norm2d(outside)
        else:
            self.conv1 = parts.conv(inside, width, 3, stride=stride, padding=1)
            self.bn1 = parts.norm2d(width)
            self.conv2 = parts.conv(width, width, 3, padding=1)
            self.bn2 = parts.norm2d(width)
        self.relu = parts.activation()
        self.bottleneck = kind.bottleneck
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                parts.conv(inside, outside, 1, stride=stride), parts.norm2d(outside)
            )
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            found = self.bn3(self.conv3(self.relu(found)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.drop(found) + shortcut)


@final
class ResNet(Network):
    """A ResNet.

    Args:
        parts: B-cos or ordinary.
        depths: blocks of each stage.
        bottleneck: blocks of three convolutions, four times as wide at their ends.
        num_classes: k.
        in_chans: channels of the images.
        width: channels of the first stage.
        groups: of the middle convolutions, `per_group` channels each at width 64.
        small_inputs: a 3 x 3 stem without pooling, for images of about 32 pixels.
        stochastic_depth: share of blocks left out in training, rising to this value.
    """

    head = "fc"

    def __init__(  # noqa: PLR0913 - the architecture's own choices
        self, parts: Parts, *, depths: Sequence[int], bottleneck: bool = False,
        num_classes: int = 1000, in_chans: int = 6, width: int = 64, groups: int = 1,
        per_group: int = 64, small_inputs: bool = False, stochastic_depth: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(num_classes=num_classes, in_chans=in_chans, is_bcos=parts.is_bcos)
        if small_inputs:
            self.conv1 = parts.conv(in_chans, width, 3, padding=1)
        else:
            self.conv1 = parts.conv(in_chans, width, 7, stride=2, padding=3)
        self.bn1 = parts.norm2d(width)
        self.relu = parts.activation()
        self.maxpool = nn.Identity() if small_inputs else parts.pool()
        kind, inside = _Kind(bottleneck, groups, per_group), width
        drops = iter(rising(stochastic_depth, sum(depths)))
        for stage, depth in enumerate(depths):
            layers = []
            for place in range(depth):
                stride, wide = 2 if stage and not place else 1, width * 2**stage
                layers.append(_Block(parts, kind, inside, wide, stride=stride, drop=next(drops)))
                inside = wide * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(depths)
        self.fc = parts.head(inside, num_classes)
        self.draw()

    @staticmethod
    def initialise(layer: nn.Module) -> None:
        """He et al. 2015, by the outputs."""
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n d y x"]:
        """Maps before the head."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x
