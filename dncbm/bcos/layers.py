"""The B-cos transform (Böhle et al. 2022, 2024) as a linear layer and a convolution.

    y = |cos(x, w)|^(B-1) · w·x = w(x)·x       with w of unit length (B-cos v2)

The factor grows with how well the input agrees with the weights, so training aligns weights with
what matters in the input. B-cosified networks (Arya et al. 2024) keep the lengths of their trained
weights: y = (|w·x| / |x|)^(B-1) · w·x.

Weights lie under `linear.`, as in the checkpoints of B-cos v2.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.mode import added, explaining, held
from dncbm.errors import InvalidInput

_EPS_FACTOR = 1e-6
"""Added to |cos| where its power has no gradient at 0."""
_EPS_SQUARES = 1e-6
"""Added to the squared length of a patch, as in B-cos v2."""
_EPS_LENGTH = 1e-12
"""Added to the length of a row, as in B-cos v2."""

_CACHED = 1 << 18
"""Numbers that are worked on at once where no gradients are needed."""

Size = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class BcosLinear(nn.Module):
    """B-cos on the last axis.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: added to w·x before the factor; B-cosification can keep it.
        b: exponent B ≥ 1; 1 is a linear map.
        max_out: units per output, of which the largest counts; row o * max_out + m is unit m of o.
        unit_norm: weights as unit rows (B-cos v2), or as they are (B-cosified networks).

    Raises:
        InvalidInput: B below 1, or no unit.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, b: float = 2.0,
        max_out: int = 1, unit_norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        _check(b, max_out)
        self.b, self.max_out, self.unit_norm = b, max_out, unit_norm
        self.linear = nn.Linear(in_features, out_features * max_out, bias=bias)

    def forward(self, x: Float[Tensor, "n *axes i"]) -> Float[Tensor, "n *axes o"]:
        """Y = w(x)·x."""
        out = functional.linear(x, _rows(self.linear.weight, self.unit_norm))
        if self.linear.bias is not None:
            out = out + added(self.linear.bias.expand(*x.shape[1:-1], -1), x, "bias")
        if self.max_out > 1:
            out = out.unflatten(-1, (-1, self.max_out)).max(dim=-1).values
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True) + _EPS_LENGTH
        return aligned(out, lengths, self.b)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"b={self.b}, max_out={self.max_out}, unit_norm={self.unit_norm}"


class BcosConv2d(nn.Module):
    """B-cos on patches; the arguments of `torch.nn.Conv2d` and of `BcosLinear`.

    With groups, |x| is the length of the part of the patch that a group sees.
    """

    def __init__(  # noqa: PLR0913 - those of torch's convolution
        self, in_channels: int, out_channels: int, kernel_size: Size = 1, *, stride: Size = 1,
        padding: Size | Literal["same", "valid"] = 0, dilation: Size = 1, groups: int = 1,
        padding_mode: PaddingMode = "zeros", bias: bool = False, b: float = 2.0,
        max_out: int = 1, unit_norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        _check(b, max_out)
        self.b, self.max_out, self.unit_norm = b, max_out, unit_norm
        self.linear = nn.Conv2d(
            in_channels, out_channels * max_out, kernel_size, stride=stride, padding=padding,
            dilation=dilation, groups=groups, padding_mode=padding_mode, bias=bias,
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o y x"]:
        """Y = w(x)·x at each place."""
        weight = _rows(self.linear.weight, self.unit_norm)
        out: Tensor = self.linear._conv_forward(x, weight, None)
        if self.linear.bias is not None:
            out = out + added(self.linear.bias[:, None, None], x, "bias")
        if self.max_out > 1:
            out = out.unflatten(1, (-1, self.max_out)).max(dim=2).values
        if not isinstance(self.b, Tensor) and self.b == 1:
            return out
        return aligned(out, self._lengths(x, out.shape[1]), self.b)

    def _lengths(self, x: Tensor, outputs: int) -> Tensor:
        """Length of the patch behind each place: (n, 1 or outputs, y, x)."""
        conv, groups = self.linear, self.linear.groups
        parts = x.unflatten(1, (groups, -1))
        # the lengths of pixels, as their norm is one pass over the input and squares are two
        squares = torch.linalg.vector_norm(parts, dim=2).square()
        ones = squares.new_ones(1, 1, *conv.kernel_size).expand(groups, -1, -1, -1)
        lengths = (conv._conv_forward(squares, ones, None) + _EPS_SQUARES).sqrt()
        return lengths if groups == 1 else lengths.repeat_interleave(outputs // groups, dim=1)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"b={self.b}, max_out={self.max_out}, unit_norm={self.unit_norm}"


class LogitLayer(nn.Module):
    """z / T + bias; without parameters.

    The bias starts sigmoids at one in `num_classes`, where training starts too.
    """

    def __init__(self, *, temperature: float | None = None, bias: float | None = None) -> None:
        super().__init__()
        self.temperature, self.bias = temperature, bias

    def forward(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Scaled and shifted."""
        if self.temperature is not None:
            logits = logits / self.temperature
        if self.bias is None:
            return logits
        return logits + added(logits.new_full((logits.shape[1],), self.bias), logits, "bias")

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"temperature={self.temperature}, bias={self.bias}"


def logit_bias(num_classes: int) -> float:
    """Log of the odds of one in `num_classes`; 0 for a single class."""
    return -math.log(max(num_classes - 1, 1))


def aligned(out: Tensor, lengths: Tensor, b: float | Tensor) -> Tensor:
    """w·x times its factor (|w·x| / |x|)^(B-1), which explanation mode holds constant.

    Without gradients `out` itself is overwritten.
    """
    if not isinstance(b, Tensor) and b == 1:
        return out
    if explaining() or torch.compiler.is_compiling():
        b = held(b) if isinstance(b, Tensor) else b
        return out * _factor(held(out), held(lengths), b)
    if torch.is_grad_enabled():
        if not isinstance(b, Tensor) and b == 2:
            squared: Tensor = _Squared.apply(out, lengths)
            return squared
        return out * _factor(out, lengths, b)
    # a part at a time, which stays in the cache and needs no fresh memory
    rows = max(_CACHED * len(out) // max(out.numel(), 1), 1)
    for part, length in zip(out.split(rows), lengths.split(rows), strict=True):
        part.mul_(_factor(part, length, b))
    return out


class _Squared(torch.autograd.Function):
    """out |out| / lengths; keeps only its arguments, a third of the memory of its parts."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        out, lengths = arguments
        ctx.save_for_backward(out, lengths)
        return out.abs().div_(lengths).mul_(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        out, lengths = ctx.saved_tensors
        weighted = gradients[0] * (out.abs() / lengths)
        into_lengths = (weighted * out).sum_to_size(lengths.shape) / -lengths
        return weighted * 2, into_lengths


def _factor(out: Tensor, lengths: Tensor, b: float | Tensor) -> Tensor:
    if not isinstance(b, Tensor) and b == 2:
        return out.abs() / lengths
    return ((out / lengths).abs() + _EPS_FACTOR) ** (b - 1)


def _rows(weight: Tensor, unit_norm: bool) -> Tensor:
    if not unit_norm:
        return weight
    axes = tuple(range(1, weight.dim()))
    lengths = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    return weight / lengths.clamp_min(torch.finfo(weight.dtype).tiny)


def _check(b: float, max_out: int) -> None:
    if not (math.isfinite(b) and b >= 1):
        raise InvalidInput(f"B is {b}; the rule is a number of at least 1. 2 is usual.")
    if max_out < 1:
        raise InvalidInput(f"max_out is {max_out}; the rule is at least 1 unit per output.")
