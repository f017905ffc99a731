"""What B-cos networks learn from: labels as yes-or-no questions each, or a teacher's embeddings.

Letters: N images, K classes, D embedding width. All losses are in nats (cosine: without unit) and
are means over N.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput

SCALE, BIAS = 10.0, -10.0
"""With which SigLIP begins (Zhai et al. 2023) and B-cosification stays (Arya et al. 2024)."""


def one_hot(labels: Int[Tensor, " N"], num_classes: int) -> Float[Tensor, "N K"]:
    """Targets of labels: 1 at the class of each image, 0 elsewhere.

    Raises:
        InvalidInput: a label outside 0 .. `num_classes` - 1.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InvalidInput(
            f"Labels lie in {int(labels.min())} .. {int(labels.max())}; the rule is "
            f"0 .. {num_classes - 1} for {num_classes} classes."
        )
    return functional.one_hot(labels.long(), num_classes).float()


def binary_cross_entropy(
    logits: Float[Tensor, "N K"], targets: Float[Tensor, "_N _K"]
) -> Float[Tensor, ""]:
    """Mean over images and classes of the cross-entropy of sigmoids with targets in [0, 1].

    B-cos networks (Böhle et al. 2022) answer each class by itself: a class must be seen, it
    cannot win by the others' weakness. Targets may be soft, as from mixup.
    """
    _require_alike(logits, targets)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def uniform_off_label_loss(
    logits: Float[Tensor, "N K"], targets: Float[Tensor, "_N _K"]
) -> Float[Tensor, ""]:
    """The same with targets of at least 1/K, so that logits need not fall without end.

    Source: B-cos v2 (Böhle et al. 2024), and its networks' logit bias, at which training starts.
    """
    return binary_cross_entropy(logits, targets.clamp_min(1.0 / logits.shape[1]))


def pairwise_sigmoid_loss(
    student: Float[Tensor, "N D"], teacher: Float[Tensor, "M D"], *, first: int = 0,
    scale: float = SCALE, bias: float = BIAS,
) -> Float[Tensor, ""]:  # fmt: skip
    """Does this embedding of the student's belong to that one of the teacher's: own yes, others no.

    -1/N Σ_ij log σ(y_ij (scale cos(s_i, t_j) + bias)) with y_ij = 1 for own pairs, else -1: the
    loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343) between two image towers, as
    B-cosification uses it. Embeddings are normalised here.

    Args:
        student: one row per image.
        teacher: row `first` + i belongs to the student's row i; the others are negatives, such as
            the rest of the batch, or what other workers gathered.
        first: where the student's rows begin.
        scale: multiplies the cosine.
        bias: makes up for the many negatives.

    Raises:
        InvalidInput: the student's rows have no partners.
    """
    if first < 0 or first + len(student) > len(teacher):
        raise InvalidInput(
            f"The student's {len(student)} rows begin at row {first} of the teacher's "
            f"{len(teacher)}; each needs a partner there."
        )
    logits = _unit(student) @ _unit(teacher).T * scale + bias
    signs = -torch.ones_like(logits)
    rows = torch.arange(len(student), device=logits.device)
    signs[rows, first + rows] = 1.0
    return -functional.logsigmoid(signs * logits).sum() / len(student)


def cosine_distance(
    student: Float[Tensor, "N D"], teacher: Float[Tensor, "_N _D"]
) -> Float[Tensor, ""]:
    """Mean of 1 - cos(s_i, t_i), from 0 to 2.

    Raises:
        InvalidInput: other shapes.
    """
    _require_alike(student, teacher)
    return (1.0 - (_unit(student) * _unit(teacher)).sum(dim=1)).mean()


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, in float32 at least."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return functional.normalize(wide, dim=1)


def _require_alike(found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        raise InvalidInput(
            f"A loss compares shapes {tuple(found.shape)} and {tuple(wanted.shape)}; the rule is "
            "one row per image and equal widths. A teacher and its student have one width; "
            "targets of labels come from `one_hot`."
        )
