"""What networks are made of: the same architecture as a B-cos network or as an ordinary one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.layers import BcosConv2d, BcosLinear
from dncbm.bcos.norms import BatchNormUncentered2d, GroupNorm2d, LayerNorm, PositionNorm2d
from dncbm.errors import InvalidInput, UnknownName

Norm2d = Literal["batch", "position", "layer"]
NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNormUncentered2d,
    "position": PositionNorm2d,
    "layer": GroupNorm2d,
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


def bcos_parts(
    *, b: float = 2.0, max_out: int = 1, norm: str = "batch", eps: float = 1e-5,
    antialiased: bool = False,
) -> Parts:  # fmt: skip
    """Those of B-cos v2: no activations, no biases, means for maxima.

    Args:
        b: exponent B.
        max_out: units per output.
        norm: `batch` (uncentred), `position` or `layer` (centred).
        eps: of the norms of maps.
        antialiased: strides are taken after a low-pass, see `Antialiased`.

    Raises:
        UnknownName: another norm.
    """
    if norm not in NORMS:
        raise UnknownName("norm", norm, NORMS)
    conv: Callable[..., nn.Module] = partial(BcosConv2d, b=b, max_out=max_out)
    pool: Callable[[], nn.Module] = partial(nn.AvgPool2d, 3, stride=2, padding=1)
    return Parts(
        conv=partial(_antialiased, conv) if antialiased else conv,
        linear=partial(BcosLinear, b=b, max_out=max_out),
        norm2d=partial(NORMS[norm], eps=eps),
        norm=LayerNorm,
        activation=nn.Identity,
        pool=partial(LowPass, 2) if antialiased else pool,
        is_bcos=True,
    )


def standard_parts() -> Parts:
    """Those of the ordinary twin."""
    return Parts(
        conv=partial(nn.Conv2d, bias=False),
        linear=nn.Linear,
        norm2d=nn.BatchNorm2d,
        norm=nn.LayerNorm,
        activation=partial(nn.ReLU, inplace=True),
        pool=partial(nn.MaxPool2d, 3, stride=2, padding=1),
        is_bcos=False,
    )


class LowPass(nn.Module):
    """Binomial 3 x 3 filter with a stride: what lies between its places is not lost.

    Strides without it leave grids in explanations, since some pixels take part in more places
    than their neighbours (Zhang 2019, "Making Convolutional Networks Shift-Invariant Again").
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
        """Filtered and thinned out; borders are repeated."""
        line = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
        kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, kernel, stride=self.stride, groups=x.shape[1])


class Antialiased(nn.Module):
    """A convolution whose stride is taken by a low-pass after it; keys are the convolution's."""

    def __init__(self, conv: nn.Module, stride: int) -> None:
        super().__init__()
        self.linear = conv.linear
        self.__dict__["conv"] = conv  # no second set of keys
        self.low_pass = LowPass(stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        """At stride 1, then filtered and thinned out."""
        found: Tensor = self.low_pass(self.__dict__["conv"](x))
        return found


def _antialiased(
    conv: Callable[..., nn.Module], *arguments: int, stride: int = 1, **settings: object
) -> nn.Module:
    if stride == 1:
        return conv(*arguments, **settings)
    return Antialiased(conv(*arguments, stride=1, **settings), stride)


def check_channels(x: Tensor, channels: int) -> None:
    """Refuse images of another number of channels.

    Raises:
        InvalidInput: with the shape, the rule and what to do.
    """
    if x.dim() != 4 or x.shape[1] != channels:
        encode = (
            " Encode three colours by `dncbm.bcos.inputs.inverse`, or wrap the network in an "
            "ImageModel."
            if channels == 6
            else ""
        )
        raise InvalidInput(
            f"Images have shape {tuple(x.shape)}; the rule is (n, {channels}, h, w).{encode}"
        )
