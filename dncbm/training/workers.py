"""Several processes that train one model on shares of each batch, or one that does it alone."""

from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


@runtime_checkable
class Workers(Protocol):
    """What data-parallel training needs: everything else is the same in every process."""

    rank: int
    """Of this process, from 0."""
    size: int
    """Number of processes."""

    def share(self, rows: Shaped[Tensor, "n"]) -> Shaped[Tensor, "m"]:
        """The process's part of what all work on, in order."""
        ...

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""
        ...

    def smallest(self, value: Tensor) -> Tensor:
        """The smallest of all processes' values."""
        ...

    def gather(self, values: Shaped[Tensor, "m"]) -> Shaped[Tensor, "all"]:
        """All processes' values, one after the other; their numbers may differ."""
        ...

    def share_first_(self, *tensors: Tensor) -> None:
        """Replace each tensor by that of the first process."""
        ...


class Alone:
    """One process: nothing to exchange."""

    rank, size = 0, 1

    def share(self, rows: Shaped[Tensor, "n"]) -> Shaped[Tensor, "n"]:
        """All rows."""
        return rows

    def sum_(self, *tensors: Tensor) -> None:
        """Nothing to add."""

    def smallest(self, value: Tensor) -> Tensor:
        """The value."""
        return value

    def gather(self, values: Shaped[Tensor, "m"]) -> Shaped[Tensor, "m"]:
        """The values."""
        return values

    def share_first_(self, *tensors: Tensor) -> None:
        """Nothing to replace."""


class ProcessGroup:
    """The default group of `torch.distributed`, which somebody else started (torchrun, Ray)."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def share(self, rows: Shaped[Tensor, "n"]) -> Shaped[Tensor, "m"]:
        """An even part; parts differ by one row where the number does not divide."""
        return rows.tensor_split(self.size)[self.rank]

    def sum_(self, *tensors: Tensor) -> None:
        """One exchange per type: small tensors travel together."""
        # In order of appearance: a set's order differs between processes.
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            packed = torch.cat([tensor.flatten() for tensor in same])
            dist.all_reduce(packed)
            parts = packed.split([tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def smallest(self, value: Tensor) -> Tensor:
        """By an all-reduce."""
        found = value.clone()
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return found

    def gather(self, values: Shaped[Tensor, "m"]) -> Shaped[Tensor, "all"]:
        """Padded to the longest for the exchange."""
        length = torch.tensor([len(values)], device=values.device)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        longest = max(int(length) for length in lengths)
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])

    def share_first_(self, *tensors: Tensor) -> None:
        """One broadcast each."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


ALONE = Alone()


def current_workers() -> Workers:
    """The processes that `torch.distributed` knows of, or this one alone."""
    ready = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return ProcessGroup() if ready else ALONE
