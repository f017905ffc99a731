"""Small networks that the tests of attribution share."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dncbm.attribution.layers import Layer, Split, split_at

TARGETS = torch.tensor([[2, 0], [1, 1]])
"""Two targets for each of the two images."""


def relus() -> nn.Sequential:
    """Convolutions and ReLU; layer `1` has 4 channels of 3 x 4 places."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(30, 3),
    ).double()  # fmt: skip


def images(high: int = 5, wide: int = 7) -> Tensor:
    """Two of them."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, high, wide, dtype=torch.float64, generator=draw)


def one(net: Callable[[Tensor], Tensor], k: int) -> Callable[[np.ndarray], float]:
    """Output k for a single image or its features, as oracles take it."""

    def of(x: np.ndarray) -> float:
        with torch.no_grad():
            return float(net(torch.from_numpy(x)[None])[0, k])

    return of


def each(
    found: Tensor, slow: Callable[[np.ndarray, int], np.ndarray], tolerance: float = 1e-9
) -> None:
    """Maps (n, t, y, x) of `images()` and `TARGETS` are those of the oracle."""
    assert not found.requires_grad
    for i, image in enumerate(images().numpy()):
        for t, k in enumerate(TARGETS[i].tolist()):
            np.testing.assert_allclose(found[i, t], slow(image, k), rtol=1e-5, atol=tolerance)


class Cells(nn.Module):
    """Four cells that the network sees one by one, as in DiFull: output (n, 4, k)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def split(self, pictures: Tensor, layer: Layer = None, *, create_graph: bool = False) -> Split:
        """Features are those of the cells, put together again."""
        inner = split_at(self.network, _cells(pictures), layer, create_graph=create_graph)
        features = _picture(inner.features)

        def explain(other: Tensor) -> Tensor:
            # `inner` wants all cells once, or several times after each other
            parts = _cells(other).unflatten(0, (-1, 4 * len(pictures))).flatten(0, 1)
            return inner.explain(parts).unflatten(0, (-1, 4))

        return Split(features, explain)


def _cells(pictures: Tensor) -> Tensor:
    halves = pictures.unflatten(-1, (2, -1)).unflatten(-3, (2, -1))
    return halves.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _picture(cells: Tensor) -> Tensor:
    grid = cells.unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4, 5).flatten(2, 3)
