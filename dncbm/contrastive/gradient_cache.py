"""Large contrastive batches in the memory of small ones: the gradient cache.

Gao et al. 2021 (GradCache, arXiv:2101.06983). A contrastive loss needs all embeddings of a batch
at once, but not all activations: (1) embed chunk by chunk without a graph, (2) compute loss and
gradients to the embeddings, (3) embed each chunk again, with a graph, and go backwards from those
gradients. It costs a second forward pass; gradients are those of the plain step, up to rounding.

Batch norms see a chunk, not the batch: with them the result is that of a network that is called
chunk by chunk. Their running statistics move once.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dncbm.errors import InvalidInput

Embed = Callable[[slice], tuple[Tensor, ...]]
"""Some rows of the batch to their embeddings, (m, D) each: two views, or images and texts.

Called twice for the same rows, it must do the same: draws from the global generators are repeated,
any other stream is the caller's.
"""


def embedded(
    network: nn.Module, embed: Embed, count: int, chunk_size: int | None
) -> tuple[Tensor, ...]:
    """Embeddings of a batch, from which one goes backwards as usual.

    Args:
        network: its buffers (running statistics) move in the first pass only.
        embed: calls the network.
        count: rows of the batch.
        chunk_size: rows in memory at once; None or `count` and more: all, with a graph. Chunks
            are of even sizes, so that none has a single row where others have many.

    Raises:
        InvalidInput: a chunk size below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise InvalidInput(f"The chunk size is {chunk_size}; the rule is at least 1.")
    if chunk_size is None or chunk_size >= count:
        return embed(slice(0, count))
    parts, states, found = chunks(count, chunk_size), [], []
    with torch.no_grad():
        for part in parts:
            states.append(_Randomness.now())
            found.append(embed(part))
    replay = _Replay(network, embed, parts, states, _Products.now(found[0][0].device.type))
    whole = [torch.cat(rows) for rows in zip(*found, strict=True)]
    anchor = torch.zeros((), requires_grad=True)  # so that the outputs want a gradient
    return tuple(_Replayed.apply(anchor, replay, *whole))


def chunks(count: int, size: int) -> list[slice]:
    """Rows 0 to `count` in as few parts of at most `size` as there can be, of even sizes."""
    number = math.ceil(count / size)
    edges = [round(place * count / number) for place in range(number + 1)]
    return [slice(start, end) for start, end in zip(edges, edges[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class _Randomness:
    """State of the global generators, which dropout draws from."""

    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def now(cls) -> "_Randomness":
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(torch.get_rng_state(), tuple(cuda))

    @contextmanager
    def again(self) -> Iterator[None]:
        """The state as it was, within the block."""
        with torch.random.fork_rng(devices=range(len(self.cuda))):
            torch.set_rng_state(self.cpu)
            for device, state in enumerate(self.cuda):
                torch.cuda.set_rng_state(state, device)
            yield


@dataclass(frozen=True, slots=True)
class _Products:
    """The precision of products, which the way back does not remember."""

    kind: str
    dtype: torch.dtype
    lower: bool

    @classmethod
    def now(cls, kind: str) -> "_Products":
        return cls(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    def again(self) -> torch.autocast:
        """A context with that precision."""
        return torch.autocast(self.kind, dtype=self.dtype, enabled=self.lower)


@dataclass(frozen=True, slots=True)
class _Replay:
    """The second pass."""

    network: nn.Module
    embed: Embed
    parts: list[slice]
    states: list[_Randomness]
    products: _Products

    def backward(self, gradients: tuple[Tensor, ...]) -> None:
        """Embed each chunk again and add its gradients to those of the parameters."""
        buffers = list(self.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        for part, state in zip(self.parts, self.states, strict=True):
            with torch.enable_grad(), state.again(), self.products.again():
                found = self.embed(part)
            wanted = [g[part] for g in gradients]
            pairs = [(f, g) for f, g in zip(found, wanted, strict=True) if f.requires_grad]
            if pairs:
                torch.autograd.backward([f for f, _ in pairs], [g for _, g in pairs])
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


class _Replayed(torch.autograd.Function):
    """Embeddings on whose way back the second pass runs."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, replay: _Replay, *rows: Tensor) -> tuple[Tensor, ...]:
        ctx.replay = replay
        return tuple(part.view_as(part) for part in rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ctx.replay.backward(gradients)
        return (None,) * (2 + len(gradients))
