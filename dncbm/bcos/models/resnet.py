"""ResNets (He et al. 2016; Xie et al. 2017) as B-cos networks (Böhle et al. 2024) or ordinary ones.

State dicts have torchvision's keys; those of B-cos layers end in `.linear.weight`, as in B-cos v2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from dncbm.bcos.layers import LogitLayer, logit_bias
from dncbm.bcos.models.parts import Parts, check_channels

DEPTHS: dict[str, tuple[bool, tuple[int, ...]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
"""Whether blocks are bottlenecks, and how many each stage has."""


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
        self.drop = StochasticDepth(drop, "row") if drop else None

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            found = self.bn3(self.conv3(self.relu(found)))
        if self.drop is not None:
            found = self.drop(found)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(found + shortcut)


class ResNet(nn.Module):
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

    def __init__(  # noqa: PLR0913 - the architecture's own choices
        self, parts: Parts, depths: Sequence[int], *, bottleneck: bool = False,
        num_classes: int = 1000, in_chans: int = 6, width: int = 64, groups: int = 1,
        per_group: int = 64, small_inputs: bool = False, stochastic_depth: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_chans, self.is_bcos = in_chans, parts.is_bcos
        stem: dict[str, Any] = {"stride": 1, "padding": 1} if small_inputs else {
            "stride": 2, "padding": 3,
        }  # fmt: skip
        self.conv1 = parts.conv(in_chans, width, 3 if small_inputs else 7, **stem)
        self.bn1 = parts.norm2d(width)
        self.relu = parts.activation()
        self.maxpool = nn.Identity() if small_inputs else parts.pool()
        inside, block, blocks = width, 0, sum(depths)
        for stage, depth in enumerate(depths):
            layers = []
            for place in range(depth):
                stride = 2 if stage and not place else 1
                drop = stochastic_depth * block / max(blocks - 1, 1)
                kind = _Kind(bottleneck, groups, per_group)
                layers.append(
                    _Block(parts, kind, inside, width * 2**stage, stride=stride, drop=drop)
                )
                inside = width * 2**stage * (4 if bottleneck else 1)
                block += 1
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(depths)
        if parts.is_bcos:
            self.fc: nn.Module = parts.conv(inside, num_classes, 1)
            self.logit_layer = LogitLayer(bias=logit_bias(num_classes))
        else:
            self.fc = nn.Linear(inside, num_classes)
            self.logit_layer = LogitLayer()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n d y x"]:
        """Maps before the head."""
        check_channels(x, self.in_chans)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n k"]:
        """Logits; a B-cos head comes before the mean over places."""
        maps = self.features(x)
        logits = self.fc(maps).mean((2, 3)) if self.is_bcos else self.fc(maps.mean((2, 3)))
        shifted: Tensor = self.logit_layer(logits)
        return shifted
