"""What a guided network decides, and whose attribution is guided: classes, or what a head makes.

Everything is a function of the network's output, so that a classifier and an image tower with a
frozen head are guided by the same code.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from dncbm.attribution.catalogue import METHODS, MethodInfo, method_named
from dncbm.attribution.layers import Layer
from dncbm.bcos.inputs import ImageModel
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.statistics import statistics_kept

AUTO = "auto"
_ONE_PASS = ("gradient", "input_x_gradient", "grad_cam", "layer_cam")
"""Methods whose only forward pass is an ordinary one, which the classification can share."""


@runtime_checkable
class Task(Protocol):
    """Functions of a network's output."""

    def logits(self, output: Tensor) -> Float[Tensor, "n k"]:
        """Of the classes, before any sigmoid or softmax."""
        ...

    def guided(self, output: Tensor) -> Float[Tensor, "n g"]:
        """Values whose attributions have masks, by target."""
        ...

    def losses(self, output: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """What else is minimised, by name."""
        ...

    def measures(self, output: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """What else is measured on whole held-out photos: (n,) by name."""
        ...


@final
class Classes:
    """A classifier: its outputs are the logits, and each class is a target."""

    def logits(self, output: Tensor) -> Float[Tensor, "n k"]:
        """The outputs."""
        return output

    def guided(self, output: Tensor) -> Float[Tensor, "n k"]:
        """The outputs."""
        return output

    def losses(self, output: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """Nothing else."""
        return {}

    def measures(self, output: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """Nothing else."""
        return {}


def guiding_method(name: str, network: nn.Module | None = None) -> MethodInfo:
    """A method that a loss can train through.

    Args:
        name: as in `METHODS`; `auto` is `bcos` for a B-cos network, else `input_x_gradient`.
        network: what `auto` is decided by.

    Raises:
        UnknownName: no such method.
        InvalidInput: the method has no gradient, or is exact for B-cos networks alone.
    """
    is_bcos = isinstance(network, ImageModel)
    if name == AUTO:
        name = "bcos" if is_bcos else "input_x_gradient"
    usable = [info.name for info in METHODS.values() if info.differentiable]
    if name not in METHODS:
        raise UnknownName("attribution to guide", name, [*usable, AUTO])
    info = method_named(name)
    if not info.differentiable:
        raise InvalidInput(
            f"The attribution {name} cannot be guided: a loss on its maps has no gradient. "
            f"Choose one of {', '.join(usable)}."
        )
    if name == "bcos" and network is not None and not is_bcos:
        raise InvalidInput(
            "The attribution bcos is that of B-cos networks, and this is another. Choose "
            "input_x_gradient, or make it one by `dncbm bcosify`."
        )
    return info


@dataclass(frozen=True, slots=True, eq=False)
class Attributor:
    """Outputs of a network and maps of guided targets, at a layer."""

    network: nn.Module
    task: Task
    method: MethodInfo
    layer: Layer

    def maps(
        self, pixels: Float[Tensor, "n c h w"], targets: Int64[Tensor, "n t"]
    ) -> Float[Tensor, "n t y x"]:
        """Maps, to be looked at."""
        found: Tensor = self.method.function(
            self.network, pixels, self._values(targets), layer=self.layer
        )
        return found

    def trained(
        self, pixels: Float[Tensor, "n c h w"], targets: Int64[Tensor, "n t"], *,
        signed: bool = False,
    ) -> tuple[Tensor, Float[Tensor, "n t y x"]]:  # fmt: skip
        """The network's output and the maps, both with their graphs, by one pass where one does.

        With `signed` Grad-CAM keeps its sign, for a loss that takes the positive part by itself.
        """
        options = {"rectified": False} if signed and self.method.name == "grad_cam" else {}
        seen: list[Tensor] = []
        one_pass = self.method.name in _ONE_PASS
        if not one_pass:
            seen.append(self.network(pixels))

        def watched(images: Tensor) -> Tensor:
            seen.append(self.network(images))
            return seen[-1]

        kept = nullcontext() if one_pass else statistics_kept(self.network)
        with kept:
            maps = self.method.function(
                watched if one_pass else self.network, pixels, self._values(targets),
                layer=self.layer, create_graph=True, **options,
            )  # fmt: skip
        return seen[0], maps

    def _values(self, targets: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda output: self.task.guided(output).gather(1, targets.to(output.device))
