"""What a network's decision for a class rests on, in the form that e2KD compares.

Ordinary networks are explained by Grad-CAM at their last block (at the size of the images),
input x gradient or integrated gradients (a map each), B-cos networks by the dynamic weights W(x)
themselves: six channels, not the contributions, which the input would dominate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dncbm.attribution import methods
from dncbm.attribution.layers import token_grid
from dncbm.attribution.methods import upsampled
from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import ImageModel
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.statistics import statistics_kept

GRADCAM: Final = "gradcam"
IXG: Final = "ixg"
INTGRAD: Final = "intgrad"
BCOS: Final = "bcos"
NONE: Final = "none"
KINDS = (GRADCAM, IXG, INTGRAD, BCOS)


class Explained(NamedTuple):
    """A pass over some images."""

    logits: Float[Tensor, "n K"]
    maps: Float[Tensor, "n i y x"]
    """At the resolution where they were made; `upsampled` brings them to the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explainer:
    """One kind of explanation of one network."""

    kind: str
    """One of `KINDS`."""
    layer: str | None = None
    """Where Grad-CAM looks; see `last_block`."""
    steps: int = 8
    """Of integrated gradients."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("explanation", self.kind, [*KINDS, NONE])
        if self.kind == GRADCAM and self.layer is None:
            raise InvalidInput("Grad-CAM needs a layer. Find one with `last_block`.")

    @classmethod
    def of(
        cls, kind: str, network: nn.Module, example: Float[Tensor, "n 3 h w"],
        *, layer: str | None = None, steps: int = 8,
    ) -> "Explainer":  # fmt: skip
        """The explanation of a network, its layer found where none is named.

        Args:
            kind: one of `KINDS`.
            network: in any mode, which it keeps.
            example: pixels that it takes.
            layer: of Grad-CAM.
            steps: of integrated gradients.

        Raises:
            UnknownName: no such kind.
            InvalidInput: W(x) of a network that is not B-cos, or no layer for Grad-CAM.
        """
        if kind == BCOS and not isinstance(network, ImageModel):
            raise InvalidInput(
                f"W(x) is asked for, but a {type(network).__name__} is no B-cos network. Choose "
                f"{GRADCAM}, {IXG} or {INTGRAD} for it."
            )
        if kind == GRADCAM and layer is None:
            layer = last_block(network, example)
        return cls(kind=kind, layer=layer, steps=steps)

    def __call__(
        self, network: nn.Module, pixels: Float[Tensor, "n 3 h w"],
        classes: Int64[Tensor, " n"] | None = None, *, create_graph: bool = False,
    ) -> Explained:  # fmt: skip
        """Logits and explanations, by default of each image's best class.

        Args:
            network: with the layer.
            pixels: what it takes.
            classes: one per image.
            create_graph: keep what a loss on logits and maps needs to train the network.
        """
        if create_graph:  # fused attention has no second derivative
            with sdpa_kernel(SDPBackend.MATH):
                return self._explained(network, pixels, classes, create_graph=True)
        return self._explained(network, pixels, classes, create_graph=False)

    def _explained(
        self, network: nn.Module, pixels: Tensor, classes: Tensor | None, *, create_graph: bool
    ) -> Explained:
        logits: list[Tensor] = []

        def seen(images: Tensor) -> Tensor:
            found: Tensor = network(images)
            logits.append(found)
            return found

        if self.kind in (GRADCAM, IXG):  # their forward pass gives the logits too
            method = methods.grad_cam if self.kind == GRADCAM else methods.input_x_gradient
            layer = None if self.layer is None else network.get_submodule(self.layer)
            layer = layer if self.kind == GRADCAM else None
            maps = method(seen, pixels, classes, layer=layer, create_graph=create_graph)
            return Explained(logits[0] if create_graph else logits[0].detach(), maps)
        with torch.set_grad_enabled(create_graph):
            answers = network(pixels)
        best = answers.argmax(dim=1) if classes is None else classes
        with statistics_kept(network):
            return Explained(answers, self._further(network, pixels, best, create_graph))

    def _further(
        self, network: nn.Module, pixels: Tensor, classes: Tensor, create_graph: bool
    ) -> Tensor:
        if self.kind == INTGRAD:
            return methods.integrated_gradients(
                network, pixels, classes, steps=self.steps, create_graph=create_graph
            )
        return explain(network, pixels, classes, create_graph=create_graph).weights[:, 0]

    def contributions(
        self, network: nn.Module, pixels: Float[Tensor, "n 3 h w"], classes: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n h w"]:
        """What each pixel adds, for figures of where it lies: of B-cos, W(x) times the input."""
        if self.kind == BCOS:
            return explain(network, pixels, classes).maps[:, 0]
        found = self(network, pixels, classes).maps
        return upsampled(found, (pixels.shape[-2], pixels.shape[-1]))[:, 0]


def resized(maps: Float[Tensor, "n i y x"], size: int) -> Float[Tensor, "n i size size"]:
    """Maps at a size at which those of another network are; shrunk with a low-pass."""
    if max(maps.shape[-2:]) <= size:
        return upsampled(maps, (size, size))
    return functional.interpolate(maps, (size, size), mode="bilinear", antialias=True)


def require_comparable(student: nn.Module, teacher: nn.Module, kind: str) -> None:
    """Refuse W(x) of inputs that are encoded in different ways, whose channels mean other things.

    Raises:
        InvalidInput: with both encodings.
    """
    pair = [n.encoding for n in (student, teacher) if isinstance(n, ImageModel)]
    if kind == BCOS and len(pair) == 2 and pair[0] != pair[1]:
        raise InvalidInput(
            f"W(x) cannot be compared: the student's input is encoded as {pair[0]!r}, the "
            f"teacher's as {pair[1]!r}. Choose {GRADCAM} or {IXG}, or a student of the same kind."
        )


def last_block(network: nn.Module, example: Float[Tensor, "n 3 h w"]) -> str:
    """Name of the last module whose places matter for the answer: where Grad-CAM looks.

    Its output has several places, its channels are not the classes, and the answer's gradient at
    the patches is not zero, as it is behind the last attention of networks that read a class token.

    Raises:
        InvalidInput: there is none.
    """
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        for name in reversed(_with_places(network, example)):
            if _matters(network, example, name):
                return name
    finally:
        for part, mode in modes:
            part.training = mode
    raise InvalidInput(
        f"No layer of {type(network).__name__} has features of several places that matter for its "
        "answer. Name one (--set training.layer=NAME), or choose another explanation."
    )


def _with_places(network: nn.Module, example: Tensor) -> list[str]:
    """Modules in the order in which they end, those called once and with several places."""
    ended: list[str] = []
    shapes: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            ended.append(name)
            shapes[name] = output.shape if isinstance(output, Tensor) else torch.Size()

        return hook

    modules = dict(network.named_modules())
    handles = [m.register_forward_hook(note(name)) for name, m in modules.items() if name]
    try:
        with torch.no_grad():
            outputs = network(example).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    high, wide = example.shape[-2:]
    return [
        name
        for name in ended
        if ended.count(name) == 1
        and _has_places(shapes[name], outputs, high, wide)
        and not (len(shapes[name]) == 4 and _within_tokens(name, shapes))
        and not (len(shapes[name]) == 3 and isinstance(modules[name], nn.Linear))  # a query, say
    ]


def _within_tokens(name: str, shapes: Mapping[str, torch.Size]) -> bool:
    """Whether a module is a part of one that gives tokens: its four axes are heads, not maps."""
    parts = name.split(".")
    around = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return any(len(shapes.get(outer, ())) == 3 for outer in around)


def _has_places(shape: torch.Size, outputs: int, high: int, wide: int) -> bool:
    if len(shape) == 4:
        rows, columns = shape[2:]
        is_alike = abs(rows * wide - columns * high) < max(high, wide)  # up to rounding
        return is_alike and rows * columns > 1 and shape[1] != outputs
    if len(shape) != 3:
        return False
    grid = token_grid(shape[1], high, wide)
    return grid is not None and grid[1][0] * grid[1][1] > 1


def _matters(network: nn.Module, example: Tensor, name: str) -> bool:
    try:
        _, gradients = methods.layer_gradients(network, example, None, name)
    except (InvalidInput, RuntimeError):  # what follows it writes into its output
        return False
    return bool(gradients.abs().sum() > 0)
