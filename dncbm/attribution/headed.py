"""An image tower and a head of its embedding as one network: concepts and texts like classes."""

from collections.abc import Callable
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from dncbm.attribution.heads import Head
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.mode import explaining

Encode = Callable[[Tensor], Tensor]


@final
class Headed(nn.Module):
    """Targets of an embedding as outputs: images (n, c, h, w) to (n, t).

    Args:
        tower: images to raw embeddings (n, d); its modules are named `tower.NAME` here.
        head: embeddings to targets, such as those of `dncbm.attribution.heads`.
    """

    def __init__(self, tower: nn.Module, head: Head) -> None:
        super().__init__()
        self.tower, self.head = tower, head
        self.train(tower.training)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Tensor:
        """The targets of each image."""
        return self.head(self.tower(images))


def entry(network: nn.Module) -> tuple[Encode, Callable[[Tensor], Tensor]]:
    """What becomes of images first, and the network behind it.

    In explanation mode a B-cos network is explained by the six channels that it sees, so that
    contributions add up; otherwise by the images.
    """
    if explaining():
        if isinstance(network, ImageModel):
            return network.encode, network.network
        if isinstance(network, Headed) and isinstance(network.tower, ImageModel):
            tower, head = network.tower, network.head
            return tower.encode, lambda inputs: head(tower.network(inputs))
    return (lambda images: images), network
