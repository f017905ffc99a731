"""Image-text losses over a batch in which several texts may be right for one image.

Letters: N images and their texts, D embedding width, K candidate names, T teacher width.
All losses are in nats and are means over the batch.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput


def multi_positive_contrastive_loss(
    image_embeddings: Float[Tensor, "N D"],
    text_embeddings: Float[Tensor, "N D"],
    groups: Int[Tensor, " N"],
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Symmetric contrastive loss in which all pairs of one group are positives.

    UniCL, Yang et al. 2022 (arXiv:2204.03610), eq. 1-3: the mean log-probability of the positives,
    averaged over both directions. With all ``groups`` distinct it is CLIP's loss. Row i of both
    inputs belongs together; embeddings are normalised here; ``scale`` multiplies the cosine.
    """
    images, texts = (
        functional.normalize(image_embeddings, dim=1),
        functional.normalize(text_embeddings, dim=1),
    )
    logits = scale * images @ texts.T
    positive = (groups[:, None] == groups[None, :]).to(logits.dtype)
    positive = positive / positive.sum(1, keepdim=True)
    image_to_text = -(positive * logits.log_softmax(1)).sum(1)
    # `positive` is symmetric up to its row sums, which are equal within a group.
    text_to_image = -(positive * logits.T.log_softmax(1)).sum(1)
    return 0.5 * (image_to_text + text_to_image).mean()


def soft_label_loss(
    logits: Float[Tensor, "N K"], teacher_logits: Float[Tensor, "N K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """KL divergence from the teacher's to the student's distribution over the same K names.

    Hinton et al. 2015 (arXiv:1503.02531). The temperature softens the teacher alone: the student's
    logits are scaled cosines whose scale is learned, so they find their own sharpness.
    """
    if temperature <= 0:
        raise InvalidInput(f"A softmax temperature is positive, got {temperature}.")
    wanted = (teacher_logits / temperature).log_softmax(1)
    return functional.kl_div(logits.log_softmax(1), wanted, reduction="batchmean", log_target=True)


def cosine_loss(student: Float[Tensor, "N T"], teacher: Float[Tensor, "N T"]) -> Float[Tensor, ""]:
    """Mean of 1 − cosine between rows, in [0, 2]; rows of zeros count as 1."""
    return (1.0 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def similarity_distillation_loss(
    student: Float[Tensor, "N T"], teacher: Float[Tensor, "N T"], temperature: float
) -> Float[Tensor, ""]:
    """KL between the batch neighbourhoods that the teacher has and that the student lands in.

    For each row the teacher's own cosines to the N teacher rows, as a softmax at ``temperature``,
    are the wanted distribution; the student's cosines to the same rows are the given one.
    """
    if temperature <= 0:
        raise InvalidInput(f"A softmax temperature is positive, got {temperature}.")
    student, teacher = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
    wanted = (teacher @ teacher.T / temperature).log_softmax(1)
    given = (student @ teacher.T / temperature).log_softmax(1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True)


def smoothed_cross_entropy(
    logits: Float[Tensor, "N K"], labels: Int[Tensor, " N"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy against K candidate names; 0 for an empty batch, where torch gives NaN."""
    if len(labels) == 0:
        return logits.sum() * 0  # on the device of the logits
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
