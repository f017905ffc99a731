"""What turns pre-activations (n, c) into sparse non-negative codes (n, c).

A variant that training is to be fast with also says which entries matter, because at most of
them the code is 0 and so is every gradient: see `Selecting`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dncbm.errors import InvalidInput, UnknownName
from dncbm.sae import chosen
from dncbm.sae.gates import Gated, JumpReLU
from dncbm.training.workers import ALONE, Workers


@runtime_checkable
class Activation(Protocol):
    """The seam for new variants: any callable with a name and plain settings.

    An `nn.Module` may hold parameters or buffers (a JumpReLU its thresholds): they are
    stored with the model. `ACTIVATIONS` makes a variant loadable by name.
    """

    name: str

    def settings(self) -> dict[str, int | float]:
        """Keyword arguments that build the same activation again."""
        ...

    def __call__(self, pre_activations: Any, /) -> Any:
        """Codes, >= 0, of the same shape."""
        ...


@runtime_checkable
class Selecting(Protocol):
    """An activation whose training step can leave out most entries."""

    def select(self, pre_activations: Any, /) -> Any:
        """Flat positions (m), ascending by row, of the entries that may have a code or gradient.

        None where they are so many that dense products are faster.
        """
        ...

    def codes_of(self, pre_activations: Any, concepts: Any, /) -> Any:
        """Codes of chosen entries, differentiable in the activation's own parameters too.

        Takes their pre-activations (m) and concepts (m), or a whole table (n, c) and None.
        """
        ...

    def sparsity(self, pre_activations: Any, concepts: Any, /) -> Any:
        """What the sparsity penalty sums over the same entries; a scalar."""
        ...


class ReLU(nn.Module):
    """The positive part; sparsity comes from an L1 penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "relu"

    def settings(self) -> dict[str, int | float]:
        """No settings."""
        return {}

    def forward(self, pre_activations: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """max(0, pre-activation)."""
        return torch.relu(pre_activations)

    def select(self, pre_activations: Float[Tensor, "n c"]) -> Int[Tensor, "m"] | None:
        """The positive entries."""
        if not chosen.few(chosen.sampled_rows(pre_activations) > 0, pre_activations.dtype):
            return None
        return chosen.positions(~(pre_activations <= 0))  # negated, so that the loss shows NaN

    def codes_of(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """The positive part."""
        return pre_activations.relu()

    def sparsity(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Sum of the codes."""
        return pre_activations.relu().sum()


class TopK(nn.Module):
    """The k largest pre-activations of each row, negatives cut to 0 (Gao et al. 2406.04093)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.name = "topk"
        self.k = _checked(k)

    def settings(self) -> dict[str, int | float]:
        """The number of codes kept per row."""
        return {"k": self.k}

    def forward(self, pre_activations: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Codes with at most k non-zero entries in every row."""
        values, indices = pre_activations.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre_activations).scatter(-1, indices, values.relu())

    def select(self, pre_activations: Float[Tensor, "n c"]) -> Int[Tensor, "m"]:
        """The k largest entries of every row, m = n k, ascending by row."""
        rows, concepts = pre_activations.shape
        columns = chosen.largest_per_row(pre_activations, self.k)
        first = torch.arange(rows, device=columns.device)[:, None] * concepts
        return (columns + first).flatten()

    def codes_of(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """The positive part of chosen entries."""
        return pre_activations.relu()

    def sparsity(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Sum of the codes of chosen entries."""
        return pre_activations.relu().sum()


class BatchTopK(nn.Module):
    """The k·n largest positive pre-activations of a batch (Bussmann et al. 2412.06410).

    In evaluation mode rows must not depend on each other: a pre-activation passes where it
    exceeds `threshold`, the running mean of the smallest value that training kept.
    """

    threshold: Tensor
    seen: Tensor

    def __init__(self, k: int, *, momentum: float = 0.01) -> None:
        super().__init__()
        self.name = "batchtopk"
        self.k = _checked(k)
        self.momentum = momentum
        self.workers: Workers = ALONE  # whose rows make up the batch
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def settings(self) -> dict[str, int | float]:
        """Mean number of codes kept per row, and the speed of the running threshold."""
        return {"k": self.k, "momentum": self.momentum}

    def forward(self, pre_activations: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Codes with k non-zero entries per row on average."""
        return pre_activations.relu() * self._kept(pre_activations.detach())

    def select(self, pre_activations: Float[Tensor, "n c"]) -> Int[Tensor, "m"]:
        """The kept entries, m = n k where so many are positive."""
        return chosen.positions(self._kept(pre_activations))

    def codes_of(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """The positive part of chosen entries."""
        return pre_activations.relu()

    def sparsity(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Sum of the codes of chosen entries."""
        return pre_activations.relu().sum()

    def _kept(self, pre_activations: Tensor) -> Tensor:
        if not self.training:
            return pre_activations > self.threshold.clamp(min=0)
        smallest = chosen.kth_largest_of_all(pre_activations, self.k, self.workers)
        self._follow(smallest.relu().float())
        # Where fewer than k n entries are positive all of them are kept: zeros are not active.
        # Negated, so that NaN stays and the loss shows it.
        return ~(pre_activations < smallest.clamp(min=torch.finfo(smallest.dtype).tiny))

    def _follow(self, smallest: Tensor) -> None:
        # The first batches average plainly, so that the start value 0 leaves no trace.
        self.seen += 1
        weight = torch.clamp(1 / self.seen, min=self.momentum)
        self.threshold += weight * (smallest - self.threshold)


ACTIVATIONS: dict[str, Callable[..., Activation]] = {
    "relu": ReLU,
    "topk": TopK,
    "batchtopk": BatchTopK,
    "jumprelu": JumpReLU,
    "gated": Gated,
}


def build_activation(name: str, settings: dict[str, int | float]) -> Activation:
    """The activation called `name`.

    Raises:
        UnknownName: no activation of this name.
    """
    if name not in ACTIVATIONS:
        raise UnknownName("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name](**settings)


def _checked(k: int) -> int:
    if k < 1:
        raise InvalidInput(f"k is {k}; at least one code per row must stay. Choose k >= 1.")
    return k
