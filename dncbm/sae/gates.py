"""Activations with a learned gate per concept: JumpReLU and Gated.

Both act on every pre-activation for itself, so training works on the entries that pass.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dncbm.errors import InvalidInput
from dncbm.sae import chosen


class JumpReLU(nn.Module):
    """Pre-activations above a learned threshold (Rajamanoharan et al. 2407.14435).

    The threshold's gradient is their straight-through estimate with a rectangle kernel of width
    `bandwidth`, for the codes and for the number of active codes (equations 11 and 12):

        d codes / d threshold = -threshold / bandwidth · [|pre - threshold| < bandwidth / 2]
        d active / d threshold = -1 / bandwidth · [the same]

    Args:
        num_concepts: c.
        bandwidth: in the units of the pre-activations.
        threshold: where all thresholds start.
    """

    def __init__(self, num_concepts: int, *, bandwidth: float = 0.03, threshold: float = 0.1):
        super().__init__()
        for name, value in (("bandwidth", bandwidth), ("threshold", threshold)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"The JumpReLU {name} is {value}; the rule is > 0.")
        self.name = "jumprelu"
        self.bandwidth, self.start = bandwidth, threshold
        self.log_threshold = nn.Parameter(torch.full((num_concepts,), math.log(threshold)))

    def settings(self) -> dict[str, int | float]:
        """Size, kernel width and first threshold."""
        return {
            "num_concepts": len(self.log_threshold),
            "bandwidth": self.bandwidth,
            "threshold": self.start,
        }

    def forward(self, pre_activations: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The pre-activation where it exceeds its threshold, 0 elsewhere."""
        return self.codes_of(pre_activations, None)

    def select(self, pre_activations: Float[Tensor, "n c"]) -> Int[Tensor, "m"] | None:
        """Entries above the threshold or within the kernel below it."""
        bound = (self.log_threshold.exp() - self.bandwidth / 2).to(pre_activations.dtype)
        if not chosen.few(chosen.sampled_rows(pre_activations) > bound, pre_activations.dtype):
            return None
        # Not below, as a bound that was rounded up may equal an entry that is above it.
        return chosen.positions(~(pre_activations < bound))

    def codes_of(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Codes of the given entries."""
        codes: Tensor = _Jump.apply(pre_activations, self._threshold(concepts), self.bandwidth)
        return codes

    def sparsity(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Number of active codes."""
        active: Tensor = _Step.apply(
            pre_activations.detach(), self._threshold(concepts), self.bandwidth
        )
        return active

    @torch.no_grad()
    def restart(self, concepts: Int[Tensor, "m"]) -> list[nn.Parameter]:
        """First thresholds for these concepts; returns what was changed."""
        self.log_threshold[concepts] = math.log(self.start)
        return [self.log_threshold]

    def _threshold(self, concepts: Tensor | None) -> Tensor:
        threshold = self.log_threshold.exp()
        return threshold if concepts is None else _of_entries(threshold, concepts)


def _of_entries(of_concepts: Float[Tensor, "c"], concepts: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
    """Each entry's value, by the call whose gradient repeats its bits on this device."""
    return of_concepts[concepts] if concepts.is_cuda else of_concepts.index_select(0, concepts)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        pre, threshold, bandwidth = arguments
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        into_threshold = -threshold / ctx.bandwidth * (gradients[0] * near)
        return gradients[0] * (pre > threshold), into_threshold.sum_to_size(threshold.shape), None


class _Step(torch.autograd.Function):
    """The number of entries above their thresholds; differentiable in the thresholds alone."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        pre, threshold, bandwidth = arguments
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).sum().to(threshold.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(threshold.dtype)
        counts = near.sum_to_size(threshold.shape)
        return None, -gradients[0] / ctx.bandwidth * counts, None


class Gated(nn.Module):
    """A gate decides which concepts are active, a rescaled encoder how much (2404.16014).

    The pre-activation is the gate's. The magnitude shares its direction, as in the paper:

        codes = [pre > 0] · relu(exp(log_scale) · pre + offset)

    with `offset` = b_mag - exp(log_scale) · b_gate in the paper's letters. The sparsity penalty
    is on relu(pre), which must also reconstruct through a frozen dictionary (`gate_codes`).
    """

    def __init__(self, num_concepts: int) -> None:
        super().__init__()
        self.name = "gated"
        self.log_scale = nn.Parameter(torch.zeros(num_concepts))
        self.offset = nn.Parameter(torch.zeros(num_concepts))

    def settings(self) -> dict[str, int | float]:
        """Size."""
        return {"num_concepts": len(self.offset)}

    def forward(self, pre_activations: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The magnitude where the gate is open, 0 elsewhere."""
        return self.codes_of(pre_activations, None)

    def select(self, pre_activations: Float[Tensor, "n c"]) -> Int[Tensor, "m"] | None:
        """Entries with an open gate."""
        if not chosen.few(chosen.sampled_rows(pre_activations) > 0, pre_activations.dtype):
            return None
        return chosen.positions(~(pre_activations <= 0))

    def codes_of(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Codes of the given entries."""
        scale: Tensor = self.log_scale.exp()
        offset: Tensor = self.offset
        if concepts is not None:
            scale, offset = _of_entries(scale, concepts), _of_entries(offset, concepts)
        return (scale * pre_activations + offset).relu() * (pre_activations > 0)

    def sparsity(self, pre_activations: Tensor, concepts: Tensor | None) -> Tensor:
        """Sum of the open gates' pre-activations."""
        return self.gate_codes(pre_activations).sum()

    def gate_codes(self, pre_activations: Tensor) -> Tensor:
        """What the gate alone would reconstruct with."""
        return pre_activations.relu()

    @torch.no_grad()
    def restart(self, concepts: Int[Tensor, "m"]) -> list[nn.Parameter]:
        """Magnitudes equal to the gates for these concepts; returns what was changed."""
        self.log_scale[concepts] = 0.0
        self.offset[concepts] = 0.0
        return [self.log_scale, self.offset]
