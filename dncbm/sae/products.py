"""The large matrix products of a training step, in one precision and into reused memory.

Letters: n rows, d width, c concepts. A step of a dense autoencoder has five products of n·c·d
multiplications and next to nothing else, provided that the n x c tables between them are not
allocated anew each time: filling fresh pages costs as much as a bfloat16 product. So each
table lives in a named buffer that the next step overwrites.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_EXACT_IN_BFLOAT16 = 256
"""Counts up to here are exact in bfloat16, whose products are fast."""


class Products:
    """Precision and buffers of one training run; gradients arrive in the parameters' precision.

    Args:
        dtype: of the operands; None leaves them as they are.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """A table (rows, columns) whose content is whatever its last user left."""
        size, held = rows * columns, self._buffers.get(name)
        if held is None or held.numel() < size or held.dtype != like.dtype:
            held = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[name] = held
        return held[:size].view(rows, columns)

    def cast(self, tensor: Tensor) -> Tensor:
        """In the precision of the products."""
        return tensor if self.dtype is None else tensor.to(self.dtype)

    @torch.no_grad()
    def pre_activations(
        self,
        inputs: Float[Tensor, "n d"],
        weight: Float[Tensor, "c d"],
        bias: Float[Tensor, "c"],
        name: str = "pre",
    ) -> Float[Tensor, "n c"]:
        """`inputs @ weight.T + bias`, valid until the next call with this name."""
        narrow = self.cast(inputs)
        out = self.buffer(name, len(inputs), len(weight), like=narrow)
        return torch.addmm(self.cast(bias), narrow, self.cast(weight).T, out=out)

    def tracked(
        self,
        pre: Float[Tensor, "n c"],
        inputs: Float[Tensor, "n d"],
        weight: Float[Tensor, "c d"],
        bias: Float[Tensor, "c"],
    ) -> Float[Tensor, "n c"]:
        """What `pre_activations` gave, now differentiable in weight and bias; not in inputs."""
        tracked: Tensor = _Tracked.apply(inputs, weight, bias, pre, self)
        return tracked

    def rectified(
        self,
        pre: Float[Tensor, "n c"],
        inputs: Float[Tensor, "n d"],
        weight: Float[Tensor, "c d"],
        bias: Float[Tensor, "c"],
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, ""]]:
        """As `tracked`, of the positive part, which is written over `pre`; and its sum."""
        codes, total = _Rectified.apply(inputs, weight, bias, pre, self)
        return codes, total

    def jumped(
        self,
        pre: Float[Tensor, "n c"],
        inputs: Float[Tensor, "n d"],
        weight: Float[Tensor, "c d"],
        bias: Float[Tensor, "c"],
        threshold: Float[Tensor, "c"],
        bandwidth: float,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, ""]]:
        """As `rectified`, of `dncbm.sae.gates.JumpReLU`'s codes, and the number of active ones."""
        codes, active = _Jumped.apply(inputs, weight, bias, threshold, pre, bandwidth, self)
        return codes, active

    def decode(
        self, codes: Float[Tensor, "n c"], dictionary: Float[Tensor, "c d"], name: str = "slopes"
    ) -> Float[Tensor, "n d"]:
        """`codes @ dictionary` in the dictionary's precision, differentiable in both."""
        reconstruction: Tensor = _Decode.apply(codes, dictionary, self, name)
        return reconstruction

    def count_active(self, codes: Float[Tensor, "n c"]) -> Int[Tensor, "c"]:
        """In how many rows each code is above 0; products with ones, as sums over rows are slow."""
        active = self.buffer("active", len(codes), codes.shape[1], like=codes)
        return self.column_counts(torch.gt(codes, 0, out=active))

    def column_counts(self, marks: Float[Tensor, "n c"]) -> Int[Tensor, "c"]:
        """Sums over rows of a table of zeros and ones."""
        ones = marks.new_ones(1, _EXACT_IN_BFLOAT16)
        parts = [ones[:, : len(part)] @ part for part in marks.split(_EXACT_IN_BFLOAT16)]
        return torch.cat(parts).sum(dim=0, dtype=torch.float64).long()


class _Tracked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, weight, bias, pre, products = arguments
        ctx.saved = products.cast(inputs), weight.dtype, bias.dtype
        return pre.view_as(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *_encoder_gradients(gradients[0], *ctx.saved), None, None


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        inputs, weight, bias, pre, products = arguments
        codes = pre.relu_().view_as(pre)
        ctx.save_for_backward(codes)
        ctx.products = products
        ctx.saved = products.cast(inputs), weight.dtype, bias.dtype
        # Rounded per row only: a sum in another type than the codes' would copy the table.
        return codes, codes.sum(dim=1).to(weight.dtype).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (codes,) = ctx.saved_tensors
        slopes = ctx.products.buffer("rectified", *codes.shape, like=codes)
        torch.add(gradients[0], gradients[1].to(codes.dtype), out=slopes)
        torch.ops.aten.threshold_backward.grad_input(slopes, codes, 0, grad_input=slopes)
        return *_encoder_gradients(slopes, *ctx.saved), None, None


class _Jumped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        inputs, weight, bias, threshold, pre, bandwidth, products = arguments
        narrow = threshold.to(pre.dtype)
        active = torch.gt(pre, narrow, out=products.buffer("passed", *pre.shape, like=pre))
        codes = torch.mul(pre, active, out=products.buffer("codes", *pre.shape, like=pre))
        ctx.pre, ctx.active, ctx.narrow, ctx.products = pre, active, narrow, products
        ctx.threshold, ctx.bandwidth = threshold, bandwidth
        ctx.saved = products.cast(inputs), weight.dtype, bias.dtype
        return codes.view_as(codes), products.column_counts(active).sum().to(threshold.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, products = ctx.pre, ctx.products
        distance = torch.sub(pre, ctx.narrow, out=products.buffer("near", *pre.shape, like=pre))
        near = torch.lt(distance.abs_(), ctx.bandwidth / 2, out=distance)
        counts = products.column_counts(near).to(ctx.threshold.dtype)
        slopes = torch.mul(
            gradients[0], ctx.active, out=products.buffer("jumped", *pre.shape, like=pre)
        )
        through = near.mul_(gradients[0])
        pulled = (through.new_ones(1, len(through)) @ through)[0].to(ctx.threshold.dtype)
        into_threshold = -(ctx.threshold * pulled + gradients[1] * counts) / ctx.bandwidth
        return *_encoder_gradients(slopes, *ctx.saved), into_threshold, None, None, None


def _encoder_gradients(
    slopes: Tensor, inputs: Tensor, of_weight: torch.dtype, of_bias: torch.dtype
) -> tuple[None, Tensor, Tensor]:
    into_bias = (slopes.new_ones(1, len(slopes)) @ slopes)[0]
    return None, (slopes.T @ inputs).to(of_weight), into_bias.to(of_bias)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        codes, dictionary, products, name = arguments
        narrow = products.cast(dictionary)
        ctx.save_for_backward(codes)  # which notices where a buffer was overwritten meanwhile
        ctx.saved = narrow, products, name
        return (products.cast(codes) @ narrow).to(dictionary.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (codes,), (narrow, products, name) = ctx.saved_tensors, ctx.saved
        error = products.cast(gradients[0].contiguous())
        into_codes = into_dictionary = None
        if ctx.needs_input_grad[0]:
            out = products.buffer(name, *codes.shape, like=error)
            into_codes = torch.mm(error, narrow.T, out=out).to(codes.dtype)
        if ctx.needs_input_grad[1]:
            into_dictionary = (products.cast(codes).T @ error).to(gradients[0].dtype)
        return into_codes, into_dictionary, None, None
