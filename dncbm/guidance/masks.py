"""Where things are in the photos of a training: masks by photo and target, and which are guided."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from dncbm.artifacts import writing
from dncbm.data.annotations import Annotations
from dncbm.data.annotations.collection import Kind
from dncbm.data.views import Boxes, Views
from dncbm.errors import InvalidInput

_BYTES_AT_ONCE = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Masks of photos, at most one per photo and target.

    Raises:
        InvalidInput: an empty mask, or two masks of one photo and target.
    """

    rows: Int[np.ndarray, " a"]
    """Photo of each mask, in rising order."""
    targets: Int[np.ndarray, " a"]
    """What each mask shows: a class, or the place of a guided concept."""
    pixels: Bool[np.ndarray, "a h w"]
    """In memory or mapped from a file; of the whole photo, at any size."""

    def __post_init__(self) -> None:
        steps = np.diff(self.rows)
        pairs = np.stack([self.rows, self.targets], axis=1)
        if (steps < 0).any() or len(np.unique(pairs, axis=0)) < len(pairs):
            raise InvalidInput(
                "Masks are in rising order of their photos, one per photo and target. Unite the "
                "boxes of one class, and sort."
            )
        for mask, row in zip(self.pixels, self.rows, strict=True):
            if not mask.any():
                raise InvalidInput(f"The mask of photo {row} is empty. Leave it out.")

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, rows: Int[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
        """All masks of some photos: their places among `rows`, and their own numbers."""
        first = np.searchsorted(self.rows, rows, side="left")
        last = np.searchsorted(self.rows, rows, side="right")
        places = np.repeat(np.arange(len(rows)), last - first)
        found = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
        return places, np.concatenate([np.zeros(0, dtype=int), *found])

    def read(self, numbers: np.ndarray) -> Bool[Tensor, "p h w"]:
        """Some masks, copied."""
        return torch.from_numpy(np.ascontiguousarray(self.pixels[numbers]))


def stored_masks(  # noqa: PLR0913 - annotations, and how photos became squares
    annotations: Annotations, ids: Sequence[str], classes: Sequence[str], file: Path, *, size: int,
    geometry: str = "resized", kind: Kind = "boxes",
    wanted: Bool[np.ndarray, "n t"] | None = None,
) -> Masks:  # fmt: skip
    """Masks of classes in photos, written once to a file that training reads at random.

    Args:
        annotations: of the photos.
        ids: of the photos, by row.
        classes: labels, by target.
        file: replaced.
        size: of the square that photos were decoded to.
        geometry: how they became squares; see `Annotations.masks`.
        kind: boxes or segments.
        wanted: which targets of which photos are used; None: all.

    Raises:
        InvalidInput: a class that is annotated nowhere, or no photo shows any.
        Unavailable: the disk is full or not writable.
    """
    used = np.ones((len(ids), len(classes)), bool) if wanted is None else wanted
    rows = np.flatnonzero(annotations.known(ids) & used.any(axis=1))
    at_once = max(1, _BYTES_AT_ONCE // (len(classes) * size * size))
    found: list[tuple[int, int]] = []
    with writing(file), file.open("wb") as stream:
        for part in np.split(rows, range(at_once, len(rows), at_once)):
            planes = annotations.masks(
                [ids[row] for row in part], classes, size, geometry=geometry, kind=kind
            )
            for place, target in np.argwhere(planes.any(axis=(2, 3)) & used[part]):
                stream.write(planes[place, target].tobytes())
                found.append((int(part[place]), int(target)))
    if not found:
        raise InvalidInput(
            f"None of the {len(ids)} photos has a box or mask of {', '.join(classes[:5])}. Compare "
            "the names of the photos with those in the annotations."
        )
    pixels = np.memmap(file, dtype=np.bool_, mode="r", shape=(len(found), size, size))
    pairs = np.array(found)
    return Masks(pairs[:, 0], pairs[:, 1], pixels)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Maps that are guided in a batch, each with its mask; several may be of one photo."""

    places: Int64[Tensor, " p"]
    """Photo of each within the batch."""
    slots: Int64[Tensor, " p"]
    """Which of its photo's targets it is."""
    targets: Int64[Tensor, "n t"]
    """Targets of each photo by slot; those of unused slots are 0."""
    masks: Bool[Tensor, "p h w"]

    def maps(self, maps: Float[Tensor, "n t y x"]) -> Float[Tensor, "p 1 y x"]:
        """The guided ones of all targets' maps."""
        return maps[self.places, self.slots][:, None]


def pairs_in_crops(
    masks: Masks, rows: np.ndarray, views: Views, boxes: Boxes, *, outside: bool = False,
    draws: Float[Tensor, " n"] | None = None,
) -> Pairs | None:  # fmt: skip
    """What can be guided in crops of photos; None where nothing of a mask is seen.

    Args:
        masks: of all photos.
        rows: photos of the batch.
        views: how they are cropped.
        boxes: crop of each.
        outside: attribution should be outside of the masks.
        draws: in [0, 1), one per photo, to choose one target of each by; None takes all.
    """
    places, numbers = masks.of(rows)
    if len(places) == 0:
        return None
    own = torch.from_numpy(places)
    shown = views.cropped_masks(masks.read(numbers)[:, None], boxes.cpu()[own])[:, 0]
    shown = ~shown if outside else shown
    kept = shown.flatten(1).any(dim=1).nonzero()[:, 0]
    if draws is not None:
        kept = _one_each(own, kept, draws)
    if len(kept) == 0:
        return None
    own, targets = own[kept], torch.from_numpy(masks.targets[numbers]).long()[kept]
    slots = _counted(own)
    table = torch.zeros(len(rows), int(slots.max()) + 1, dtype=torch.int64)
    table[own, slots] = targets
    return Pairs(own, slots, table, shown[kept])


def _one_each(places: Tensor, kept: Tensor, draws: Tensor) -> Tensor:
    """Of the kept pairs one per photo."""
    own = places[kept]
    slots, counts = _counted(own), torch.bincount(own, minlength=len(draws))
    wanted = (draws * counts).long().clamp_max((counts - 1).clamp_min(0))
    return kept[slots == wanted[own]]


def _counted(places: Tensor) -> Tensor:
    """0, 1, ... within each run of equal places, which are sorted."""
    first = torch.searchsorted(places, places, side="left")
    return torch.arange(len(places)) - first
