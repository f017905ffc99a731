"""What stands between a tower and a contrastive loss, and is left out afterwards."""

from collections import OrderedDict
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from dncbm.errors import InvalidInput


@final
class ProjectionHead(nn.Sequential):
    """SimCLR's head with batch norms: d → hidden → out, a ReLU between, a norm after both.

    As in the protocol of the temperature schedules (Kukleva et al. 2023): d → d → 128. The tower's
    own output, before the head, is what is used later.

    Args:
        width: d.
        hidden: width between; None: d.
        out: width of what the loss sees.
    """

    def __init__(self, width: int, *, hidden: int | None = None, out: int = 128) -> None:
        inside = hidden if hidden is not None else width
        if min(width, inside, out) < 1:
            raise InvalidInput(
                f"A projection head of widths {width}, {inside}, {out}; each is at least 1."
            )
        super().__init__(
            OrderedDict(
                linear1=nn.Linear(width, inside, bias=False),
                norm1=nn.BatchNorm1d(inside),
                relu=nn.ReLU(),
                linear2=nn.Linear(inside, out, bias=False),
                norm2=nn.BatchNorm1d(out),
            )
        )


@final
class Adapter(nn.Module):
    """x + s · W₂ relu(W₁ x): a small change of a frozen tower's embedding, none at the start.

    Residual adapters (Houlsby et al. 2019; CLIP-Adapter, Gao et al. 2021): W₂ begins at zero.

    Args:
        width: d.
        hidden: width between; None: a quarter of d, at least 1.
    """

    def __init__(self, width: int, *, hidden: int | None = None) -> None:
        super().__init__()
        inside = hidden if hidden is not None else max(1, width // 4)
        self.down, self.up = nn.Linear(width, inside), nn.Linear(inside, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The changed embeddings."""
        changed: Tensor = embeddings + self.up(self.down(embeddings).relu())
        return changed
