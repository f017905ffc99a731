"""The probe as the paper trains it: no bias, cross entropy plus mean absolute weight, Adam.

Rao, Mahajan, Boehle, Schiele (ECCV 2024), following the authors' published settings: codes
raw, `lambda2 * mean|w|`, batch 512, 200 epochs, constant learning rate, last epoch kept. The
paper's formula writes the sum of |w| where the published settings mean the *mean*, which makes
the penalty per weight `lambda2 / (classes * concepts)`. No weight becomes exactly zero.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.probe.matrix import Matrix, dense_rows
from dncbm.training.checkpoints import (
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from dncbm.training.progress import Progress, no_progress
from dncbm.training.seeding import generator


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AdamConfig:
    """The paper's settings for CIFAR-10, ImageNet and Places365 are the defaults."""

    learning_rate: float = 1e-3
    """1e-2 for CIFAR-100, 0.1 for Waterbirds."""
    sparsity: float = 1.0
    """lambda2, the factor before the mean absolute weight; 10 for Waterbirds."""
    batch_size: int = 512
    epochs: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if self.learning_rate <= 0 or self.batch_size < 1 or self.epochs < 1 or self.sparsity < 0:
            raise InvalidInput(
                "Adam needs learning_rate > 0, batch_size >= 1, epochs >= 1 and sparsity >= 0, "
                f"got {self.learning_rate}, {self.batch_size}, {self.epochs}, {self.sparsity}."
            )


def paper_loss(
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    weights: Float[Tensor, "k c"],
    sparsity: float,
) -> Float[Tensor, ""]:
    """Cross entropy plus `sparsity` times the *mean* absolute weight."""
    return torch.nn.functional.cross_entropy(logits, labels) + sparsity * weights.abs().mean()


def initial_weights(num_classes: int, num_concepts: int, seed: int) -> Float32[Tensor, "k c"]:
    """Uniform in +-1/sqrt(c), the initialisation of a `torch.nn.Linear`."""
    draws = torch.rand(num_classes, num_concepts, generator=generator(seed, "probe-init"))
    return (2.0 * draws - 1.0) / num_concepts**0.5


def fit_adam(
    matrix: Matrix,
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    config: AdamConfig = AdamConfig(),
    *,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
) -> Float32[Tensor, "k c"]:
    """Weights after the last epoch; a `checkpoint` file is written after every epoch.

    An interrupted fit that is started again with the same arguments ends with the same
    weights as one that ran through.
    """
    weights = torch.nn.Parameter(initial_weights(num_classes, matrix.shape[1], config.seed))
    optimizer = torch.optim.Adam([weights], lr=config.learning_rate)
    targets = torch.from_numpy(labels)
    for epoch in range(_resume(weights, optimizer, checkpoint), config.epochs):
        order = torch.randperm(len(targets), generator=generator(config.seed, "shuffle", epoch))
        for batch in order.split(config.batch_size):
            codes = dense_rows(matrix, batch.numpy())
            optimizer.zero_grad(set_to_none=True)
            loss = paper_loss(codes @ weights.T, targets[batch], weights, config.sparsity)
            loss.backward()
            optimizer.step()
        _save(weights, optimizer, checkpoint, epoch + 1)
        progress("probe", epoch + 1, config.epochs)
    return weights.detach()


def _resume(
    weights: torch.nn.Parameter, optimizer: torch.optim.Optimizer, checkpoint: Path | None
) -> int:
    found = load_checkpoint(checkpoint) if checkpoint is not None else None
    if found is None:
        return 0
    tensors, state = found
    with torch.no_grad():
        weights.copy_(tensors["weights"])
    restore_optimizer(optimizer, tensors, state["optimizer"])
    return int(state["epoch"])


def _save(
    weights: torch.nn.Parameter,
    optimizer: torch.optim.Optimizer,
    checkpoint: Path | None,
    epoch: int,
) -> None:
    if checkpoint is None:
        return
    tensors, state = flatten_optimizer(optimizer)
    save_checkpoint(
        checkpoint, {"weights": weights, **tensors}, {"epoch": epoch, "optimizer": state}
    )
