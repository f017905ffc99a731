"""Guidance of concepts: a bottleneck whose concept lies where it should, and that uses no other.

The image tower of a bottleneck is trained, its autoencoder and probe stay. The network is the tower
alone: classes and concepts are functions of its embedding, so it is guided as a classifier is, by
the attribution of the code of a concept in the boxes of a label. The dictionary means something in
the space of the tower before guidance alone, so embeddings are held near to those (teacher).

A forbidden concept is out of every decision exactly, as its weights are zero (`without`). The
penalty makes the tower show less of it besides, so that others need not stand in for it.
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.attribution.heads import class_logits, concept_codes
from dncbm.bcos.loss import cosine_distance
from dncbm.errors import InvalidInput
from dncbm.probe.interventions import without
from dncbm.probe.model import Probe
from dncbm.sae.model import SaeModel


def contributions(
    codes: Float[Tensor, "n f"], probe: Probe, concepts: Sequence[int]
) -> Float[Tensor, "n f k"]:
    """What concepts add to the logit of each class: code times weight."""
    weights = probe.weights[:, list(concepts)].T.to(codes)
    return codes[:, :, None] * weights


def forbidden_penalty(
    codes: Float[Tensor, "n f"], probe: Probe, concepts: Sequence[int]
) -> Float[Tensor, " n"]:
    """Mean over classes of the absolute contributions of concepts, summed over them, by image."""
    return contributions(codes, probe, concepts).abs().mean(dim=2).sum(dim=1)


@final
class ConceptTask:
    """Classes of a bottleneck over a tower that is trained, and codes of concepts as targets.

    Args:
        sae: the frozen autoencoder.
        probe: the frozen probe.
        concepts: whose codes are guided, by target.
        teacher: the tower before guidance.
        teacher_weight: of 1 - cosine to the teacher's embeddings.
        forbidden: concepts that no logit uses.
        forbidden_weight: of `forbidden_penalty`.

    Raises:
        InvalidInput: a concept that does not exist, nothing to guide and nothing forbidden, or a
            concept that is both.
    """

    def __init__(
        self, sae: SaeModel, probe: Probe, concepts: Sequence[int], teacher: nn.Module, *,
        teacher_weight: float = 1.0, forbidden: Sequence[int] = (), forbidden_weight: float = 1.0,
    ) -> None:  # fmt: skip
        both = set(concepts) & set(forbidden)
        if both or not (len(concepts) or len(forbidden)):
            raise InvalidInput(
                f"Concept {min(both)} is guided and forbidden; choose one."
                if both
                else "No concept is guided or forbidden; name at least one."
            )
        self.probe, self.forbidden = probe, tuple(forbidden)
        self.teacher = teacher.eval().requires_grad_(False)
        self.teacher_weight, self.forbidden_weight = teacher_weight, forbidden_weight
        sae = sae.eval().requires_grad_(False)
        used = without(probe, self.forbidden) if forbidden else probe
        self._logits = class_logits(sae, used, range(probe.num_classes))
        self._guided = concept_codes(sae, list(concepts) or list(forbidden))
        self._forbidden = concept_codes(sae, self.forbidden) if forbidden else None

    def logits(self, output: Tensor) -> Float[Tensor, "n k"]:
        """Of the bottleneck, without its forbidden concepts."""
        return self._logits(output)

    def guided(self, output: Tensor) -> Float[Tensor, "n g"]:
        """Codes of the guided concepts, or where there are none of the forbidden ones."""
        return self._guided(output)

    def losses(self, output: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """How far the embeddings went, and what forbidden concepts would contribute."""
        with torch.no_grad():
            wanted = self.teacher.to(pixels.device)(pixels)
        found = {"teacher": self.teacher_weight * cosine_distance(output, wanted)}
        if self._forbidden is not None:
            penalty = forbidden_penalty(self._forbidden(output), self.probe, self.forbidden)
            found["forbidden"] = self.forbidden_weight * penalty.mean()
        return found

    def measures(self, output: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """`cosine` to the embeddings before, `active` guided codes, `forbidden` contributions."""
        before = self.teacher.to(pixels.device)(pixels)
        found = {
            "cosine": functional.cosine_similarity(output.float(), before.float()),
            "active": (self._guided(output) > 0).float().mean(dim=1),
        }
        if self._forbidden is not None:
            codes = self._forbidden(output)
            found["forbidden"] = forbidden_penalty(codes, self.probe, self.forbidden)
        return found
