"""Distilling classifiers: answers, and with e2KD the reasons for them.

Runs on the library's one loop (`dncbm.training.photos`), so it resumes exactly after a kill. Any
pair of networks works, each with pixels of its own. The teacher is frozen and in eval mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from dncbm.attribution.scores import mass_ratio
from dncbm.bcos.loss import binary_cross_entropy, one_hot
from dncbm.data.views import Views
from dncbm.distillation import loss as losses
from dncbm.distillation.config import Distillation
from dncbm.distillation.explanations import (
    NONE,
    Explained,
    Explainer,
    require_comparable,
    resized,
)
from dncbm.distillation.frozen import FrozenTeacher
from dncbm.distillation.viewed import Viewed, common_views
from dncbm.errors import InvalidInput
from dncbm.training.loop import Row
from dncbm.training.photos import Batch, Photos, Run, train_on_photos, whole
from dncbm.training.seeding import seeded_by

_EXPLAINED_AT_ONCE = 16


def distil_classifier(
    student: Viewed, teacher: Viewed, photos: Photos, config: Distillation, run: Run, *,
    frozen: FrozenTeacher | None = None, masks: Bool[Tensor, "v h w"] | None = None,
) -> list[Row]:  # fmt: skip
    """Train a student, in place, to answer as its teacher does, and for its reasons.

    Args:
        student: with logits (n, K).
        teacher: with logits of the same classes.
        photos: labels serve to measure accuracy, and for `label_weight`.
        config: what is compared.
        run: where, and from which checkpoint on.
        frozen: the teacher's answers for whole photos, in place of its answers for crops.
        masks: where in each held-out photo its object is, to measure where explanations lie.

    Returns:
        The history: losses, and on the held-out photos at each checkpoint `agreement` (share with
        the teacher's best class), `accuracy` where there are labels, `explanation_similarity`
        (mean cosine) where explanations are compared, and `epg` with masks: the mean share of the
        positive part of the student's explanation of the teacher's best class that lies inside.

    Raises:
        InvalidInput: other classes or explanations, labels that are missing, or a broken loss.
        ArtifactMismatch: the checkpoint is of another run.
    """
    teacher = teacher.to(run.device).eval().requires_grad_(False)
    student.to(run.device)
    views = common_views([student.views, teacher.views])
    pair = _Pair.of(student, teacher, photos, views, config, run.device)
    task = _Task(pair, photos, config, frozen)
    held = _HeldOut(pair, photos, views, config, run.device, masks)
    if config.label_weight and int(photos.truth(photos.train).min()) < 0:
        raise InvalidInput("Some photos have no label; the rule is one each for a label_weight.")

    def losses_of(batch: Batch) -> Mapping[str, Tensor]:
        with seeded_by(batch.draw, run.device):
            return task.losses(batch)

    return train_on_photos(student, photos, views, config, run, losses_of, held.measure)


def explainers(
    student: Viewed, teacher: Viewed, photos: Photos, views: Views, config: Distillation,
    device: str,
) -> tuple[Explainer, Explainer] | None:  # fmt: skip
    """How both are explained; None where explanations are not compared.

    Raises:
        InvalidInput: W(x) of a network that has none, or no layer for Grad-CAM.
    """
    if config.explanation == NONE:
        return None
    require_comparable(student.network, teacher.network, config.explanation)
    shares = views.whole(photos.read(photos.train[:2]).to(device))
    student_of, teacher_of = (
        Explainer.of(
            config.explanation, side.to(device).network, side.views.of_shares(shares),
            layer=layer, steps=config.path_steps,
        )
        for side, layer in ((student, config.layer), (teacher, config.teacher_layer))
    )  # fmt: skip
    return student_of, teacher_of


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both networks and how they are explained."""

    student: Viewed
    teacher: Viewed
    explainers: tuple[Explainer, Explainer] | None

    @classmethod
    def of(
        cls, student: Viewed, teacher: Viewed, photos: Photos, views: Views,
        config: Distillation, device: str,
    ) -> "_Pair":  # fmt: skip
        found = explainers(student, teacher, photos, views, config, device)
        return cls(student, teacher, found)

    def student_says(
        self, shares: Tensor, classes: Tensor | None, *, create_graph: bool = False
    ) -> Explained:
        """Logits and maps at the size of the student's images."""
        explainer = self.explainers[0] if self.explainers else None
        return _said(self.student, explainer, shares, classes, create_graph=create_graph)

    def teacher_says(self, shares: Tensor, classes: Tensor | None = None) -> Explained:
        """Likewise, at the size of the student's images."""
        explainer = self.explainers[1] if self.explainers else None
        found = _said(self.teacher, explainer, shares, classes)
        return Explained(found.logits.detach(), resized(found.maps, self.student.views.size))


def _said(
    side: Viewed, explainer: Explainer | None, shares: Tensor, classes: Tensor | None, *,
    create_graph: bool = False,
) -> Explained:  # fmt: skip
    if explainer is None:
        raise InvalidInput("No explanation was chosen. Set explanation, such as gradcam.")
    pixels = side.views.of_shares(shares)
    found = explainer(side.network, pixels, classes, create_graph=create_graph)
    return Explained(found.logits, resized(found.maps, side.views.size))


@dataclass(frozen=True, slots=True)
class _Task:
    """What a batch teaches."""

    pair: _Pair
    photos: Photos
    config: Distillation
    frozen: FrozenTeacher | None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted, by name."""
        config, shares = self.config, batch.pixels()
        is_guided = config.is_guided and batch.step % config.every == 0
        wanted, wanted_maps = self._teacher(batch, shares, is_guided)
        found: dict[str, Tensor] = {}
        if is_guided:
            best = wanted.argmax(dim=1)
            said = self.pair.student_says(shares, best, create_graph=True)
            logits = said.logits
            distance = losses.explanation_loss(said.maps, wanted_maps)
            found["explanation"] = config.weight * distance
        else:
            logits = self.pair.student(shares)
        compare = losses.multi_label_loss if config.multi_label else losses.logit_loss
        distance = compare(logits.float(), wanted.float(), config.temperature)
        found["logits"] = config.logit_weight * distance
        if config.label_weight:
            found["labels"] = config.label_weight * self._label_loss(batch, logits.float())
        return found

    def _teacher(
        self, batch: Batch, shares: Tensor, is_guided: bool
    ) -> tuple[Float[Tensor, "m K"], Float[Tensor, "m i size size"]]:
        """Its logits, and where explanations are learned its maps; else none."""
        nothing = shares.new_zeros(len(shares), 0, 0, 0)
        if self.frozen is None:
            if is_guided:
                said = self.pair.teacher_says(shares)
                return said.logits, said.maps.detach()
            with torch.no_grad():
                return self.pair.teacher(shares), nothing
        logits = self.frozen.logits(batch.rows).to(shares.device)
        if not is_guided:
            return logits, nothing
        size = (batch.levels.shape[-2], batch.levels.shape[-1])
        boxes = batch.boxes.to(shares.device)
        return logits, self.frozen.maps(batch.rows, boxes, self.pair.student.views, size)

    def _label_loss(self, batch: Batch, logits: Tensor) -> Tensor:
        labels = self.photos.truth(batch.rows)
        if self.config.multi_label:
            targets = one_hot(labels, logits.shape[1]).to(logits.device)
            return binary_cross_entropy(logits, targets)
        return functional.cross_entropy(logits, labels.to(logits.device))


class _HeldOut:
    """Figures of the student on held-out photos; the teacher is asked about them once."""

    def __init__(
        self, pair: _Pair, photos: Photos, views: Views, config: Distillation, device: str,
        masks: Tensor | None,
    ) -> None:  # fmt: skip
        self.pair, self.photos, self.views, self.device = pair, photos, views, device
        count = len(photos.held_out)  # evenly, since photos are often sorted by class
        most = min(count, config.explained_photos)
        self.places = np.linspace(0, max(0, count - 1), most).round().astype(int)
        self.explained = photos.held_out[self.places]
        if masks is not None and len(masks) != len(photos.held_out):
            raise InvalidInput(
                f"There are {len(masks)} masks for {len(photos.held_out)} held-out photos; the "
                "rule is one each, in their order."
            )
        self.masks = masks
        self._best: Tensor | None = None
        self._maps: list[Tensor] = []

    def measure(self) -> Row:
        """All figures; {} without photos."""
        if not len(self.photos.held_out):
            return {}
        best = self._teachers_best()
        row = self._answers(best)
        if self.pair.explainers is None:
            return row
        return row | self._reasons(best, self.pair.explainers[0])

    @torch.no_grad()
    def _teachers_best(self) -> Tensor:
        if self._best is None:
            parts = whole(self.photos, self.views, self.device)
            found = [self.pair.teacher(shares).argmax(1).cpu() for _, shares in parts]
            self._best = torch.cat(found)
        return self._best

    @torch.no_grad()
    def _answers(self, best: Tensor) -> Row:
        parts = whole(self.photos, self.views, self.device)
        given = torch.cat([self.pair.student(shares).argmax(1).cpu() for _, shares in parts])
        row: Row = {"agreement": float((given == best).double().mean())}
        if self.photos.labels is not None:
            truth = self.photos.truth(self.photos.held_out)
            row["accuracy"] = float((given == truth).double().mean())
            row["teacher_accuracy"] = float((best == truth).double().mean())
        return row

    def _reasons(self, best: Tensor, explainer: Explainer) -> Row:
        near, inside, start = [], [], 0
        places = torch.from_numpy(self.places)
        best = best[places]
        masks = None if self.masks is None else self.masks[places.to(self.masks.device)]
        is_first = not self._maps
        for _, many in whole(self.photos, self.views, self.device, self.explained):
            for shares in many.split(_EXPLAINED_AT_ONCE):
                part = slice(start, start + len(shares))
                classes, start = best[part].to(self.device), part.stop
                if is_first:
                    self._maps.append(self.pair.teacher_says(shares, classes).maps.cpu())
                said = self.pair.student_says(shares, classes)
                wanted = self._maps[part.start // _EXPLAINED_AT_ONCE].to(self.device)
                near.append(losses.similarities(said.maps.detach(), wanted).cpu())
                if masks is not None:
                    inside.append(self._energy(explainer, shares, classes, masks[part]))
        row: Row = {"explanation_similarity": float(torch.cat(near).mean())}
        return row | ({"epg": float(torch.cat(inside).mean())} if inside else {})

    def _energy(
        self, explainer: Explainer, shares: Tensor, classes: Tensor, masks: Tensor
    ) -> Tensor:
        """EPG: share of the positive part inside, of each photo."""
        student = self.pair.student
        pixels = student.views.of_shares(shares)
        maps = explainer.contributions(student.network, pixels, classes)
        size = (maps.shape[-2], maps.shape[-1])
        inside = functional.interpolate(masks[:, None].float(), size, mode="nearest-exact") > 0.5
        return mass_ratio(maps[:, None].cpu(), inside)[:, 0]
