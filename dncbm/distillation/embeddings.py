"""Distilling encoders: a small tower into the space of a large one.

Texts of the teacher then name what the student sees. Where the teacher is a concept bottleneck,
its autoencoder and its probe stay as they are behind the student's embeddings, and the student also
learns what each concept adds to the teacher's class: e2KD where the explanations are concepts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.bcos.loss import cosine_distance
from dncbm.bcos.train import agreement
from dncbm.data.views import Views
from dncbm.distillation import loss as losses
from dncbm.distillation.config import Distillation
from dncbm.distillation.viewed import Viewed, common_views
from dncbm.errors import InvalidInput
from dncbm.probe.model import Probe
from dncbm.sae.model import SaeModel
from dncbm.training.loop import Row
from dncbm.training.photos import Batch, Photos, Run, train_on_photos, whole
from dncbm.training.seeding import seeded_by

TOP = 5
"""Concepts of which the overlap is told."""


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What stands behind the embeddings of a teacher and of its student."""

    sae: SaeModel
    probe: Probe

    def to(self, device: str) -> "Bottleneck":
        """Frozen, on a device."""
        sae, probe = self.sae.to(device).eval().requires_grad_(False), self.probe
        moved = Probe(probe.weights.to(device), probe.bias.to(device), probe.classes)
        return Bottleneck(sae, moved)

    def __call__(self, embeddings: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
        """Codes (n, c) and logits (n, k), in float32."""
        with torch.autocast(embeddings.device.type, enabled=False):  # gates are sharp
            codes = self.sae.encode(embeddings)
            return codes, self.probe.logits(codes).float()


def distil_encoder(
    student: Viewed, teacher: Viewed, photos: Photos, config: Distillation, run: Run, *,
    texts: Float[Tensor, "K D"] | None = None, bottleneck: Bottleneck | None = None,
) -> list[Row]:  # fmt: skip
    """Train a student, in place, to give photos the embeddings that its teacher gives them.

    Args:
        student: to embeddings (n, D).
        teacher: likewise, of the same width.
        photos: labels only serve to measure.
        config: the weights of embeddings and relations, and with a bottleneck of logits and
            contributions (`weight`), the latter in every `every`-th update.
        run: where, and from which checkpoint on.
        texts: unit embeddings of the class names, to measure zero-shot accuracy with.
        bottleneck: of the teacher.

    Returns:
        The history: losses, and on the held-out photos at each checkpoint `cosine` (mean to the
        teacher), with `texts` also `zero_shot` and `teacher_zero_shot`, and with a bottleneck
        `agreement`, `accuracy`, `teacher_accuracy`, `contribution_similarity` (mean cosine of the
        contributions to the teacher's class) and `top_concepts` (mean share of the teacher's five
        largest contributions that are among the student's).

    Raises:
        InvalidInput: another width than the teacher's, or a loss that broke.
        ArtifactMismatch: the checkpoint is of another run.
    """
    teacher = teacher.to(run.device).eval().requires_grad_(False)
    student.to(run.device)
    behind = None if bottleneck is None else bottleneck.to(run.device)
    views = common_views([student.views, teacher.views])
    _require_width(student, teacher, photos, views, run.device)

    def losses_of(batch: Batch) -> Mapping[str, Tensor]:
        shares = batch.pixels()
        with torch.no_grad():
            wanted = teacher(shares).float()
        with seeded_by(batch.draw, run.device):
            found = student(shares).float()
        named = _of_embeddings(found, wanted, config, has_length=behind is not None)
        if behind is None:
            return named
        is_guided = config.weight > 0 and batch.step % config.every == 0
        return named | _of_concepts(found, wanted, behind, config, is_guided=is_guided)

    def measure() -> Row:
        row = agreement(student, teacher, photos, views, run.device, texts=texts)
        if behind is None or not row:
            return row
        return row | concept_agreement(student, teacher, photos, views, behind, run.device)

    return train_on_photos(student, photos, views, config, run, losses_of, measure)


def _of_embeddings(
    found: Tensor, wanted: Tensor, config: Distillation, *, has_length: bool
) -> dict[str, Tensor]:
    """Cosine distances, or distances where lengths matter; and relations within the batch."""
    compare = losses.embedding_loss if has_length else cosine_distance
    named = {"embeddings": config.embedding_weight * compare(found, wanted)}
    if config.relational_weight:
        named["relations"] = config.relational_weight * losses.relational_loss(found, wanted)
    return named


def _of_concepts(
    found: Tensor, wanted: Tensor, behind: Bottleneck, config: Distillation, *, is_guided: bool
) -> dict[str, Tensor]:
    """Logits, and contributions to the teacher's class."""
    with torch.no_grad():
        wanted_codes, wanted_logits = behind(wanted)
    codes, logits = behind(found)
    distance = losses.logit_loss(logits, wanted_logits, config.temperature)
    named = {"logits": config.logit_weight * distance}
    if is_guided:
        best = wanted_logits.argmax(dim=1)
        given, right = (
            losses.contributions(part, behind.probe.weights, best) for part in (codes, wanted_codes)
        )
        named["contributions"] = config.weight * losses.explanation_loss(given, right)
    return named


@torch.no_grad()
def concept_agreement(
    student: Viewed, teacher: Viewed, photos: Photos, views: Views, behind: Bottleneck,
    device: str, *, top: int = TOP,
) -> Row:  # fmt: skip
    """How alike a student and its teacher decide by concepts, on the held-out photos."""
    sums: dict[str, float] = {}
    for rows, shares in whole(photos, views, device):
        codes, logits = behind(student(shares).float())
        wanted_codes, wanted_logits = behind(teacher(shares).float())
        best = wanted_logits.argmax(dim=1)
        weights = behind.probe.weights
        given, right = (losses.contributions(c, weights, best) for c in (codes, wanted_codes))
        found = {
            "agreement": (logits.argmax(dim=1) == best).double(),
            "contribution_similarity": losses.similarities(given, right),
            "top_concepts": top_overlap(given, right, top),
        }
        if photos.labels is not None:
            truth = photos.truth(rows).to(best.device)
            found |= {
                "accuracy": (logits.argmax(dim=1) == truth).double(),
                "teacher_accuracy": (best == truth).double(),
            }
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / len(photos.held_out) for name, total in sums.items()}


def top_overlap(
    given: Float[Tensor, "n c"], right: Float[Tensor, "n c"], top: int
) -> Float[Tensor, " n"]:
    """Share of the largest contributions of `right`, by absolute size, among those of `given`."""
    count = min(top, given.shape[1])
    first, second = (part.abs().topk(count, dim=1).indices for part in (given, right))
    return (first[:, :, None] == second[:, None, :]).any(dim=1).double().mean(dim=1)


@torch.no_grad()
def _require_width(
    student: Viewed, teacher: Viewed, photos: Photos, views: Views, device: str
) -> None:
    shares = views.whole(photos.read(photos.train[:1]).to(device))
    training = student.training
    widths = [functional.normalize(side.eval()(shares)).shape[1] for side in (student, teacher)]
    student.train(training)
    if widths[0] != widths[1]:
        raise InvalidInput(
            f"The student's embeddings have width {widths[0]}, the teacher's {widths[1]}; the rule "
            "is one width. Give the student a head of that width."
        )
