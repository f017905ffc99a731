"""Teachers and students of `dncbm distill`, by what their names say."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from dncbm.artifacts import MANIFEST, load_manifest
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.originals import FAMILIES, build_classifier, open_classifier, parse_classifier
from dncbm.bcos.recipe import SCRATCH
from dncbm.bcos.store import Blueprint, blueprint_of, load_bcos
from dncbm.data.views import Views
from dncbm.distillation.embeddings import Bottleneck
from dncbm.distillation.recipe import DistillRecipe
from dncbm.distillation.viewed import Viewed
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.spec import BCOS
from dncbm.encoders.trained import build_tower, load_tower, trained_folder
from dncbm.errors import InvalidInput, UnknownName
from dncbm.predictor import Predictor
from pipelines.bcosify import weights_mark

CLASSIFIER: Final = "classifier"
ENCODER: Final = "encoder"
CBM: Final = "cbm"
_HELP = (
    "A student is scratch:NAME, scratch:timm:NAME, scratch:torchvision:NAME, timm:NAME[@FILE], "
    "torchvision:NAME[@FILE], or for encoders an open_clip architecture or what was distilled "
    "before."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """What is learned from."""

    kind: Literal["classifier", "encoder", "cbm"]
    side: Viewed
    width: int
    """Classes of a classifier, else axes of the embedding."""
    mark: str
    """Fingerprint."""
    classes: tuple[str, ...] = ()
    """Of the logits, where they are known."""
    encoder: Encoder | None = None
    model: Predictor | None = None
    """Of a concept bottleneck."""
    bottleneck: Bottleneck | None = None


@dataclass(frozen=True, slots=True)
class Student:
    """What learns."""

    side: Viewed
    blueprint: Blueprint


def open_teacher(text: str, device: str) -> Teacher:
    """The teacher that a text names.

    Raises:
        UnknownName, InvalidInput, ArtifactError, Unavailable: as its loader says.
    """
    family = text.partition(":")[0]
    if family in FAMILIES:
        network, views = open_classifier(parse_classifier(text), None)
        with torch.no_grad():
            zeros = torch.zeros(2, 3, views.size, views.size)
            width = network.eval()(zeros).shape[1]
        mark = weights_mark(network)
        return Teacher(kind="classifier", side=Viewed(network, views), width=width, mark=mark)
    folder = Path(text).expanduser()
    if (folder / "cbm" / MANIFEST).is_file():
        return _open_bottleneck(folder, device)
    stored = _bcos_folder(text)
    if stored is not None and blueprint_of(stored).family != "encoder":
        return _open_stored(stored)
    spec = text if stored is None else f"{BCOS}:{stored.absolute()}"
    return _of_encoder(load_encoder(spec, device=device, precision="fp32"))


def _bcos_folder(text: str) -> Path | None:
    """Where a `bcos` artifact lies that a text names."""
    folder = Path(text.removeprefix(f"{BCOS}:")).expanduser()
    return next((p for p in (folder, folder / BCOS) if _has_bcos(p)), None)


def _has_bcos(path: Path) -> bool:
    return (path / MANIFEST).is_file() and load_manifest(path).kind == BCOS


def _open_stored(path: Path) -> Teacher:
    found = load_bcos(path)
    side = Viewed(found.network, found.views)
    with torch.no_grad():
        zeros = torch.zeros(2, 3, found.views.size, found.views.size)
        width = found.network(zeros).shape[1]
    mark = found.manifest.fingerprint
    return Teacher(kind="classifier", side=side, width=width, mark=mark, classes=found.classes)


def _of_encoder(encoder: Encoder) -> Teacher:
    if encoder.has_texts:  # which will go with the student's tower
        encoder.require_exchangeable()
    views = _views_of(encoder)
    side = Viewed(encoder.image_tower(), views)
    return Teacher(
        kind="encoder", side=side, width=encoder.embed_dim, mark=encoder.fingerprint,
        encoder=encoder,
    )  # fmt: skip


def _open_bottleneck(folder: Path, device: str) -> Teacher:
    model = Predictor.load(folder, device=device)
    encoder = model.encoder
    side = Viewed(encoder.image_tower(), _views_of(encoder))
    return Teacher(
        kind="cbm", side=side, width=encoder.embed_dim, mark=model.cbm.manifest.fingerprint,
        classes=model.classes, encoder=encoder, model=model,
        bottleneck=Bottleneck(model.sae, model.cbm.probe),
    )  # fmt: skip


def _views_of(encoder: Encoder) -> Views:
    if len(set(encoder.image_size)) > 1:
        raise InvalidInput(
            f"{encoder.spec} takes pixels of {encoder.image_size}; the rule is a square. Choose "
            "another teacher."
        )
    config = encoder.preprocess_config
    return Views(
        size=encoder.image_size[0], mean=tuple(config["mean"]), std=tuple(config["std"])
    )  # fmt: skip


def open_student(recipe: DistillRecipe, teacher: Teacher) -> Student:
    """The student before it learns, with a head of the teacher's width.

    Random weights follow from the recipe's seed.

    Raises:
        UnknownName: no such network or setting.
        InvalidInput: an encoder's architecture as the student of a classifier.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        blueprint, network, own = _built(recipe, teacher)
    if own is None:
        own = teacher.side.views
        if isinstance(network, ImageModel):  # which sees colours from 0 to 1
            own = Views(size=own.size)
    views = Views(size=recipe.size or own.size, mean=own.mean, std=own.std)
    _require_size(network, views.size, recipe.student)
    return Student(Viewed(network.requires_grad_(True), views), blueprint)


def _built(recipe: DistillRecipe, teacher: Teacher) -> tuple[Blueprint, nn.Module, Views | None]:
    """Blueprint, network, and the pixels that it was made for, where it was."""
    if teacher.kind != CLASSIFIER and trained_folder(recipe.student) is not None:
        return _distilled_before(recipe, teacher)
    scheme, _, name = recipe.student.partition(":")
    settings: dict[str, Any] = {"num_classes": teacher.width, **recipe.network}
    if scheme in FAMILIES:
        _refuse(recipe.network, recipe.student)
        spec = parse_classifier(recipe.student)
        network, views = open_classifier(spec, teacher.width)
        return Blueprint(family=spec.family, name=spec.name, arguments=settings), network, views
    if scheme == SCRATCH and name.partition(":")[0] in FAMILIES:
        _refuse(recipe.network, recipe.student)
        spec = parse_classifier(name)
        network, _ = build_classifier(spec.family, spec.name, teacher.width)
        return Blueprint(family=spec.family, name=spec.name, arguments=settings), network, None
    if scheme == SCRATCH:
        blueprint = Blueprint(family=SCRATCH, name=name, arguments=settings)
    elif teacher.kind == CLASSIFIER:
        raise UnknownName("student", recipe.student, ["scratch:resnet18", "timm:resnet18"], _HELP)
    else:
        _refuse(recipe.network, recipe.student)
        blueprint = Blueprint(family="encoder", name=recipe.student)
    if teacher.kind == CLASSIFIER:
        return blueprint, blueprint.build(), None
    network = build_tower(blueprint, teacher.width)
    size = getattr(network, "image_size", None) if blueprint.family == "encoder" else None
    if size is None:
        return blueprint, network, None
    side = size if isinstance(size, int) else size[0]
    views = teacher.side.views
    return blueprint, network, Views(size=side, mean=views.mean, std=views.std)


def _distilled_before(
    recipe: DistillRecipe, teacher: Teacher
) -> tuple[Blueprint, nn.Module, Views]:
    """An encoder that was trained here, to go on with."""
    path = trained_folder(recipe.student) or Path(recipe.student)
    _refuse(recipe.network, recipe.student)
    found = load_tower(path)
    if found.embed_dim != teacher.width:
        raise InvalidInput(
            f"{recipe.student} has embeddings of width {found.embed_dim}, its teacher of "
            f"{teacher.width}; the rule is one width. Choose a student of the same teacher."
        )
    size, mean, std = (found.preprocess[name] for name in ("size", "mean", "std"))
    side = size if isinstance(size, int) else size[0]
    views = Views(size=side, mean=tuple(mean), std=tuple(std))
    return Blueprint(**found.manifest.config["blueprint"]), found.tower, views


def _require_size(network: nn.Module, size: int, student: str) -> None:
    """One pass, since networks refuse sizes in ways of their own."""
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InvalidInput(
            f"{student} does not take photos of {size} pixels ({error}). Give the size that it "
            "takes by --size, or another student."
        ) from error


def _refuse(settings: Mapping[str, Any], student: str) -> None:
    if settings:
        raise InvalidInput(
            f"{student} is built as its library builds it and takes no network settings, got "
            f"{', '.join(settings)}. Leave them out, or take scratch:NAME of our own networks."
        )
