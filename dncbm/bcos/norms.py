"""Norms for dynamic linear networks: a variance that multiplies, and nothing that is added.

"Uncentered" norms divide by the standard deviation without subtracting the mean, since a mean over
images or places would be a term of its own; the variance is the usual one, about the mean. Norms
that centre are linear too, if the mean is that of the same image. In explanation mode variances
are constants. All have a scale, and a bias only where asked for; state dicts have torch's keys.
Source: B-cos v2 (Böhle et al. 2024).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.bcos.mode import added, explaining, held, with_gradient_of
from dncbm.errors import InvalidInput

Maps = Float[Tensor, "n c h w"]


class _Affine(nn.Module):
    """Scale, and bias if any, of each channel."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, channels: int, *, eps: float, affine: bool, bias: bool) -> None:
        super().__init__()
        self.num_channels, self.eps = channels, eps
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if bias else None)

    def _rescaled(self, x: Tensor) -> Tensor:
        if self.weight is not None:
            x = x * self.weight[:, None, None]
        if self.bias is not None:
            x = x + added(self.bias[:, None, None], x, "bias")
        return x

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{self.num_channels}, eps={self.eps}, bias={self.bias is not None}"


class _OverBatch(_Affine):
    """Variance of the batch in training, of all batches so far (with their momentum) else."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, channels: int, *, statistics: int, eps: float, momentum: float | None,
        affine: bool, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__(channels, eps=eps, affine=affine, bias=bias)
        self.momentum = momentum
        # never read: checkpoints have it
        self.register_buffer("running_mean", torch.zeros(statistics))
        self.register_buffer("running_var", torch.ones(statistics))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def _variance(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        if not self.training:
            return self.running_var
        variance = held(x).var(dim=axes, correction=0).reshape(self.running_var.shape)
        self._track(variance)
        return variance

    @torch.no_grad()
    def _track(self, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1.0 / float(self.num_batches_tracked)
        self.running_var.lerp_(variance.detach().to(self.running_var), share)


class BatchNormUncentered2d(_OverBatch):
    """x / σ of each channel, over batch and places.

    The running variance is the biased one, unlike in torch's BatchNorm.
    """

    def __init__(
        self, channels: int, *, eps: float = 1e-5, momentum: float | None = 0.1,
        affine: bool = True, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            channels, statistics=channels, eps=eps, momentum=momentum, affine=affine, bias=bias
        )

    def forward(self, x: Maps) -> Maps:
        """Scaled by one factor per channel."""
        scale = self._deviations(x)
        if self.weight is not None:
            scale = scale * self.weight
        x = x * scale[:, None, None].to(x.dtype)
        return x if self.bias is None else x + added(self.bias[:, None, None], x, "bias")

    def _deviations(self, x: Tensor) -> Tensor:
        """1 / σ of each channel."""
        if self.training and not torch.compiler.is_compiling():
            scale, variance = _Inverse.apply(held(x), self.eps)
            self._track(variance)
            return scale
        return (self._variance(x, (0, 2, 3)) + self.eps).rsqrt()


class _Inverse(torch.autograd.Function):
    """1 / sqrt(variance + eps) of each channel, by torch's fused kernel; and the variance."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        x, eps = arguments
        mean, scale = torch.batch_norm_stats(x, eps) if x.is_cuda else _stats(x, eps)
        ctx.save_for_backward(x, mean, scale)
        ctx.eps = eps
        variance = scale.double().pow(-2).sub(eps).clamp_min(0).to(scale.dtype)
        ctx.mark_non_differentiable(variance)
        return scale, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative: mean and scale depend on x
            mean = x.mean(dim=(0, 2, 3))
            scale = (x.var(dim=(0, 2, 3), correction=0) + ctx.eps).rsqrt()
        count = x.numel() // x.shape[1]
        slope = -(gradients[0] * scale**3 / count)
        return (x - mean[:, None, None]) * slope[:, None, None], None


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    _, mean, scale = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
    return mean, scale


class AllNormUncentered2d(_OverBatch):
    """x / σ with one σ for the whole batch; scale and bias are single numbers."""

    def __init__(
        self, channels: int, *, eps: float = 1e-5, momentum: float | None = 0.1,
        affine: bool = True, bias: bool = False,
    ) -> None:  # fmt: skip
        del channels  # taken so that norms can stand in for each other
        super().__init__(1, statistics=1, eps=eps, momentum=momentum, affine=affine, bias=bias)

    def forward(self, x: Maps) -> Maps:
        """Scaled by one factor."""
        variance = self._variance(x, (0, 1, 2, 3))
        return self._rescaled(x * (variance + self.eps).rsqrt().to(x.dtype))


class GroupNorm2d(_Affine):
    """Each image's groups of channels by their own σ, with or without their mean.

    One group is a layer norm of the maps, one per channel an instance norm.

    Raises:
        InvalidInput: the groups do not divide the channels.
    """

    def __init__(
        self, channels: int, *, groups: int = 1, centred: bool = True, eps: float = 1e-5,
        affine: bool = True, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(channels, eps=eps, affine=affine, bias=bias)
        if groups < 1 or channels % groups:
            raise InvalidInput(f"{groups} groups do not divide {channels} channels.")
        self.groups, self.centred = groups, centred

    def forward(self, x: Maps) -> Maps:
        """Normalised within each group."""
        parts = x.unflatten(1, (self.groups, -1))
        return self._rescaled(_normalised(parts, (2, 3, 4), self.centred, self.eps).flatten(1, 2))


class PositionNorm2d(_Affine):
    """Each place's channels by their σ, with or without their mean."""

    def __init__(
        self, channels: int, *, centred: bool = True, eps: float = 1e-5, affine: bool = True,
        bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(channels, eps=eps, affine=affine, bias=bias)
        self.centred = centred

    def forward(self, x: Maps) -> Maps:
        """Normalised at each place."""
        return self._rescaled(_normalised(x, (1,), self.centred, self.eps))


class LayerNorm(nn.LayerNorm):
    """Torch's layer norm of the last axis, whose variance explanation mode holds."""

    def __init__(self, width: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False):
        super().__init__(width, eps=eps, elementwise_affine=affine, bias=bias)

    def forward(self, x: Float[Tensor, "n *axes d"]) -> Float[Tensor, "n *axes d"]:
        """Normalised, scaled and shifted."""
        if not explaining():
            return super().forward(x)
        path = _normalised(x, (-1,), True, self.eps)
        if self.weight is not None:
            path = path * self.weight
        if self.bias is not None:
            path = path + added(self.bias.expand(*x.shape[1:-1], -1), x, "bias")
        return with_gradient_of(super().forward(x), path)


def _normalised(x: Tensor, axes: tuple[int, ...], centred: bool, eps: float) -> Tensor:
    variance = held(x).var(dim=axes, keepdim=True, correction=0)
    if centred:
        x = x - x.mean(dim=axes, keepdim=True)
    return x * (variance + eps).rsqrt()
