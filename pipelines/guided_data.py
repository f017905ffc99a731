"""Photos with boxes and classes, as guided training takes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dncbm.artifacts import fingerprint
from dncbm.attribution.targets import indices
from dncbm.data.annotations import Annotations, read_annotations
from dncbm.data.pixels import Pixels, Resize, decoded, resized
from dncbm.data.sources import ImageSource, groups_of
from dncbm.errors import InvalidInput
from dncbm.guidance.masks import Masks, stored_masks
from dncbm.guidance.photos import GuidedPhotos
from dncbm.guidance.recipe import GuideRecipe
from dncbm.training.photos import Photos
from dncbm.training.progress import Progress
from pipelines.embed import open_recipe_source, require_classes, split_records
from pipelines.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Material:
    """What is known before anything is decoded."""

    source: ImageSource
    annotations: Annotations
    splits: Sequence[str]
    classes: tuple[str, ...]
    multiple: bool
    """Several classes per photo."""

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints."""
        return {"photos": self.source.fingerprint, "annotations": self.annotations.fingerprint}


def read_material(recipe: GuideRecipe) -> Material:
    """Photos, their annotations and their classes.

    Raises:
        InvalidInput: no photos, no annotation that can be used, or no classes.
    """
    source = open_recipe_source(Recipe(data=recipe.data, dataset=recipe.dataset))
    where = recipe.annotations or recipe.data
    if where is None:
        raise InvalidInput("No annotations given. Use --annotations PATH.")
    annotations = read_annotations(where, recipe.format, photos=source)
    splits = split_records(source, recipe.seed)
    labels = {r.id: r.label for r in source.records if r.label is not None}
    single = recipe.task == "single" or (recipe.task == "auto" and len(set(labels.values())) > 1)
    if recipe.relabel:
        annotations = annotations.relabelled(labels)
    if single:
        require_classes(source, list(splits))
        return Material(source, annotations, splits, tuple(sorted(set(labels.values()))), False)
    return Material(source, annotations, splits, annotations.labels, True)


@dataclass(frozen=True, slots=True)
class How:
    """How photos become the pixels of a network."""

    size: int
    geometry: str = "resized"
    resize: Callable[[int], Resize] = resized
    told: Any = "resized"
    """What tells one way from another."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Decoded photos with all that is known of them, and the rows that are kept for the test."""

    data: GuidedPhotos
    test: np.ndarray
    annotated: int
    """Training photos whose boxes are used."""


def prepare(
    material: Material, recipe: GuideRecipe, how: How, work: Path, progress: Progress, *,
    labels: Sequence[str] | None = None,
) -> Prepared:  # fmt: skip
    """Decode the photos and draw the masks of their classes, below `work`.

    Validation photos choose, test photos judge. Boxes of classes that a photo is not of are not
    used, unless `labels` says whose boxes are the targets, which then are no classes.

    Raises:
        InvalidInput: a class without annotation, or no photo that can be used.
        Unavailable: the disk is full or not writable.
    """
    pixels = decoded(
        material.source, work, size=how.size, resize=how.resize(how.size), geometry=how.told,
        progress=progress,
    )  # fmt: skip
    ids = [record.id for record in pixels.records]
    truth, usable = _truth(material, pixels, ids)
    dealt = np.array(material.splits)
    train, held_out, test = (
        usable[dealt[usable] == name] for name in ("train", "validation", "test")
    )
    learned = [ids[row] for row in train]
    annotations = material.annotations.thinned(recipe.fraction, learned, recipe.seed)
    known = annotations.known(ids)[:, None]
    places = np.arange(len(labels)) if labels is not None else _guided(material, recipe)
    targets = labels or [material.classes[place] for place in places]
    shown = known & (truth[:, places] if labels is None else np.ones((1, len(places)), bool))
    choices = [recipe.fraction, recipe.dilation, recipe.kind, how.size, how.told, list(targets)]
    mark = fingerprint([material.inputs, choices, recipe.seed])
    found = stored_masks(
        material.annotations.dilated(recipe.dilation, learned), ids, targets,
        work / f"masks-{mark[:12]}.bool", size=how.size, geometry=how.geometry,
        kind=recipe.annotated_by, wanted=shown,
    )  # fmt: skip
    masks = Masks(found.rows, places[found.targets], found.pixels)
    photos = Photos(images=pixels.images, train=train, held_out=held_out)
    data = GuidedPhotos(
        photos=photos, truth=truth, masks=masks, groups=groups_of(material.source)
    )  # fmt: skip
    return Prepared(data, test, int(np.isin(train, masks.rows).sum()))


def _guided(material: Material, recipe: GuideRecipe) -> np.ndarray:
    """Places of the classes that are guided.

    Raises:
        UnknownName: no such class.
        InvalidInput: a guided class has no annotation.
    """
    wanted = list(recipe.guided or material.classes)
    places = indices("class", wanted, material.classes)
    annotated = material.annotations.labels
    missing = sorted(set(wanted) - set(annotated))
    if missing:
        raise InvalidInput(
            f"{len(missing)} classes have no box or mask, such as {missing[0]!r}; annotated are "
            f"{', '.join(annotated[:10])}. Annotate them, guide others only (--guided CLASS), or "
            "take all boxes of a photo for its class (--relabel)."
        )
    return np.array(places)


def _truth(material: Material, pixels: Pixels, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Classes by photo, and the photos of which they are known."""
    usable = pixels.usable()
    if material.multiple:
        known = material.annotations.known(ids)
        return material.annotations.targets(ids, material.classes), usable[known[usable]]
    labels = np.array([record.label or "" for record in pixels.records])
    truth = labels[:, None] == np.array(material.classes)
    return truth, usable[truth[usable].any(axis=1)]
