"""Annotations of many photos: masks for a network, targets, and shares of them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool

from dncbm.artifacts import fingerprint
from dncbm.data.annotations.entries import Problem
from dncbm.data.annotations.geometry import dilated, draw_box, draw_segment, geometry_named
from dncbm.data.annotations.regions import Annotated, Bitmap, Box, Segment
from dncbm.errors import InvalidInput

Kind = Literal["boxes", "segments"]


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known about photos, by their id in the source that they were joined to."""

    photos: Mapping[str, Annotated]
    """Photos with a usable annotation; an empty one says that none of the things is there."""
    errors: Sequence[Problem] = ()
    """What was left out, and why."""
    unmatched: int = 0
    """Annotations about photos that the source does not have."""
    fraction: float = field(default=1.0)
    """Share of the photos that kept its annotation."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All that is annotated anywhere, sorted."""
        return tuple(sorted({box.label for photo in self.photos.values() for box in photo.boxes}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, sizes, boxes and segments."""
        digest = hashlib.sha256()
        for name in sorted(self.photos):
            digest.update(fingerprint([name, _as_values(self.photos[name])]).encode())
        return digest.hexdigest()

    def boxes(self, name: str) -> tuple[Box, ...]:
        """Boxes of a photo, in its pixels; none for a photo without annotation."""
        photo = self.photos.get(name)
        return photo.boxes if photo else ()

    def known(self, ids: Iterable[str]) -> Bool[np.ndarray, " n"]:
        """Which photos have an annotation, be it an empty one."""
        return np.array([name in self.photos for name in ids], dtype=bool)

    def targets(self, ids: Sequence[str], classes: Sequence[str]) -> Bool[np.ndarray, "n k"]:
        """Which classes each photo shows, for learning with several labels per photo.

        Raises:
            InvalidInput: a class that is annotated nowhere.
        """
        self._require(classes)
        shown = [{box.label for box in self.boxes(name)} for name in ids]
        return np.array(
            [[name in photo for name in classes] for photo in shown], dtype=bool
        ).reshape(len(ids), len(classes))

    def masks(
        self, ids: Sequence[str], classes: Sequence[str], size: int, *, geometry: str = "centred",
        kind: Kind = "boxes",
    ) -> Bool[np.ndarray, "n k size size"]:  # fmt: skip
        """Where each class is in each photo: the union of its boxes or segments.

        A mask is empty where the photo has no annotation (of this kind) or does not show the
        class, and where the middle square cut the thing away.

        Args:
            ids: of photos; their memory is `n k size size` bytes, so ask batch by batch.
            classes: labels.
            size: of the square that the network sees.
            geometry: how photos became squares: `centred` (cut, then scaled), `resized` (scaled
                without keeping their shape), `shortest` (scaled, then cut, as open_clip does).
            kind: boxes, or segments.

        Raises:
            InvalidInput: a class that is annotated nowhere, or no segments.
            UnknownName: the geometry.
        """
        self._require(classes)
        self._require_kind(kind)
        found = np.zeros((len(ids), len(classes), size, size), bool)
        index = {label: place for place, label in enumerate(classes)}
        for planes, name in zip(found, ids, strict=True):
            if (photo := self.photos.get(name)) is not None:
                _draw(planes, photo, index, geometry, kind)
        return found

    def one_each(
        self, ids: Sequence[str], labels: Sequence[str], size: int, *, geometry: str = "centred",
        kind: Kind = "boxes",
    ) -> Bool[np.ndarray, "n size size"]:  # fmt: skip
        """Like `masks`, with one class per photo."""
        self._require(sorted(set(labels)))
        self._require_kind(kind)
        found = np.zeros((len(ids), 1, size, size), bool)
        for planes, name, label in zip(found, ids, labels, strict=True):
            if (photo := self.photos.get(name)) is not None:
                _draw(planes, photo, {label: 0}, geometry, kind)
        return found[:, 0]

    def thinned(self, fraction: float, among: Iterable[str], seed: int) -> "Annotations":
        """A share of the photos `among` keep their annotation, all others keep theirs.

        Which ones is decided by a hash of seed and id: the photos of a smaller share are among
        those of a larger one. At least one photo keeps its annotation.

        Raises:
            InvalidInput: a share outside (0, 1].
        """
        if not 0 < fraction <= 1:
            raise InvalidInput(f"The annotated fraction is {fraction}; the rule is (0, 1].")
        order = sorted((name for name in set(among) if name in self.photos), key=_drawn(seed))
        dropped = set(order[max(1, round(fraction * len(order))) :])
        kept = {name: photo for name, photo in self.photos.items() if name not in dropped}
        return replace(self, photos=kept, fraction=fraction)

    def dilated(self, share: float, among: Iterable[str] | None = None) -> "Annotations":
        """Boxes with each side moved out by a share of their width or height, within the photo.

        Args:
            share: at least 0.
            among: photos whose boxes grow; None: all. Segments stay as they are.

        Raises:
            InvalidInput: a negative share.
        """
        chosen = set(self.photos if among is None else among)
        grown = {name: _grown(self.photos[name], share) for name in chosen & set(self.photos)}
        return replace(self, photos={**self.photos, **grown})

    def relabelled(self, labels: Mapping[str, str]) -> "Annotations":
        """Everything in a photo takes the photo's own label.

        For photos of one thing each, whose boxes have other names than the classes (the species
        of a bird, say). Photos without a label are left out.
        """
        return replace(self, photos={
            name: _renamed(photo, labels[name])
            for name, photo in self.photos.items() if name in labels
        })  # fmt: skip

    def _require(self, classes: Sequence[str]) -> None:
        missing = sorted(set(classes) - set(self.labels))
        if missing:
            shown = ", ".join(self.labels[:10])
            raise InvalidInput(
                f"No annotation has the class {missing[0]!r} ({len(missing)} of {len(classes)} "
                f"classes have none). Annotated are: {shown}. Leave it out or annotate it."
            )

    def _require_kind(self, kind: Kind) -> None:
        if kind == "segments" and not any(photo.segments for photo in self.photos.values()):
            raise InvalidInput("These annotations have no segments, only boxes. Use kind='boxes'.")


def _draw(
    planes: Bool[np.ndarray, "k size size"], photo: Annotated, index: Mapping[str, int],
    geometry: str, kind: Kind,
) -> None:  # fmt: skip
    place = geometry_named(geometry)(photo.size, planes.shape[-1])
    if kind == "boxes":
        for box in photo.boxes:
            if box.label in index:
                draw_box(planes[index[box.label]], box, place)
        return
    for segment in photo.segments:
        if segment.label in index:
            draw_segment(planes[index[segment.label]], segment, photo.size, place)


def _drawn(seed: int) -> Callable[[str], bytes]:
    return lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _grown(photo: Annotated, share: float) -> Annotated:
    return replace(photo, boxes=tuple(dilated(box, share, photo.size) for box in photo.boxes))


def _renamed(photo: Annotated, label: str) -> Annotated:
    boxes = tuple(replace(box, label=label) for box in photo.boxes)
    return replace(
        photo, boxes=boxes, segments=tuple(Segment(label, s.shape) for s in photo.segments)
    )


def _as_values(photo: Annotated) -> list[object]:
    boxes = [[b.label, b.left, b.top, b.right, b.bottom] for b in photo.boxes]
    return [list(photo.size), boxes, [[s.label, _shape_values(s)] for s in photo.segments]]


def _shape_values(segment: Segment) -> list[object]:
    shape = segment.shape
    if isinstance(shape, Bitmap):
        return [list(shape.size), list(shape.bounds()), hashlib.sha256(shape.bits).hexdigest()]
    return [ring.tolist() for ring in shape.rings]
