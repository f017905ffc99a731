"""GridPG, DiFull and DiPart: what of a grid of images an output can see (Rao et al. 2022).

A setting wraps a network without changing it: pictures of n x n cells go in, and it takes itself
apart at any layer of the network, so every attribution method runs on it as on a network.

- GridPG: the network sees the whole picture; one output per class, and every cell may speak for it.
- DiFull: the network sees each cell alone, and has a head per cell; what is not in the cell cannot
  have any influence. Exact for every architecture, vision transformers and CLIP included.
- DiPart: the layers up to the last one with places see the whole picture; pooling and head see the
  cell's region of their features. Receptive fields may reach over the border of a cell.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from dncbm.attribution.headed import entry
from dncbm.attribution.layers import (
    Layer,
    Places,
    Split,
    layer_of,
    not_once,
    output_replaced,
    split_at,
)
from dncbm.attribution.places import Backbone, backbone_of
from dncbm.attribution.resolution import takes, with_interpolated_positions
from dncbm.attribution.tiles import cut, stitch
from dncbm.errors import InvalidInput, UnknownName

FITS = ("auto", "whole", "resize", "interpolate")
SettingName = Literal["gridpg", "difull", "dipart"]


class Setting(nn.Module):
    """A network that sees pictures of `side` x `side` cells, each of the network's own size.

    Args:
        network: images (n, c, h, w) to outputs (n, k); shared, and never changed.
        side: cells along a side.
    """

    name: ClassVar[SettingName]
    corners: ClassVar[bool]
    """Whether bottom-right repeats the class of top-left and only these two are scored."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        if side < 1 or (self.corners and side < 2):
            raise InvalidInput(
                f"side is {side}; the rule is at least 1, and 2 where corners are compared."
            )
        self.network, self.side = network, side
        self.train(network.training)

    @abstractmethod
    def split(
        self, images: Float[Tensor, "g c hh ww"], layer: Layer = None, *, create_graph: bool = False
    ) -> Split:
        """The setting at a layer of the network, whose features lie as the cells do."""

    @abstractmethod
    def _values(self, output: Tensor, classes: Tensor, cells: Tensor) -> Float[Tensor, "m t"]:
        """Outputs for the classes of some cells; `classes` (m, t) belongs to `cells` (t)."""

    @property
    def scored(self) -> tuple[int, ...]:
        """Cells that are scored, row by row."""
        cells = self.side * self.side
        return (0, cells - 1) if self.corners else tuple(range(cells))

    def targets(
        self, classes: Int64[Tensor, "g cells"], scored: Sequence[int] | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Of each scored cell, the output for its class: (g, scored cells).

        Args:
            classes: of all cells.
            scored: cells, row by row; by default those of the setting.

        Raises:
            InvalidInput: not one class per cell, or a class that does not exist.
        """
        cells = torch.tensor(self.scored if scored is None else list(scored))
        if classes.dim() != 2 or classes.shape[1] != self.side**2:
            raise InvalidInput(
                f"Classes have shape {tuple(classes.shape)}; the rule is (grids, {self.side**2}), "
                "one per cell."
            )
        wanted = classes[:, cells]

        def chosen(output: Tensor) -> Tensor:
            _require_classes(wanted, output.shape[-1])
            times = len(output) // len(wanted)
            repeated = wanted.repeat(times, 1).to(output.device)
            return self._values(output, repeated, cells.to(output.device))

        return chosen

    def check(self, images: Float[Tensor, "g c hh ww"]) -> None:
        """Refuse pictures that the setting cannot have, or a network that it is not defined for.

        Raises:
            InvalidInput: with the reason.
        """
        self._require_grid(images)

    def _require_grid(self, images: Tensor) -> None:
        if images.dim() != 4 or any(length % self.side for length in images.shape[-2:]):
            raise InvalidInput(
                f"Pictures have shape {tuple(images.shape)}; the rule is (grids, channels, h, w) "
                f"with h and w divisible by {self.side}."
            )


@final
class GridPG(Setting):
    """The whole picture through the network: (g, k).

    Global average pools see the mean over all cells. A fully connected head behind an adaptive pool
    (torchvision's VGG) sees the picture pooled to the size it knows, and an attention pool attends
    over all cells; where either takes one size only, the picture has to fit it.

    Args:
        network: see `Setting`.
        side: cells along a side.
        fit: how the picture fits. `whole`: as it is. `resize`: bilinear down to the size of a cell,
            the network's own. `interpolate`: its learned positions are interpolated, in a copy that
            shares all other weights. `auto`: whole where the network takes that, else resize.

    Raises:
        UnknownName: another fit.
        InvalidInput: no positions to interpolate.
    """

    name = "gridpg"
    corners = False

    def __init__(self, network: nn.Module, side: int, *, fit: str = "auto") -> None:
        if fit not in FITS:
            raise UnknownName("fit", fit, FITS)
        if fit == "interpolate":
            network = with_interpolated_positions(network, side)
        super().__init__(network, side)
        self.fit = fit
        self._takes: dict[tuple[int, ...], bool] = {}

    def forward(self, images: Float[Tensor, "g c hh ww"]) -> Float[Tensor, "g k"]:
        """Outputs of the pictures."""
        self._require_grid(images)
        return self.network(self._fitted(images, self.chosen_fit(images)))

    def split(
        self, images: Float[Tensor, "g c hh ww"], layer: Layer = None, *, create_graph: bool = False
    ) -> Split:
        """The network at a layer; at the input, features have the size of the picture."""
        self._require_grid(images)
        fit = self.chosen_fit(images)
        encode, network = entry(self.network)
        if layer is None:
            whole = encode(images)
            return split_at(lambda x: network(self._fitted(x, fit)), whole)
        seen, module = encode(self._fitted(images, fit)), layer_of(self.network, layer)
        return split_at(network, seen, module, create_graph=create_graph)

    def chosen_fit(self, images: Float[Tensor, "g c hh ww"]) -> str:
        """How pictures of this size are made to fit."""
        if self.fit != "auto":
            return self.fit
        shape = tuple(images.shape[1:])
        if shape not in self._takes:
            self._takes[shape] = takes(self.network, torch.zeros_like(images[:1]))
        return "whole" if self._takes[shape] else "resize"

    def _fitted(self, images: Tensor, fit: str) -> Tensor:
        if fit != "resize":
            return images
        size = (images.shape[-2] // self.side, images.shape[-1] // self.side)
        return functional.interpolate(images, size, mode="bilinear", antialias=True)

    def _values(self, output: Tensor, classes: Tensor, cells: Tensor) -> Tensor:
        return output.gather(1, classes)


class _PerCell(Setting):
    """One head per cell: outputs (g, cells, k)."""

    corners = True

    def _values(self, output: Tensor, classes: Tensor, cells: Tensor) -> Tensor:
        return output[:, cells].gather(2, classes[..., None])[..., 0]


@final
class DiFull(_PerCell):
    """Each cell through the network alone; head i is a function of cell i only."""

    name = "difull"

    def forward(self, images: Float[Tensor, "g c hh ww"]) -> Float[Tensor, "g cells k"]:
        """Outputs of each cell."""
        self._require_grid(images)
        return self._heads(self.network)(images)

    def split(
        self, images: Float[Tensor, "g c hh ww"], layer: Layer = None, *, create_graph: bool = False
    ) -> Split:
        """The setting at a layer: features of all cells, stitched to one map."""
        self._require_grid(images)
        encode, network = entry(self.network)
        seen = encode(images)
        if layer is None:
            return split_at(self._heads(network), seen)
        module, port = layer_of(self.network, layer), nn.Identity()
        stitched = self._stitched(network, module, port)
        return split_at(stitched, seen, port, create_graph=create_graph)

    def _heads(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        cells = self.side * self.side
        return lambda images: network(cut(images, self.side)).unflatten(0, (-1, cells))

    def _stitched(
        self, network: Callable[[Tensor], Tensor], module: nn.Module, port: nn.Module
    ) -> Callable[[Tensor], Tensor]:
        """The network whose features at `module` pass `port` as one map per picture."""

        def forward(images: Tensor) -> Tensor:
            calls: list[None] = []

            def through(output: object) -> Tensor:
                calls.append(None)
                if len(calls) > 1:
                    raise not_once(module, 2)
                places = Places.of(module, output, cells.shape)
                whole = port(stitch(places.features_of(output), self.side))  # type: ignore[arg-type]
                return places.output_of(cut(whole, self.side), output)  # type: ignore[arg-type]

            cells = cut(images, self.side)
            with output_replaced(module, through):
                output = network(cells)
            if not calls:
                raise not_once(module, 0)
            return output.unflatten(0, (-1, self.side**2))

        return forward


@final
class DiPart(_PerCell):
    """Features of the whole picture; pooling and head on the region of each cell.

    The last layer with places is by default the last module whose features grow with the picture,
    where only pools and fully connected layers come after it. Vision transformers, whose tokens see
    the whole picture, and attention pools have no head of a region: DiFull is exact for them.

    Args:
        network: see `Setting`.
        side: cells along a side.
        last: the last layer before pooling and head, by name or itself; by default see above.
    """

    name = "dipart"

    def __init__(self, network: nn.Module, side: int, *, last: Layer = None) -> None:
        super().__init__(network, side)
        self._asked = None if last is None else layer_of(network, last)
        self._found: dict[Any, Backbone] = {}

    def forward(self, images: Float[Tensor, "g c hh ww"]) -> Float[Tensor, "g cells k"]:
        """Outputs of each cell.

        Raises:
            InvalidInput: the network has no head of a region.
        """
        last = self.backbone(images).last
        encode, network = entry(self.network)
        seen = encode(images)
        return self._heads(network, last, seen)(seen)

    def split(
        self, images: Float[Tensor, "g c hh ww"], layer: Layer = None, *, create_graph: bool = False
    ) -> Split:
        """The setting at a layer up to the last one with places.

        Raises:
            InvalidInput: the network has no head of a region, or the layer is part of the head.
        """
        backbone = self.backbone(images)
        encode, network = entry(self.network)
        seen = encode(images)
        heads = self._heads(network, backbone.last, seen)
        if layer is None:
            return split_at(heads, seen)
        module = layer_of(self.network, layer)
        backbone.require(module)
        features = _features_at(network, backbone.last)
        inner = split_at(features, seen, module, create_graph=create_graph)
        head = self._head(network, backbone.last, seen)
        return Split(inner.features, lambda other: head(inner.explain(other)))

    def check(self, images: Float[Tensor, "g c hh ww"]) -> None:
        """As in every setting; and the network needs a head of a region.

        Raises:
            InvalidInput: it has none, with the reason.
        """
        self.backbone(images)

    def backbone(self, images: Float[Tensor, "g c hh ww"]) -> Backbone:
        """Where the network's head begins, for pictures of this size.

        Raises:
            InvalidInput: nowhere.
        """
        self._require_grid(images)
        key = tuple(images.shape[1:])
        if key not in self._found:
            cell = torch.zeros_like(images[:1, :, : key[1] // self.side, : key[2] // self.side])
            self._found[key] = backbone_of(self.network, cell, self.side, self._asked)
        return self._found[key]

    def _heads(
        self, network: Callable[[Tensor], Tensor], last: nn.Module, images: Tensor
    ) -> Callable[[Tensor], Tensor]:
        features, head = _features_at(network, last), self._head(network, last, images)
        return lambda pictures: head(features(pictures))

    def _head(
        self, network: Callable[[Tensor], Tensor], last: nn.Module, images: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Features of whole pictures to outputs of cells.

        The network runs on the cells again with its features replaced: what comes after its last
        layer with places is all that counts, whatever kind of network it is.
        """

        def head(features: Tensor) -> Tensor:
            cells = cut(images.detach(), self.side)
            regions = cut(features, self.side)
            cells = cells.repeat(len(regions) // len(cells), 1, 1, 1)
            with output_replaced(last, lambda _output: regions):
                return network(cells).unflatten(0, (-1, self.side**2))

        return head


def setting_named(name: str, network: nn.Module, side: int) -> Setting:
    """A setting with its defaults.

    Raises:
        UnknownName: there is no such setting.
    """
    kinds: dict[str, type[Setting]] = {kind.name: kind for kind in (GridPG, DiFull, DiPart)}
    if name not in kinds:
        raise UnknownName("setting", name, kinds)
    return kinds[name](network, side)


def _features_at(
    network: Callable[[Tensor], Tensor], last: nn.Module
) -> Callable[[Tensor], Tensor]:
    """The network up to a layer."""

    def features(images: Tensor) -> Tensor:
        found: list[Tensor] = []

        def keep(output: object) -> Tensor:
            assert isinstance(output, Tensor)  # it was seen to be so
            found.append(output)
            return output

        with output_replaced(last, keep):
            network(images)
        if len(found) != 1:
            raise not_once(last, len(found))
        return found[0]

    return features


def _require_classes(wanted: Tensor, count: int) -> None:
    if bool(((wanted < 0) | (wanted >= count)).any()):
        worst = int(wanted.max() if int(wanted.max()) >= count else wanted.min())
        raise InvalidInput(f"Class {worst} does not exist; the network has 0 to {count - 1}.")
