"""Teacher and student before the same crops, each with the pixels that it was made for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from dncbm.data.views import Views


@final
class Viewed(nn.Module):
    """A network of common crops: shares of white (n, 3, h, w), of any size, go in.

    Args:
        network: takes the pixels that `views` makes.
        views: its size, mean and standard deviation. A crop that is larger is shrunk with a
            low-pass, a smaller one is interpolated.
    """

    def __init__(self, network: nn.Module, views: Views) -> None:
        super().__init__()
        self.network, self.views = network, views

    def forward(self, shares: Float[Tensor, "n 3 h w"]) -> Tensor:
        """What the network makes of them."""
        return self.network(self.views.of_shares(shares))


def common_views(parts: Sequence[Views]) -> Views:
    """Crops for all networks: as large as the largest wants, as shares of white.

    How crops are drawn is the first one's.
    """
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return replace(parts[0], size=max(views.size for views in parts), mean=zero, std=one)
