"""What stands between a tower and a contrastive loss, and is left out afterwards."""

from collections import OrderedDict
from typing import final

from torch import nn

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
