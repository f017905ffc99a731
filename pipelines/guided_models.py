"""Networks that guidance begins with, and guided ones read again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dncbm.artifacts import MANIFEST
from dncbm.bcos.originals import open_classifier, parse_classifier
from dncbm.bcos.store import Blueprint, LoadedBcos, NetworkKind, load_bcos
from dncbm.data.views import Views
from dncbm.encoders.spec import BCOS, GUIDED
from dncbm.errors import InvalidInput
from dncbm.guidance.recipe import SCRATCH, GuideRecipe
from pipelines.bcosify import weights_mark

_SCRATCH_SIZE = 224


@dataclass(frozen=True, slots=True)
class Opened:
    """A network to guide."""

    network: nn.Module
    blueprint: Blueprint
    views: Views
    """Of whole photos."""
    mark: str
    """Fingerprint of its weights."""


def load_guided(path: str | Path, *, original: nn.Module | None = None) -> LoadedBcos:
    """What `dncbm guide --out PATH` wrote.

    Args:
        path: the directory, or the artifact in it.
        original: the image tower that it was made of, for an encoder's.

    Raises:
        ArtifactError: not such a directory, or damaged.
        InvalidInput: an encoder's tower is needed.
    """
    return _stored(Path(path).expanduser(), GUIDED, original)


def open_network(recipe: GuideRecipe, classes: Sequence[str]) -> Opened:
    """The classifier that a recipe names, with a logit for each class.

    Raises:
        UnknownName: no such architecture.
        InvalidInput: a stored network of other classes.
        Unavailable: weights that must be fetched, without a network.
    """
    scheme, _, name = recipe.model.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # what begins anew does so alike
        if scheme == SCRATCH:
            arguments = {**recipe.architecture, "num_classes": len(classes)}
            blueprint = Blueprint(family=SCRATCH, name=name, arguments=arguments)
            network, views = blueprint.build(), Views(size=_SCRATCH_SIZE)
        elif scheme in (GUIDED, BCOS):
            kind: NetworkKind = GUIDED if scheme == GUIDED else BCOS
            network, views, blueprint = _known(Path(name).expanduser(), kind, classes)
        else:
            spec = parse_classifier(recipe.model)
            network, views = open_classifier(spec, len(classes))
            arguments = {"num_classes": len(classes)}
            blueprint = Blueprint(family=spec.family, name=spec.name, arguments=arguments)
    network = network.requires_grad_(True)
    views = replace(views, size=recipe.size or views.size)
    return Opened(network, blueprint, views, weights_mark(network))


def _known(
    folder: Path, kind: NetworkKind, classes: Sequence[str]
) -> tuple[nn.Module, Views, Blueprint]:
    loaded = _stored(folder, kind, None)
    if loaded.classes != tuple(classes):
        raise InvalidInput(
            f"{folder} tells {len(loaded.classes)} classes apart ({', '.join(loaded.classes[:5])} "
            f"...), the photos have {len(classes)} ({', '.join(classes[:5])} ...). Give photos of "
            "the classes that it was trained on."
        )
    return loaded.network, loaded.views, loaded.blueprint


def _stored(folder: Path, kind: NetworkKind, original: nn.Module | None) -> LoadedBcos:
    path = folder if (folder / MANIFEST).is_file() else folder / kind
    return load_bcos(path, original=original, kind=kind)
