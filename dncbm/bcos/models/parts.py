"""What networks are made of: the same architecture as a B-cos network or as an ordinary one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.layers import BcosConv2d, BcosLinear
from dncbm.bcos.norms import (
    AllNormUncentered2d,
    BatchNormUncentered2d,
    GroupNorm2d,
    LayerNorm,
    PositionNorm2d,
)
from dncbm.errors import InvalidInput, UnknownName

NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNormUncentered2d,
    "all": AllNormUncentered2d,
    "position": PositionNorm2d,
    "position_uncentred": partial(PositionNorm2d, centred=False),
    "layer": GroupNorm2d,
    "layer_uncentred": partial(GroupNorm2d, centred=False),
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Makers of layers."""

    conv: Callable[..., nn.Module]
    """As `nn.Conv2d`, without bias."""
    linear: Callable[..., nn.Module]
    norm2d: Callable[[int], nn.Module]
    norm: Callable[[int], nn.Module]
    """Of the last axis."""
    activation: Callable[[], nn.Module]
    pool: Callable[[], nn.Module]
    """3 x 3 with stride 2, after a stem."""
    is_bcos: bool

    def head(self, width: int, num_classes: int) -> nn.Module:
        """The classifier of a CNN: a B-cos one sees places, an ordinary one their mean."""
        if self.is_bcos:
            return self.conv(width, num_classes, 1)
        return self.linear(width, num_classes)


def bcos_parts(
    *, b: float = 2.0, max_out: int = 1, norm: str = "batch", eps: float = 1e-5,
    antialiased: bool = False,
) -> Parts:  # fmt: skip
    """Those of B-cos v2: no activations, no biases, means for maxima.

    Args:
        b: exponent B.
        max_out: units per output.
        norm: one of `NORMS`.
        eps: of the norms of maps.
        antialiased: strides are taken by `halved`.

    Raises:
        UnknownName: another norm.
    """
    if norm not in NORMS:
        raise UnknownName("norm", norm, NORMS)
    strided = AntialiasedBcosConv2d if antialiased else BcosConv2d
    return Parts(
        conv=partial(_conv, BcosConv2d, strided, b=b, max_out=max_out),
        linear=partial(BcosLinear, b=b, max_out=max_out),
        norm2d=partial(NORMS[norm], eps=eps),
        norm=LayerNorm,
        activation=nn.Identity,
        pool=Halved if antialiased else partial(nn.AvgPool2d, 3, stride=2, padding=1),
        is_bcos=True,
    )


def standard_parts(*, antialiased: bool = False) -> Parts:
    """Those of the ordinary twin of a CNN."""
    return Parts(
        conv=partial(_conv, nn.Conv2d, AntialiasedConv2d if antialiased else nn.Conv2d, bias=False),
        linear=nn.Linear,
        norm2d=nn.BatchNorm2d,
        norm=nn.LayerNorm,
        activation=partial(nn.ReLU, inplace=True),
        pool=partial(_max_then_half if antialiased else nn.MaxPool2d, 3, stride=2, padding=1),
        is_bcos=False,
    )


def standard_vit_parts(*, antialiased: bool = False) -> Parts:
    """Those of the ordinary vision transformers of B-cos v2."""
    return Parts(
        conv=partial(_conv, nn.Conv2d, AntialiasedConv2d if antialiased else nn.Conv2d),
        linear=nn.Linear,
        norm2d=partial(nn.GroupNorm, 1),
        norm=nn.LayerNorm,
        activation=nn.GELU,
        pool=nn.Identity,
        is_bcos=False,
    )


def halved(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
    """Half as many places along each axis, after a binomial low-pass about their middles.

    Strides without it leave grids in explanations, since some pixels take part in more places
    than their neighbours (Zhang 2019, "Making Convolutional Networks Shift-Invariant Again").
    An even number of pixels is filtered by (1 3 3 1)/8 between every second pair of them, its
    border repeated: by (1 2 1)/4 about pixels of even index, as there, each halving would move
    explanations half a pixel to the top left. An odd number has its middles on these pixels, and
    beyond its border lies nothing. So every pixel takes part as much as any other.
    """
    high, wide = (side % 2 == 0 for side in x.shape[2:])
    if high == wide:
        return _thinned(x, (2, 2), is_even=high)
    return _thinned(_thinned(x, (2, 1), is_even=high), (1, 2), is_even=wide)


def _thinned(
    x: Float[Tensor, "n c h w"], pair: tuple[int, int], *, is_even: bool
) -> Float[Tensor, "n c y x"]:
    """`halved` along the axes where `pair` is 2, which are all even or all odd."""
    edge = (pair[0] // 2, pair[1] // 2)
    # (1 2 1) is (1 1) of (1 1), and (1 3 3 1) is (1 1) of that
    x = functional.avg_pool2d(x, pair, stride=1, padding=edge, count_include_pad=not is_even)
    if is_even:
        x = functional.avg_pool2d(x, pair, stride=1)
    return functional.avg_pool2d(x, pair)


class Halved(nn.Module):
    """`halved` in place of a pool with stride 2."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
        """Filtered and thinned out."""
        return halved(x)


class _Antialiased(nn.Module):
    """A convolution of stride 2 whose stride is taken by `halved`; its keys stay as they are."""

    def __init__(self, *arguments: Any, stride: int, **settings: Any) -> None:
        super().__init__(*arguments, stride=1, **settings)
        conv: Any = getattr(self, "linear", self)
        if stride != 2 or any(side % 2 == 0 for side in conv.kernel_size):
            raise InvalidInput(
                f"A convolution with kernel {conv.kernel_size} and stride {stride} has no "
                "anti-aliased form; the rule is an odd kernel and stride 2. Leave out "
                "antialiased=True, or take a ResNet, DenseNet or ViT-C."
            )
        self.is_pointwise = conv.kernel_size == (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Before kernels of one pixel (which costs a quarter), after others."""
        found: Tensor = super().forward(halved(x) if self.is_pointwise else x)
        return found if self.is_pointwise else halved(found)


class AntialiasedBcosConv2d(_Antialiased, BcosConv2d):
    """B-cos, with a low-pass for its stride."""


class AntialiasedConv2d(_Antialiased, nn.Conv2d):
    """Ordinary, with a low-pass for its stride."""


def _conv(
    plain: Callable[..., nn.Module], strided: Callable[..., nn.Module], *arguments: int,
    stride: int = 1, **settings: Any,
) -> nn.Module:  # fmt: skip
    """`strided` where there is a stride."""
    kind = plain if stride == 1 else strided
    return kind(*arguments, stride=stride, **settings)


def _max_then_half(size: int, *, stride: int, padding: int) -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(size, stride=1, padding=padding), Halved())


class StochasticDepth(nn.Module):
    """Leaves a branch out for a share of the images in training (Huang et al. 2016)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise InvalidInput(f"stochastic_depth is {share}; the rule is 0 to below 1.")
        self.share = share

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Nothing or 1 / (1 - share) times x for each image."""
        if not self.training or self.share == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.share)
        return x * kept.div_(1 - self.share)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{self.share:g}"


def rising(share: float, blocks: int) -> list[float]:
    """Stochastic depth of each block: from 0 at the first to `share` at the last."""
    return [share * block / max(blocks - 1, 1) for block in range(blocks)]
