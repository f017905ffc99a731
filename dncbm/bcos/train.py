"""Training B-cos networks: classifiers on labels, students on the embeddings of a frozen teacher.

Both run on the library's one loop (`dncbm.training.photos`): they resume exactly after a kill, and
run on a GPU, in bfloat16 and with several workers. The recipe is that of B-cos v2 (Adam without
weight decay, adaptive clipping, cosine to 0), which B-cosification kept.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos import loss as losses
from dncbm.config import check_types
from dncbm.data.views import Views
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.loop import Row
from dncbm.training.photos import (
    Batch,
    Photos,
    PhotoTraining,
    Run,
    accuracy,
    gathered,
    train_on_photos,
    whole,
)
from dncbm.training.workers import current_workers

LABEL_LOSSES = ("uniform-off-label", "bce", "cross-entropy")
TEACHER_LOSSES = ("pairwise", "cosine")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig(PhotoTraining):
    """How a B-cos network is trained; defaults are those of B-cos v2 for short runs.

    A learning rate of 1e-4 is usual where weights are trained already.
    """

    bias_decay: float = 0.0
    """Of biases: B-cosification's gradual way to be rid of them."""
    loss: str = "uniform-off-label"
    """One of `LABEL_LOSSES` or of `TEACHER_LOSSES`."""

    def __post_init__(self) -> None:
        check_types(self, "training")
        PhotoTraining.__post_init__(self)  # a class with slots has no super() without arguments
        if self.loss not in LABEL_LOSSES + TEACHER_LOSSES:
            raise UnknownName("loss", self.loss, LABEL_LOSSES + TEACHER_LOSSES)

    def decay_of(self, name: str, parameter: nn.Parameter) -> float:
        """Weight decay of a parameter; biases have their own."""
        if name.rpartition(".")[2] == "bias":
            return self.bias_decay
        return PhotoTraining.decay_of(self, name, parameter)


def train_classifier(
    network: nn.Module, photos: Photos, views: Views, config: TrainingConfig, run: Run
) -> list[Row]:
    """Train a network on labels, in place; B-cos or not, from scratch or B-cosified.

    Args:
        network: (n, 3, h, w) of `views` to logits (n, K).
        photos: with labels.
        views: the pixels that the network takes.
        config: with one of `LABEL_LOSSES`.
        run: where, and from which checkpoint on.

    Returns:
        The history: losses, and `accuracy` on the held-out photos at each checkpoint.

    Raises:
        InvalidInput: no labels, labels beyond the network's classes, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    if config.loss not in LABEL_LOSSES:
        raise UnknownName("loss of labels", config.loss, LABEL_LOSSES)
    photos.truth(photos.train[:1])
    loss = _LABEL_LOSSES[config.loss]

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        logits = network(batch.pixels())
        targets = losses.one_hot(photos.truth(batch.rows), logits.shape[1])
        return {config.loss: loss(logits.float(), targets.to(logits.device))}

    def measure() -> Row:
        return {"accuracy": accuracy(network, photos, views, run.device)}

    return train_on_photos(network, photos, views, config, run, losses_of, measure)


def train_student(
    student: nn.Module, teacher: nn.Module, photos: Photos, views: Views,
    config: TrainingConfig, run: Run, *, texts: Float[Tensor, "K D"] | None = None,
) -> list[Row]:  # fmt: skip
    """Train a student, in place, to give each photo the embedding that the teacher gives it.

    No label is needed. Teacher and student see the same crops; the teacher is frozen, in eval mode.

    Args:
        student: (n, 3, h, w) of `views` to embeddings (n, D).
        teacher: likewise.
        photos: labels, where there are any, only serve to measure zero-shot accuracy.
        views: the pixels that the teacher was trained on.
        config: with one of `TEACHER_LOSSES`.
        run: where, and from which checkpoint on.
        texts: unit embeddings of the class names, to measure zero-shot accuracy with.

    Returns:
        The history: losses, and on the held-out photos at each checkpoint `cosine` (mean to the
        teacher) and with `texts` also `zero_shot` and `teacher_zero_shot` accuracy.

    Raises:
        InvalidInput: another width than the teacher's, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    if config.loss not in TEACHER_LOSSES:
        raise UnknownName("loss to a teacher", config.loss, TEACHER_LOSSES)
    teacher = teacher.to(run.device).eval().requires_grad_(False)
    workers = current_workers()

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        pixels = batch.pixels()
        with torch.no_grad():
            wanted = teacher(pixels).float()
        found = student(pixels)
        _require_width(found, wanted)
        if config.loss == "cosine":
            return {"cosine_distance": losses.cosine_distance(found, wanted)}
        everyone = gathered(wanted, workers)
        return {"pairwise": losses.pairwise_sigmoid_loss(found, everyone, first=batch.first)}

    def measure() -> Row:
        return agreement(student, teacher, photos, views, run.device, texts=texts)

    return train_on_photos(student, photos, views, config, run, losses_of, measure)


@torch.inference_mode()
def agreement(
    student: nn.Module, teacher: nn.Module, photos: Photos, views: Views, device: str, *,
    texts: Float[Tensor, "K D"] | None = None,
) -> Row:  # fmt: skip
    """How near the student comes to its teacher on held-out photos; {} without photos."""
    if len(photos.held_out) == 0:
        return {}
    sums: dict[str, float] = {"cosine": 0.0}
    for rows, pixels in whole(photos, views, device):
        found, wanted = student(pixels).float(), teacher(pixels).float()
        sums["cosine"] += float(functional.cosine_similarity(found, wanted).sum())
        if texts is not None and photos.labels is not None:
            for name, values in (("zero_shot", found), ("teacher_zero_shot", wanted)):
                best = (values.cpu() @ texts.T).argmax(1)
                sums[name] = sums.get(name, 0.0) + int((best == photos.truth(rows)).sum())
    return {name: total / len(photos.held_out) for name, total in sums.items()}


def _require_width(found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        raise InvalidInput(
            f"The student's embeddings have shape {tuple(found.shape)}, the teacher's "
            f"{tuple(wanted.shape)}; the rule is one width. Convert the teacher's own tower, or "
            "give the student a head of that width."
        )


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets)


_LABEL_LOSSES: dict[str, Any] = {
    "uniform-off-label": losses.uniform_off_label_loss,
    "bce": losses.binary_cross_entropy,
    "cross-entropy": _cross_entropy,
}
