"""All workers' rows with gradients to all of them: negatives from the whole batch."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.training.workers import Workers


def gather_rows(rows: Float[Tensor, "m D"], workers: Workers) -> tuple[Float[Tensor, "n D"], int]:
    """Every worker's rows, one worker after the other, and the place of the own ones among them.

    Workers may have different numbers of rows. Backwards, each worker gets the sum over workers
    of the gradients to its rows; all must go backwards, since they exchange there.
    """
    if workers.size == 1:
        return rows, 0
    counts = workers.gather(torch.tensor([len(rows)], device=rows.device))
    first = int(counts[: workers.rank].sum())
    return _Gathered.apply(rows, workers, first), first


class _Gathered(torch.autograd.Function):
    """Forwards an exchange of rows, backwards one of gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, workers: Workers, first: int) -> Tensor:
        ctx.workers, ctx.own = workers, slice(first, first + len(rows))
        return workers.gather(rows.detach().flatten()).view(-1, rows.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        ctx.workers.sum_(total)
        return total[ctx.own], None, None
