"""A small learned change of a frozen tower's embedding."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn


@final
class Adapter(nn.Module):
    """x + W₂ relu(W₁ x): nothing at the start, as W₂ begins at zero.

    Residual adapters (Houlsby et al. 2019; CLIP-Adapter, Gao et al. 2021).

    Args:
        width: d of the embeddings.
        hidden: width between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The changed embeddings."""
        changed: Tensor = embeddings + self.up(self.down(embeddings).relu())
        return changed


@final
class AdaptedTower(nn.Module):
    """An image tower and an adapter behind it.

    Args:
        tower: pixels to embeddings (n, d).
        width: d.
        hidden: of the adapter.
    """

    def __init__(self, tower: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.tower, self.adapter = tower, Adapter(width, hidden)

    def forward(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Adapted embeddings."""
        return self.adapter(self.tower(pixels))
