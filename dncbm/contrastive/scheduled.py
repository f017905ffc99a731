"""Contrastive losses whose temperature may be a schedule, may be learned, may differ by sample.

Letters: n rows of this worker, N rows of all workers, D embedding width. Losses are in nats, and
means over the own rows: those of all workers, weighed by their rows, give the loss of the whole
batch, and so do their gradients (`dncbm.training.gather`). Embeddings are normalised here.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dncbm.contrastive.temperature import Learnable, Number, PerSample, TemperatureSchedule
from dncbm.errors import InvalidInput
from dncbm.training.gather import gather_rows
from dncbm.training.workers import ALONE, Workers, current_workers

BLOCK = 1024
"""Rows of logits in memory at once; those of more rows are computed again on the way back."""


class ScheduledLoss(nn.Module):
    """What the losses share: where the temperature comes from.

    Args:
        temperature: read at every forward; assign another at any time.
        gather_distributed: take the other side of each comparison from all processes of
            `torch.distributed`.
        schedule: in place of `temperature`; `set_step` sets the value of a step.

    Raises:
        InvalidInput: a temperature that is not above 0.
    """

    def __init__(
        self, temperature: Number = 0.5, gather_distributed: bool = False, *,
        schedule: TemperatureSchedule | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if schedule is not None and not isinstance(schedule, PerSample) and schedule.lowest <= 0:
            raise InvalidInput(
                f"{schedule} falls to {schedule.lowest}; a temperature is above 0. Use it as the "
                "base of PerSample."
            )
        self.schedule, self.gather_distributed = schedule, gather_distributed
        self.temperature = temperature if schedule is None else schedule(0)
        self.log_temperature: nn.Parameter | None = None
        base = schedule.base if isinstance(schedule, PerSample) else schedule
        if isinstance(base, Learnable):
            self.floor = base.lowest
            self.log_temperature = nn.Parameter(torch.tensor(math.log(base.start)))
        elif schedule is None:
            self._require_positive(temperature)

    def set_step(self, step: int) -> None:
        """Take the schedule's temperature at a step, of which 0 is the first."""
        if self.schedule is not None:
            self.temperature = self.schedule(step)
        if self.log_temperature is not None:  # itself: from below the floor no gradient leads back
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(self.floor))

    def current(self, like: Tensor, shift: Tensor | None = None) -> Tensor:
        """The temperature of each row, or of all: shape (n, 1) or ()."""
        if self.log_temperature is not None:
            base = self.log_temperature.exp().to(like.dtype)
        else:
            base = torch.tensor(self.temperature, dtype=like.dtype, device=like.device)
        if shift is not None:
            base = base + shift.to(like)[:, None]
        elif isinstance(self.schedule, PerSample):
            raise InvalidInput(
                "The temperature differs by sample, but the loss was given no shift. Pass "
                "shift=schedule.shifts(sizes)[rows]."
            )
        if self.log_temperature is None:
            self._require_positive(float(base.detach().min()))
        return base

    def extra_repr(self) -> str:
        """What is printed."""
        return f"temperature={self.temperature}, schedule={self.schedule}"

    def _workers(self) -> Workers:
        return current_workers() if self.gather_distributed else ALONE

    @staticmethod
    def _require_positive(value: Number) -> None:
        if not value > 0:
            raise InvalidInput(
                f"The temperature is {value}; the rule is a number above 0. Usual are 0.05 to 1."
            )


class NTXentLoss(ScheduledLoss):
    """SimCLR's loss (Chen et al. 2020, arXiv:2002.05709, eq. 1), in lightly's signature.

    Each view's other view is right, the 2N − 2 views of other photos are wrong; both views are
    anchors. The mean is over the 2n own anchors.

    Args:
        temperature: see `ScheduledLoss`.
        memory_bank_size: only 0; a bank of earlier batches is not offered.
        gather_distributed: see `ScheduledLoss`.
        schedule: see `ScheduledLoss`.
    """

    def __init__(
        self, temperature: Number = 0.5, memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False, *, schedule: TemperatureSchedule | None = None,
    ) -> None:  # fmt: skip
        super().__init__(temperature, gather_distributed, schedule=schedule)
        if memory_bank_size != 0:
            raise InvalidInput(
                f"memory_bank_size is {memory_bank_size}; this loss has no memory bank. Leave it "
                "out: a chunk size gives large batches in little memory."
            )

    def forward(
        self, out0: Float[Tensor, "n D"], out1: Float[Tensor, "n D"],
        shift: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        """The loss of two views, row i of both being of one photo.

        Args:
            out0: projections of the first views.
            out1: of the second ones.
            shift: added to the temperature of each row's anchors.

        Raises:
            InvalidInput: two shapes, or a temperature that is not above 0.
        """
        out0, out1 = _pair(out0, out1)
        workers = self._workers()
        all0, first = gather_rows(out0, workers)
        all1, _ = gather_rows(out1, workers)
        n, total = len(out0), len(all0)
        everyone = torch.cat([all0, all1])
        own = first + torch.arange(n, device=out0.device)
        itself, other = torch.cat([own, own + total]), torch.cat([own + total, own])
        temperature = self.current(out0, shift)
        if temperature.ndim:
            temperature = torch.cat([temperature, temperature])

        def block(anchors: Tensor, part: slice) -> Tensor:
            logits = anchors @ everyone.T / _rows(temperature, part)
            mask = torch.zeros_like(logits, dtype=torch.bool)
            mask.scatter_(1, itself[part, None], True)
            logits = logits.masked_fill(mask, -math.inf)
            return functional.cross_entropy(logits, other[part], reduction="sum")

        return _in_blocks(block, torch.cat([out0, out1])) / (2 * n)


class ClipLoss(ScheduledLoss):
    """CLIP's loss (Radford et al. 2021, arXiv:2103.00020, fig. 3): each row's own text and image.

    The mean of two cross-entropies, of images to all texts and of texts to all images. A shift
    counts for the row's image and for its text.
    """

    def forward(
        self, images: Float[Tensor, "n D"], texts: Float[Tensor, "n D"],
        shift: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        """The loss of pairs; row i of both belongs together."""
        images, texts = _pair(images, texts)
        workers = self._workers()
        all_images, first = gather_rows(images, workers)
        all_texts, _ = gather_rows(texts, workers)
        right = first + torch.arange(len(images), device=images.device)
        temperature = self.current(images, shift)

        def towards(candidates: Tensor) -> Callable[[Tensor, slice], Tensor]:
            def block(anchors: Tensor, part: slice) -> Tensor:
                logits = anchors @ candidates.T / _rows(temperature, part)
                return functional.cross_entropy(logits, right[part], reduction="sum")

            return block

        sums = _in_blocks(towards(all_texts), images) + _in_blocks(towards(all_images), texts)
        return sums / (2 * len(images))


class SigLipLoss(ScheduledLoss):
    """SigLIP's loss (Zhai et al. 2023, arXiv:2303.15343, alg. 1): each pair by itself is right.

    −1/n Σ_i Σ_j log σ(y_ij (cos_ij / τ_i + b)), y = 1 for a row's own text and −1 for others; the
    bias b is learned, from −10 on. A shift counts for the row's image.
    """

    def __init__(
        self, temperature: Number = 0.1, gather_distributed: bool = False, *,
        schedule: TemperatureSchedule | None = None, bias: float = -10.0,
    ) -> None:  # fmt: skip
        super().__init__(temperature, gather_distributed, schedule=schedule)
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(
        self, images: Float[Tensor, "n D"], texts: Float[Tensor, "n D"],
        shift: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        """The loss of pairs; row i of both belongs together."""
        images, texts = _pair(images, texts)
        all_texts, first = gather_rows(texts, self._workers())
        right = first + torch.arange(len(images), device=images.device)
        temperature, bias = self.current(images, shift), self.bias.to(images)

        def block(anchors: Tensor, part: slice) -> Tensor:
            logits = anchors @ all_texts.T / _rows(temperature, part) + bias
            sign = -torch.ones_like(logits)
            sign.scatter_(1, right[part, None], 1.0)
            return -functional.logsigmoid(sign * logits).sum()

        return _in_blocks(block, images) / len(images)


LOSSES: dict[str, Callable[..., ScheduledLoss]] = {
    "nt-xent": NTXentLoss, "clip": ClipLoss, "siglip": SigLipLoss,
}  # fmt: skip


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows, in single precision at least."""
    if first.shape != second.shape:
        raise InvalidInput(
            f"The two sides have shapes {tuple(first.shape)} and {tuple(second.shape)}; the rule "
            "is one shape, row i of both belonging together."
        )
    if first.dtype != torch.float64:
        first, second = first.float(), second.float()
    return functional.normalize(first, dim=1), functional.normalize(second, dim=1)


def _rows(temperature: Tensor, part: slice) -> Tensor:
    return temperature[part] if temperature.ndim else temperature


def _in_blocks(block: Callable[[Tensor, slice], Tensor], anchors: Tensor) -> Tensor:
    """Sum of a function over blocks of anchors; logits of one block are in memory at a time."""
    # logits stay in single precision where products are in half: their differences decide
    with torch.autocast(anchors.device.type, enabled=False):
        if len(anchors) <= BLOCK:
            return block(anchors, slice(0, len(anchors)))
        total = anchors.new_zeros(())
        for start in range(0, len(anchors), BLOCK):
            part = slice(start, start + BLOCK)
            total = total + checkpoint(
                block, anchors[part], part, use_reentrant=False, preserve_rng_state=False
            )
        return total
