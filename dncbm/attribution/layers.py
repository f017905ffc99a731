"""Where a network is looked into: the input, or a layer of it, as features of places.

f = f_explain ∘ f_pre is taken apart at a layer, and f_explain is explained with respect to what
f_pre gives (ML-Att, Rao et al. 2022, section 3.4), so that all methods can be compared at the same
layer. Tokens of vision transformers become features of the patches that they stand for.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.errors import InvalidInput, UnknownName

Network = Callable[[Tensor], Tensor]
"""Images (n, c, h, w) to outputs (n, k)."""
Layer = str | nn.Module | None
"""A module of a network, by its name in `named_modules()` or itself; None is the input."""
_MOST_EXTRA_TOKENS = 16
"""Class and register tokens before those of the patches."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Some images halfway through a network."""

    features: Float[Tensor, "n d y x"]
    """What f_pre gives; gradients can be taken with respect to it."""
    explain: Callable[[Tensor], Tensor]
    """f_explain: features (m, d, y, x) to outputs, where m is n or a multiple of it, all images
    after each other. For `features` themselves nothing is computed again."""


@runtime_checkable
class Splittable(Protocol):
    """A network that takes itself apart, as the settings of the grid game do."""

    def split(
        self, images: Float[Tensor, "n c h w"], layer: Layer = None, *, create_graph: bool = False
    ) -> Split:
        """The network at a layer."""
        ...


def split_at(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    layer: Layer = None,
    *,
    create_graph: bool = False,
) -> Split:
    """A network at a layer, after one forward pass.

    Args:
        forward: a module, where a layer is asked for.
        images: what it takes.
        layer: see `Layer`.
        create_graph: keep the graph from the weights before the layer to its features, so that a
            loss on maps trains them too.

    Raises:
        UnknownName: there is no such layer.
        InvalidInput: the layer is not called once, or gives neither (n, d, y, x) nor tokens.
    """
    if isinstance(forward, Splittable):
        return forward.split(images, layer, create_graph=create_graph)
    if layer is None:
        features = images.detach().clone().requires_grad_()
        return Split(features, forward)
    return _split_inside(forward, images, layer_of(forward, layer), create_graph)


def layer_of(forward: Network, layer: str | nn.Module) -> nn.Module:
    """The module that a layer names.

    Raises:
        UnknownName: there is no such module; the message has the nearest ones.
    """
    if isinstance(layer, nn.Module):
        return layer
    if not isinstance(forward, nn.Module):
        raise InvalidInput(f"Layer {layer!r} is asked for, but the network is no module with any.")
    modules = dict(forward.named_modules())
    if not layer or layer not in modules:
        raise UnknownName("layer", layer, [name for name in modules if name])
    return modules[layer]


def _split_inside(forward: Network, images: Tensor, layer: nn.Module, create_graph: bool) -> Split:
    first: list[Tensor] = []
    places: list[Places] = []

    def begin(output: object) -> Tensor:
        if places:
            raise not_once(layer, 2)
        found = Places.of(layer, output, images.shape)
        features = found.features_of(output)  # type: ignore[arg-type]  # a tensor: Places says so
        if not (create_graph and features.requires_grad):
            features = features.detach().requires_grad_()
        places.append(found)
        first.append(features)
        return found.output_of(features, output)  # type: ignore[arg-type]

    with output_replaced(layer, begin):
        result = forward(images)
    if not places:
        raise not_once(layer, 0)
    [features], [known] = first, places

    def explain(other: Tensor) -> Tensor:
        if other is features:
            return result
        times = _times(other, images)
        with output_replaced(layer, lambda output: known.output_of(other, output)):  # type: ignore[arg-type]
            return forward(images.repeat(times, 1, 1, 1))

    return Split(features, explain)


@dataclass(frozen=True, slots=True)
class Places:
    """How the output of a layer lies in space."""

    extra: int | None
    """Tokens before those of the patches; None for features that lie as (n, d, y, x)."""
    shape: tuple[int, int]
    channels_last: bool = False
    """Features lie as (n, y, x, d), as in Swin transformers."""

    @classmethod
    def of(cls, layer: nn.Module, output: object, images: torch.Size) -> "Places":
        """Of what a layer gave for images of a shape.

        Raises:
            InvalidInput: neither (n, d, y, x) nor the tokens of a grid of patches.
        """
        if isinstance(output, Tensor) and output.dim() == 4:
            _, one, two, three = output.shape
            high, wide = images[-2:]
            if two * wide != three * high and one * wide == two * high:  # the image's proportions
                return cls(None, (one, two), channels_last=True)
            return cls(None, (two, three))
        if isinstance(output, Tensor) and output.dim() == 3 and len(output) == images[0]:
            found = token_grid(output.shape[1], images[-2], images[-1])
            if found is not None:
                return cls(*found)
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InvalidInput(
            f"The layer {type(layer).__name__} gave shape {shape}; the rule is (n, c, y, x), or "
            "tokens (n, tokens, c) of a grid of patches. Give a convolution, a block or a stage."
        )

    def features_of(self, output: Tensor) -> Float[Tensor, "n d y x"]:
        """What the layer gave, as features of places."""
        if self.extra is None:
            return output.movedim(-1, 1) if self.channels_last else output
        return output[:, self.extra :].mT.unflatten(-1, self.shape)

    def output_of(self, features: Float[Tensor, "n d y x"], output: Tensor) -> Tensor:
        """The features in the form of the layer's output, whose other tokens stay."""
        if self.extra is None:
            features = features.movedim(1, -1) if self.channels_last else features
            return features.clone()  # what follows may overwrite it in place, as ReLU often do
        return torch.cat([output[:, : self.extra], features.flatten(2).mT], dim=1)


def token_grid(tokens: int, height: int, width: int) -> tuple[int, tuple[int, int]] | None:
    """Extra tokens, rows and columns of so many tokens of square patches; None if none fit."""
    for extra in range(min(_MOST_EXTRA_TOKENS, tokens - 1) + 1):
        rows = round(((tokens - extra) * height / width) ** 0.5)
        if rows and (tokens - extra) % rows == 0:
            columns = (tokens - extra) // rows
            if rows * width == columns * height:
                return extra, (rows, columns)
    return None


def _times(features: Tensor, images: Tensor) -> int:
    times, rest = divmod(len(features), len(images))
    if rest or not times:
        raise InvalidInput(
            f"{len(features)} features do not belong to {len(images)} images; the rule is all "
            "images once, or several times after each other."
        )
    return times


def not_once(layer: nn.Module, calls: int) -> InvalidInput:
    """The error of a layer that is called more or less than once."""
    return InvalidInput(
        f"The layer {type(layer).__name__} was called {calls or 'no'} times in one forward pass; "
        "the rule is once. Give a module that the network calls once."
    )


@contextmanager
def output_replaced(layer: nn.Module, by: Callable[[object], Tensor]) -> Iterator[None]:
    """What the layer gives to this thread is replaced; other threads that call it see nothing."""
    owner = threading.get_ident()

    def replace(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        return by(output) if threading.get_ident() == owner else None

    handle = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
