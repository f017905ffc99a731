"""A small student of a trained network: a classifier, an encoder, or a bottleneck model."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dncbm.artifacts import MANIFEST, Kind, fingerprint, load_manifest, require_replaceable, writing
from dncbm.bcos.store import save_bcos
from dncbm.data.pixels import Pixels, decoded
from dncbm.data.sources import ImageSource
from dncbm.distillation.config import Distillation
from dncbm.distillation.embeddings import Bottleneck, distil_encoder
from dncbm.distillation.explanations import NONE
from dncbm.distillation.frozen import FrozenTeacher, freeze
from dncbm.distillation.recipe import DistillRecipe
from dncbm.distillation.shots import few_shots
from dncbm.distillation.train import distil_classifier, explainers
from dncbm.distillation.viewed import Viewed, common_views
from dncbm.encoders.clip import load_encoder
from dncbm.encoders.preprocess import Preprocess
from dncbm.encoders.trained import ENCODER, TRAINED, TextTower, save_encoder
from dncbm.errors import InvalidInput
from dncbm.files import draft_of, publish
from dncbm.predictor import Predictor
from dncbm.probe.store import save_cbm
from dncbm.probe.train import DENSE, TrainedProbe
from dncbm.training.loop import Row
from dncbm.training.photos import Photos, Run, whole
from dncbm.training.progress import Progress, no_progress
from dncbm.training.workers import current_workers
from pipelines.bcosify import join_workers, labelled_photos, own_device, together, weights_mark
from pipelines.distilled_networks import (
    CBM,
    CLASSIFIER,
    Student,
    Teacher,
    open_student,
    open_teacher,
)
from pipelines.embed import open_recipe_source, split_records
from pipelines.recipes import PHOTO_TEMPLATES, Recipe
from pipelines.workspace import Workspace, is_current

_log = logging.getLogger(__name__)


def distill_stage(
    recipe: DistillRecipe, workspace: Workspace, progress: Progress = no_progress
) -> Row:
    """Train, or go on training, and write the student; what is current is only read.

    A classifier's student is the artifact `bcos`, an encoder's `encoder`, and that of a bottleneck
    model is such a model itself: `encoder` and the teacher's `sae`, `dictionary` and `cbm`.

    Raises:
        InvalidInput: no photos, unknown names, options that the teacher's kind does not have, or a
            loss that broke.
        Unavailable: weights that must be fetched, without a network.
    """
    join_workers()
    config = recipe.config()
    source = open_recipe_source(Recipe(data=recipe.data, dataset=recipe.dataset))
    device = own_device(recipe.device)
    teacher = open_teacher(recipe.teacher, device)
    _require_possible(config, teacher)
    student = open_student(recipe, teacher)
    workspace.create()
    inputs = {
        "teacher": teacher.mark, "photos": source.fingerprint,
        "student": weights_mark(student.side.network),
    }  # fmt: skip
    job = _Job(recipe, workspace, teacher, student, config, inputs, device, progress)
    if not job.is_current():
        photos, classes = job.photos(source)
        history = job.train(photos, classes)
        job.save(history, photos)
        together(device)
    return job.result()


def _require_possible(config: Distillation, teacher: Teacher) -> None:
    if teacher.kind != CLASSIFIER and (config.explanation != NONE or config.frozen):
        what = "a bottleneck model" if teacher.kind == CBM else "an encoder"
        raise InvalidInput(
            f"The teacher is {what}, whose students learn embeddings (and contributions of "
            "concepts): explanation and frozen are for classifiers. Leave them out, or give a "
            "classifier as the teacher."
        )
    idle = ("embedding_weight", "relational_weight") if teacher.kind == CLASSIFIER else (
        "label_weight", "multi_label",
    )  # fmt: skip
    usual = Distillation()
    for name in idle:
        if getattr(config, name) != getattr(usual, name):
            raise InvalidInput(
                f"{name} is {getattr(config, name)}, which a student of this kind of teacher "
                f"({teacher.kind}) does not learn by. Leave it out."
            )


@dataclass(frozen=True, slots=True)
class _Job:
    """One distillation: what with, and where."""

    recipe: DistillRecipe
    workspace: Workspace
    teacher: Teacher
    student: Student
    config: Distillation
    inputs: dict[str, str]
    device: str
    progress: Progress

    @property
    def kind(self) -> Kind:
        """Of the artifact that holds the student."""
        return "bcos" if self.teacher.kind == CLASSIFIER else "encoder"

    @property
    def path(self) -> Path:
        """The artifact."""
        return self.workspace.root / self.kind

    @property
    def training(self) -> dict[str, Any]:
        """What is remembered of how it was trained."""
        return {
            **asdict(self.config), "shots": self.recipe.shots, "split_seed": self.recipe.seed,
            "distilled": True,
        }  # fmt: skip

    @property
    def mark(self) -> str:
        """Fingerprint of all that decides the result."""
        student = self.student
        choices = [asdict(student.blueprint), asdict(student.side.views), self.training]
        return fingerprint([*choices, self.inputs])

    def is_current(self) -> bool:
        """Whether an earlier run made the student from the same choices and inputs."""
        config = {"blueprint": asdict(self.student.blueprint), "training": self.training}
        config |= {"views": asdict(self.student.side.views)} if self.kind == "bcos" else {
            "preprocess": self._preprocess()
        }  # fmt: skip
        if not is_current(self.path, self.kind, config, self.inputs):
            return False
        return self.teacher.kind != CBM or self._has_bottleneck()

    def _has_bottleneck(self) -> bool:
        """Whether the bottleneck that is written last is that of this encoder and teacher."""
        if not (self.workspace.cbm / MANIFEST).is_file():
            return False
        found = load_manifest(self.workspace.cbm, "cbm")
        encoder = load_encoder(self.encoder_spec, device="cpu", precision="fp32")
        return (
            found.config.get("student_of") == self.teacher.mark
            and found.inputs.get("encoder") == encoder.fingerprint
        )

    def _preprocess(self) -> dict[str, Any]:
        """The student's pixels, made as the teacher's are."""
        if self.teacher.encoder is None:
            return {}
        views = self.student.side.views
        return {
            **self.teacher.encoder.preprocess_config, "size": [views.size, views.size],
            "mean": list(views.mean), "std": list(views.std),
        }  # fmt: skip

    def photos(self, source: ImageSource) -> tuple[Photos, tuple[str, ...]]:
        """Decoded at the larger size of both; few of each class where that is asked for."""
        pixels = self._decoded(source)
        photos, classes = labelled_photos(pixels, split_records(source, self.recipe.seed))
        if self.recipe.shots is not None:
            photos = few_shots(photos, self.recipe.shots, self.recipe.seed, classes)
        return self._in_the_teachers_order(photos, classes), classes

    def _decoded(self, source: ImageSource) -> Pixels:
        size = common_views([self.student.side.views, self.teacher.side.views]).size
        how: dict[str, Any] = {"size": size}
        if self.teacher.encoder is not None:
            geometry = {**self.teacher.encoder.preprocess_config, "size": [size, size]}
            how |= {"resize": Preprocess(geometry).resize, "geometry": geometry}
        workers = current_workers()
        if workers.rank == 0:
            decoded(source, self.workspace.work, progress=self.progress, **how)
        workers.smallest(torch.zeros((), device=self.device))
        return decoded(source, self.workspace.work, **how)

    def _in_the_teachers_order(self, photos: Photos, classes: Sequence[str]) -> Photos:
        """Labels as the teacher counts classes; none where they cannot be compared."""
        if photos.labels is None or self.teacher.kind == ENCODER:
            return photos
        theirs = self.teacher.classes or (classes if len(classes) == self.teacher.width else ())
        if set(classes) <= set(theirs):
            places = np.array([list(theirs).index(name) for name in classes])
            labels = np.where(photos.labels < 0, -1, places[photos.labels])
            return replace(photos, labels=labels)
        if self.config.label_weight:
            raise InvalidInput(
                f"The photos have {len(classes)} classes, the teacher {self.teacher.width} others: "
                "label_weight must be 0."
            )
        _log.warning(
            "The photos' %d classes are not those of the teacher (%d): accuracy is not measured.",
            len(classes), self.teacher.width,
        )  # fmt: skip
        return replace(photos, labels=None)

    def train(self, photos: Photos, classes: tuple[str, ...]) -> list[Row]:
        """The history; the student's network has its weights then."""
        student, teacher = self.student.side, self.teacher
        run = Run(
            checkpoint=self.workspace.checkpoint(f"distill-{self.mark[:12]}"), device=self.device,
            purpose=self.mark, progress=self.progress,
        )  # fmt: skip
        if teacher.kind == CLASSIFIER:
            frozen = self._frozen(photos) if self.config.frozen else None
            return distil_classifier(student, teacher.side, photos, self.config, run, frozen=frozen)
        encoder, texts = teacher.encoder, None
        if encoder is not None and encoder.has_texts and classes and teacher.kind == ENCODER:
            texts = encoder.encode_texts(classes, templates=PHOTO_TEMPLATES)
        return distil_encoder(
            student, teacher.side, photos, self.config, run, texts=texts,
            bottleneck=teacher.bottleneck,
        )  # fmt: skip

    def _frozen(self, photos: Photos) -> FrozenTeacher:
        """By the first worker; the others read what it wrote."""
        student, teacher = self.student.side, self.teacher.side
        views = common_views([student.views, teacher.views])
        pair = explainers(student, teacher, photos, views, self.config, self.device)
        marks = {"teacher": self.teacher.mark, "photos": self.inputs["photos"]}
        folder = self.workspace.work / f"frozen-{self.mark[:12]}"
        workers = current_workers()

        def asked() -> FrozenTeacher:
            return freeze(
                teacher, pair[1] if pair and self.config.is_guided else None, photos, folder,
                marks=marks, device=self.device, progress=self.progress,
            )  # fmt: skip

        if workers.rank == 0:
            asked()
        workers.smallest(torch.zeros((), device=self.device))
        return asked()

    def save(self, history: list[Row], photos: Photos) -> None:
        """Write the student; the first of several workers does."""
        if current_workers().rank > 0:
            return
        metrics = {k: v for row in history for k, v in row.items() if k.startswith("held_out_")}
        metrics |= {
            "train_photos": len(photos.train), "held_out_photos": len(photos.held_out),
            "parameters": _parameters(self.student.side.network),
            "teacher_parameters": _parameters(self.teacher.side.network),
        }  # fmt: skip
        student = self.student
        common: dict[str, Any] = {
            "training": self.training, "inputs": self.inputs, "metrics": metrics,
            "history": history,
        }  # fmt: skip
        if self.kind == "bcos":
            save_bcos(
                self.path, student.side.network, student.blueprint, student.side.views,
                classes=self.teacher.classes, **common,
            )  # fmt: skip
        else:
            save_encoder(
                self.path, student.side.network, student.blueprint, embed_dim=self.teacher.width,
                preprocess=self._preprocess(), text=self._text(), **common,
            )  # fmt: skip
        if self.teacher.model is not None and self.teacher.bottleneck is not None:
            self._save_bottleneck(self.teacher.model, self.teacher.bottleneck, photos)
        self.workspace.clean()

    def _text(self) -> TextTower | None:
        encoder = self.teacher.encoder
        if encoder is None or not encoder.has_texts:
            return None
        return TextTower(encoder=encoder.spec, fingerprint=encoder.fingerprint)

    @property
    def encoder_spec(self) -> str:
        """How the student is asked for as an encoder."""
        return f"{TRAINED}:{self.workspace.root.absolute()}"

    def _save_bottleneck(self, model: Predictor, bottleneck: Bottleneck, photos: Photos) -> None:
        """The teacher's concepts behind the student's embeddings."""
        root = Path(self.recipe.teacher).expanduser()
        for name in ("sae", "dictionary"):
            copy_artifact(root / name, self.workspace.root / name)
        cbm = model.cbm
        found = head_accuracy(self.student.side, self.teacher.side, photos, model, self.device)
        heads = {"dncbm" if name == DENSE else name: value for name, value in found.items()}
        kept: dict[str, Any] = {k: cbm.metrics[k] for k in ("nec", "ncc") if k in cbm.metrics}
        trained = TrainedProbe(
            probe=cbm.probe, nec_probes=cbm.nec_probes, temperatures=cbm.temperatures, metrics={},
            history=[],
        )  # fmt: skip
        encoder = load_encoder(self.encoder_spec, device="cpu", precision="fp32")
        save_cbm(
            self.workspace.cbm, trained,
            config={**cbm.config, "encoder": self.encoder_spec, "student_of": self.teacher.mark},
            inputs={**cbm.manifest.inputs, "encoder": encoder.fingerprint},
            metrics={**kept, "accuracy": {"test": found}, "test_accuracy": heads},
        )  # fmt: skip

    def result(self) -> Row:
        """What the command prints."""
        row = {self.kind: str(self.path), **load_manifest(self.path, self.kind).metrics}
        root = self.workspace.root
        if self.teacher.kind == CLASSIFIER:
            again = f"dncbm distill --teacher {root} --student NETWORK --data PHOTOS --out DIR"
            return row | {"next": again}
        following = f"dncbm embed --encoder {root} --data PHOTOS --out MODEL"
        if self.teacher.kind == CBM:
            following = f"dncbm predict {root} PHOTO"
        return row | {"encoder": self.encoder_spec, "next": following}


@torch.no_grad()
def head_accuracy(
    student: Viewed, teacher: Viewed, photos: Photos, model: Predictor, device: str
) -> dict[str, float]:
    """Share of held-out photos that each head gets right behind the student's embeddings."""
    if photos.labels is None or not len(photos.held_out):
        return {}
    views = common_views([student.views, teacher.views])
    heads = {DENSE: model.cbm.probe} | {f"nec{n}": p for n, p in model.cbm.nec_probes.items()}
    right = dict.fromkeys(heads, 0)
    sae = model.sae.to("cpu")
    for rows, shares in whole(photos, views, device):
        codes = sae.encode(student(shares).float().cpu())
        for name, probe in heads.items():
            right[name] += int((probe.logits(codes).argmax(1) == photos.truth(rows)).sum())
    return {name: count / len(photos.held_out) for name, count in right.items()}


def copy_artifact(source: Path, target: Path) -> None:
    """An artifact with all its files at another place, all at once."""
    require_replaceable(target)
    with writing(target), draft_of(target) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True)
        publish(draft, target)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
