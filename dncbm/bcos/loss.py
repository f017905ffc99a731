"""What B-cos networks minimise: binary cross-entropy for classes, and a teacher without labels."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

SCALE, SHIFT = 10.0, -10.0
"""Of the pairwise teacher loss, as B-cosified CLIP was trained."""


def class_targets(
    labels: Int64[Tensor, "n"] | Float[Tensor, "n k"], num_classes: int, *, uniform_off: bool = True
) -> Float[Tensor, "n k"]:
    """Targets of sigmoids: 1 for the label, and 1 / k or 0 for the others.

    Args:
        labels: classes, or soft targets (mixup).
        num_classes: k.
        uniform_off: others get 1 / k, where a network without evidence stands (B-cos v2).
    """
    if labels.dim() == 1:
        labels = functional.one_hot(labels, num_classes).float()
    return labels.clamp_min(1 / num_classes) if uniform_off else labels


def class_bce(
    logits: Float[Tensor, "n k"],
    labels: Int64[Tensor, "n"] | Float[Tensor, "n k"],
    *,
    uniform_off: bool = True,
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy over images and classes: a logit grows with evidence alone.

    With a softmax it could also grow because the others fall (Böhle et al. 2022).
    """
    targets = class_targets(labels, logits.shape[1], uniform_off=uniform_off)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits))


def pairwise_loss(
    student: Float[Tensor, "n d"],
    teacher: Float[Tensor, "m d"],
    own: Int64[Tensor, "n"] | None = None,
    *,
    scale: float = SCALE,
    shift: float = SHIFT,
) -> Float[Tensor, ""]:
    """Sigmoid loss of all pairs: a student's embedding is its teacher's and nobody else's.

    Mean over students of the sum over teachers of -log σ(y (scale cos + shift)), y = ±1 (Zhai et
    al. 2023, SigLIP; used with images on both sides by Arya et al. 2024).

    Args:
        student: embeddings of a batch.
        teacher: embeddings of the batch, and of others where they were gathered.
        own: row of the teacher that belongs to each student; by default the same row.
        scale: of the cosines.
        shift: added, so that training starts where almost no pair matches.
    """
    cosines = functional.normalize(student, dim=1) @ functional.normalize(teacher, dim=1).T
    signs = -torch.ones_like(cosines)
    rows = torch.arange(len(student), device=student.device)
    signs[rows, rows if own is None else own] = 1.0
    return -functional.logsigmoid(signs * (scale * cosines + shift)).sum(dim=1).mean()


def cosine_loss(student: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine."""
    return 1 - functional.cosine_similarity(student, teacher, dim=1).mean()
