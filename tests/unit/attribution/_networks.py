"""Small networks that the tests of attribution share."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

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
