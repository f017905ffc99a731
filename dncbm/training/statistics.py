"""Further passes through a network that learns, which its running statistics must not remember."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Norms of batches go on normalising by the batch, but their running statistics stay.

    An explanation passes images through the network that it is not asked to classify, such as the
    darkened ones of integrated gradients; evaluation would normalise by the statistics of those.
    """
    norms: list[Any] = [
        m for m in network.modules() if hasattr(m, "running_var") and hasattr(m, "momentum")
    ]
    momenta = [norm.momentum for norm in norms]
    counts = [getattr(norm, "num_batches_tracked", None) for norm in norms]
    before = [None if count is None else count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, value in zip(norms, momenta, counts, before, strict=True):
            norm.momentum = momentum
            if count is not None:
                count.copy_(value)
