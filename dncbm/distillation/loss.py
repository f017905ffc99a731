"""What a student learns from its teacher: its answers, its reasons, its embeddings.

Letters: N images, K classes, D embedding width, C concepts. All losses are means over N. Gradients
reach the teacher's side too, so callers give it detached. The cosine distance of embeddings is
`dncbm.bcos.loss.cosine_distance`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput

SMALLEST = 1e-6
"""Probabilities of the multi-label loss lie between this and 1 minus this."""


def logit_loss(
    student: Float[Tensor, "N K"], teacher: Float[Tensor, "_N _K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T² KL(softmax(z_T / T) || softmax(z_S / T)), summed over classes (Hinton et al. 2015).

    The factor T² keeps the size of the gradients where T changes.

    Raises:
        InvalidInput: other shapes, or a temperature that is not above 0.
    """
    _require_alike(student, teacher, "logits")
    _require_positive(temperature)
    given = (student / temperature).log_softmax(1)
    wanted = (teacher / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(given, wanted, reduction="batchmean", log_target=True)


def multi_label_loss(
    student: Float[Tensor, "N K"], teacher: Float[Tensor, "_N _K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T² times the KL divergences of each class by itself, on p and on 1 - p, summed over classes.

    p = sigmoid(z / T), clamped to [1e-6, 1 - 1e-6]. For photos that show several classes, as in
    e2KD on VOC (Parchami-Araghi et al. 2024).

    Raises:
        InvalidInput: other shapes, or a temperature that is not above 0.
    """
    _require_alike(student, teacher, "logits")
    _require_positive(temperature)
    p, q = (
        (logits / temperature).sigmoid().clamp(SMALLEST, 1 - SMALLEST)
        for logits in (teacher, student)
    )
    found = p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())
    return temperature**2 * found.sum(dim=1).mean()


def explanation_loss(
    student: Float[Tensor, "N *s"], teacher: Float[Tensor, "N *t"]
) -> Float[Tensor, ""]:
    """1 - cos(E_T, E_S) of flattened maps: e2KD (Parchami-Araghi et al. 2024), without its λ.

    Both maps are for the teacher's best class. A map of zeros counts as 1.

    Raises:
        InvalidInput: maps of other shapes.
    """
    return (1.0 - similarities(student, teacher)).mean()


def similarities(
    first: Float[Tensor, "N *s"], second: Float[Tensor, "N *t"]
) -> Float[Tensor, " N"]:
    """Cosine of each pair of flattened maps; 0 where one is zero.

    Raises:
        InvalidInput: maps of other shapes.
    """
    _require_alike(first, second, "explanations")
    return (_unit(first) * _unit(second)).sum(dim=1)


def embedding_loss(
    student: Float[Tensor, "N D"], teacher: Float[Tensor, "_N _D"]
) -> Float[Tensor, ""]:
    """Squared distance of embeddings over the teacher's mean squared length.

    Unlike a cosine it fixes the length too, which an autoencoder of raw embeddings sees.

    Raises:
        InvalidInput: another width.
    """
    _require_alike(student, teacher, "embeddings")
    size = teacher.square().sum(dim=1).mean().clamp_min(1e-12)
    return (student - teacher).square().sum(dim=1).mean() / size


def relational_loss(
    student: Float[Tensor, "N D"], teacher: Float[Tensor, "N E"]
) -> Float[Tensor, ""]:
    """Huber loss between the pairwise distances of both, each in units of its mean distance.

    The distance-wise loss of relational knowledge distillation (Park et al. 2019, arXiv:1904.05068,
    eq. 5-7), of normalised embeddings; the widths may differ.

    Raises:
        InvalidInput: another number of rows, or fewer than two.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise InvalidInput(
            f"Relations are compared within {len(student)} and {len(teacher)} embeddings; the rule "
            "is the same number, at least 2. Take a larger batch."
        )
    given, wanted = (_distances(_unit(rows)) for rows in (student, teacher))
    return functional.huber_loss(given, wanted)


def contributions(
    codes: Float[Tensor, "N C"], weights: Float[Tensor, "K C"], classes: Int[Tensor, " N"]
) -> Float[Tensor, "N C"]:
    """What each concept adds to the logit of a class: code times weight.

    With `explanation_loss` this is e2KD where explanations are concepts.
    """
    return codes * weights[classes].to(codes)


def _distances(rows: Float[Tensor, "N D"]) -> Float[Tensor, " pairs"]:
    """Of all pairs of rows, over their mean."""
    i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    found = torch.linalg.vector_norm(rows[i] - rows[j], dim=1)
    return found / found.mean().clamp_min(1e-12)


def _unit(rows: Tensor) -> Float[Tensor, "N d"]:
    """Flattened rows of length 1, in float32 at least; zeros stay."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return functional.normalize(wide.flatten(1), dim=1, eps=1e-30)


def _require_alike(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise InvalidInput(
            f"The student's {what} have shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; the rule is one shape. Give both the same classes, and "
            "explanations of one kind."
        )


def _require_positive(temperature: float) -> None:
    if not temperature > 0:
        raise InvalidInput(f"The temperature is {temperature}; the rule is a number above 0.")
