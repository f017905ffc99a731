"""Layers that only converted networks have."""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.convert.options import ConvertOptions
from dncbm.bcos.layers import BcosConv2d, BcosLinear
from dncbm.bcos.mode import added, explaining, held, with_gradient_of
from dncbm.errors import InvalidInput

Layer = TypeVar("Layer", bound=nn.Module)
_LEARNABLE_ONE = 1 + 1e-6
"""Where a learnable B starts instead of 1: a layer at exactly 1 skips its factor."""


def filled(layer: Layer, **tensors: Tensor | None) -> Layer:
    """A layer made on the meta device, with these tensors as its own (double underscore = dot)."""
    state = {
        name.replace("__", "."): value.detach()
        for name, value in tensors.items()
        if value is not None
    }
    layer.load_state_dict(state, assign=True)
    return layer


def exponent(layer: Layer, options: ConvertOptions) -> Layer:
    """The layer with a learnable B, if the options say so."""
    if options.b_mode == "learnable":
        parameter = next(layer.parameters())
        start = max(options.b, _LEARNABLE_ONE)
        layer.b = nn.Parameter(torch.tensor(start, dtype=parameter.dtype, device=parameter.device))
    return layer


def start_b(options: ConvertOptions) -> float:
    """B of the layers at first."""
    return 1.0 if options.b_mode == "annealed" else options.b


def bcos_linear(weight: Tensor, bias: Tensor | None, options: ConvertOptions) -> BcosLinear:
    """A B-cos layer with the weights (o, i) of a linear one."""
    bias = bias if options.biased else None
    with torch.device("meta"):
        layer = BcosLinear(
            weight.shape[1], weight.shape[0], bias=bias is not None, b=start_b(options),
            unit_norm=options.normalize_weights,
        )  # fmt: skip
    return exponent(filled(layer, linear__weight=weight, linear__bias=bias), options)


class PlainLinear(nn.Linear):
    """A linear layer outside B-cos (attention), which writes down its bias."""

    def forward(self, x: Float[Tensor, "n *axes i"]) -> Float[Tensor, "n *axes o"]:
        """X times the weights, plus the bias."""
        out = functional.linear(x, self.weight)
        if self.bias is None:
            return out
        return out + added(self.bias.expand(*x.shape[1:-1], -1), x, "bias")


def plain_linear(weight: Tensor, bias: Tensor | None, options: ConvertOptions) -> PlainLinear:
    """A plain layer with these weights (o, i)."""
    bias = bias if options.biased else None
    with torch.device("meta"):
        layer = PlainLinear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return filled(layer, weight=weight, bias=bias)


class Gate(nn.Module):
    """x times a gate that depends on x: smooth activations, squeeze-and-excitation.

    Explanation mode holds the gate f(x) / x. Where x is 0, it is 0 as that of ReLU.

    Args:
        function: any f with f(0) = 0, element by element or as x times something.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """f(x)."""
        if not explaining():
            return self.function(x)
        with torch.no_grad():
            # a copy, as the function may work in place
            value = self.function(x.clone())
            gate = torch.where(x == 0, 0, value / x)
        return with_gradient_of(value, x * gate)


class BatchNormCentred2d(nn.BatchNorm2d):
    """Torch's batch norm, whose mean and bias are written down as one bias."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalised.

        Raises:
            InvalidInput: explanation mode in training, where the mean is that of other images too.
        """
        if not explaining():
            return super().forward(x)
        if self.training or self.running_var is None or self.running_mean is None:
            raise InvalidInput(
                "A network with centred batch norms is explained in training mode. "
                "Call eval() first, or convert with norm='uncentred'."
            )
        scale = (self.running_var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -self.running_mean * scale
        shift = shift if self.bias is None else shift + self.bias
        path = x * scale[:, None, None] + added(shift[:, None, None], x, "bias")
        return with_gradient_of(super().forward(x), path)


class PooledHead(BcosConv2d):
    """The last linear layer at each place, then the mean over places."""

    keep_axes = False
    """Whether the result is (n, o, 1, 1), as where the layer was a convolution."""

    def forward(self, x: Float[Tensor, "n *axes"]) -> Float[Tensor, "n o *ones"]:
        """Maps (n, i, h, w), or flat (n, i·h·w), to their mean (n, o)."""
        places = super().forward(x.reshape(len(x), self.linear.in_channels, -1, 1))
        return places.mean(dim=(2, 3), keepdim=self.keep_axes)


def pooled_head(head: BcosLinear | BcosConv2d) -> PooledHead:
    """A head that averages what `head` says at each place."""
    weight = head.linear.weight
    with torch.device("meta"):
        layer = PooledHead(
            weight.shape[1], weight.shape[0], bias=head.linear.bias is not None,
            unit_norm=head.unit_norm,
        )  # fmt: skip
    filled(layer, linear__weight=weight.reshape(*weight.shape[:2], 1, 1),
           linear__bias=head.linear.bias)  # fmt: skip
    layer.b, layer.keep_axes = head.b, isinstance(head, BcosConv2d)
    return layer


class AttentionPool(nn.Module):
    """CLIP's attention pooling: the mean of all places asks each place for its value.

    Query and key are held in explanation mode; values are linear. All four layers are plain, as in
    the released B-cosified CLIP.

    Args:
        layers: query, key, value and output.
        position: (1 + places, i) or None.
        heads: of the attention.
    """

    positional_embedding: nn.Parameter | None

    def __init__(self, layers: list[PlainLinear], position: Tensor | None, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = layers
        self.num_heads = heads
        kept = None if position is None else nn.Parameter(position.detach())
        self.register_parameter("positional_embedding", kept)

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o"]:
        """Pooled.

        Raises:
            InvalidInput: another number of places than positions.
        """
        tokens = x.flatten(2).mT
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = positioned(tokens, self.positional_embedding)
        held_tokens = held(tokens)
        query = _heads(_multiplier(self.q_proj, held_tokens[:, :1]), self.num_heads)
        key = _heads(_multiplier(self.k_proj, held_tokens), self.num_heads)
        value = _heads(self.v_proj(tokens), self.num_heads)
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self.c_proj((weights @ value).transpose(1, 2).flatten(1))


def positioned(tokens: Tensor, position: Tensor | None) -> Tensor:
    """Tokens (n, t, d) plus positions (t, d).

    Raises:
        InvalidInput: another number of tokens than positions.
    """
    if position is None:
        return tokens
    if len(position) != tokens.shape[1]:
        raise InvalidInput(
            f"The image gives {tokens.shape[1]} tokens, but the network has {len(position)} "
            "positions. Give images of the size that the original network takes."
        )
    return tokens + added(position, tokens, "position")


def _multiplier(layer: nn.Linear, x: Tensor) -> Tensor:
    """A layer whose result multiplies: its bias is no part of the sum."""
    return functional.linear(x, layer.weight, layer.bias)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
