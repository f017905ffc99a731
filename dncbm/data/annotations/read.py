"""Annotations of any of the known formats, joined to the photos that they are about."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from dncbm.data.annotations import coco, indexed, lists, voc, yolo
from dncbm.data.annotations.collection import Annotations
from dncbm.data.annotations.entries import Entry, Listing, Problem
from dncbm.data.annotations.place import Place, open_place, stem
from dncbm.data.annotations.regions import Annotated, BadAnnotation, fitted
from dncbm.data.images import upright_size
from dncbm.data.sources import ImageSource, open_source
from dncbm.errors import InvalidInput, UnknownName

_log = logging.getLogger(__name__)

FORMATS: Mapping[str, Callable[[Place], Listing]] = {
    "voc": voc.listing, "coco": coco.listing, "yolo": yolo.listing, "masks": indexed.listing,
    "tiny-imagenet": lists.tiny_imagenet, "cub": lists.cub,
}  # fmt: skip


def read_annotations(
    location: str, format: str | None = None, *, photos: ImageSource | None = None
) -> Annotations:
    """Boxes and masks at a location, by the ids of the photos.

    An annotation belongs to the photo with the same name without extension. Where several photos
    have it, the one decides that shares most folders at the end of its path; the folders `images`,
    `labels`, `Annotations` and the like do not count. All that is said about one photo is joined:
    boxes of one file and polygons of another, say. A photo with any annotation that cannot be
    used is left out and listed in `errors`, since a mask that lacks a thing would teach to ignore
    it. Boxes that lie partly outside are clipped.

    Args:
        location: a folder, a file or a zip, or a folder inside a zip (`set.zip/folder`).
        format: one of `FORMATS`; None: what the names of the files say.
        photos: what the annotations are about; by default the photos at the same location.

    Raises:
        InvalidInput: nothing there, or nothing that can be used.
        UnknownName: the format.
    """
    place = open_place(location)
    if format is not None and format not in FORMATS:
        raise UnknownName("format of annotations", format, FORMATS)
    chosen = format or detected(place)
    source = photos if photos is not None else _beside(location)
    found = FORMATS[chosen](place)
    annotations = _joined(found, source)
    if not annotations.photos:
        raise InvalidInput(_nothing(location, chosen, found, annotations, source))
    _tell(location, annotations)
    return annotations


def detected(place: Place) -> str:
    """The format that the names of files point to.

    Raises:
        InvalidInput: none.
    """
    names, suffixes = place.names, {PurePosixPath(name).suffix.lower() for name in place.names}
    if lists.has_cub(place):
        return "cub"
    if ".xml" in suffixes:
        return "voc"
    if ".json" in suffixes:
        return "coco"
    if any(map(lists.is_list, names)):
        return "tiny-imagenet"
    if yolo.label_files(place):
        return "yolo"
    if ".png" in suffixes:
        return "masks"
    raise InvalidInput(
        f"{place.location} holds {len(names)} files but no boxes or masks. Known are VOC (.xml), "
        "COCO (.json), YOLO (labels/*.txt), masks (.png), Tiny ImageNet and CUB."
    )


def _beside(location: str) -> ImageSource:
    """The photos at the location of annotations: of what is inside a zip, those of the zip."""
    path = Path(location).expanduser()
    outer = next((p for p in (path, *path.parents) if p.suffix.lower() == ".zip"), None)
    around = path.parent if outer is None and path.is_file() else outer or path
    try:
        return open_source(str(around))
    except InvalidInput as error:
        raise InvalidInput(
            f"The annotations at {location} have no photos beside them ({error}) Say which photos "
            "they are about."
        ) from error


_PLAIN = frozenset(
    name.lower()
    for name in (*indexed.FOLDERS, "images", "img", "JPEGImages", "annotations", "data")
)


def _joined(found: Listing, source: ImageSource) -> Annotations:
    index: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(source.records):
        index[PurePosixPath(stem(record.path)).name].append(row)
    problems, unmatched = list(found.problems), 0
    of_row: dict[int, list[Entry]] = defaultdict(list)
    for entry in found.entries:
        try:
            place = _row_of(entry, index, source)
        except BadAnnotation as error:
            problems.append(Problem(entry.where, str(error)))
            continue
        if place is None:
            unmatched += 1
        else:
            of_row[place].append(entry)
    photos: dict[str, Annotated] = {}
    for row, entries in sorted(of_row.items()):
        read = _read(source, row, entries)
        if isinstance(read, Problem):
            problems.append(read)
        else:
            photos[source.records[row].id] = read
    return Annotations(photos, problems, unmatched)


def _row_of(entry: Entry, index: Mapping[str, Sequence[int]], source: ImageSource) -> int | None:
    """The photo that an entry is about, None where there is none."""
    rows = index.get(PurePosixPath(entry.name).name, ())
    if len(rows) > 1:  # masks are pictures too, and may lie at the same location
        rows = [row for row in rows if not _is_mask(source.records[row].path)] or rows
    if len(rows) <= 1:
        return rows[0] if rows else None
    shared = [_shared(entry.name, source.records[row].path) for row in rows]
    best = [row for row, count in zip(rows, shared, strict=True) if count == max(shared)]
    if len(best) > 1:
        first, second = (source.records[row].path for row in best[:2])
        raise BadAnnotation(f"it may be about {first} or {second}; their folders decide nothing")
    return best[0]


def _is_mask(photo: str) -> bool:
    path = PurePosixPath(photo)
    return path.suffix.lower() == ".png" and bool(set(path.parts[:-1]) & set(indexed.FOLDERS))


def _shared(entry: str, photo: str) -> int:
    """How many folders at the end of two paths are the same, plain ones aside."""
    mine, its = (
        [part for part in reversed(PurePosixPath(stem(path)).parts[:-1])
         if part.lower() not in _PLAIN]
        for path in (entry, photo)
    )  # fmt: skip
    count = 0
    for one, other in zip(mine, its, strict=False):
        if one != other:
            break
        count += 1
    return count


def _read(source: ImageSource, row: int, entries: Sequence[Entry]) -> Annotated | Problem:
    where = source.records[row].path
    try:
        size = upright_size(source.read(row))
        regions = []
        for entry in entries:
            where = entry.where
            regions.append(entry.read(size))
        return fitted(regions, size)
    except (BadAnnotation, InvalidInput) as error:
        return Problem(where, str(error))


def _nothing(
    location: str, chosen: str, found: Listing, annotations: Annotations, source: ImageSource
) -> str:
    start = f"None of the {len(found.entries)} annotations at {location} ({chosen}) can be used"
    if annotations.errors:
        first = annotations.errors[0]
        return f"{start}; the first problem: {first.where}: {first.reason}."
    if not found.entries:
        return f"{start}: no file holds any. Look at the layout of {chosen} in docs/guidance.md."
    return (
        f"{start}: they are about photos such as {found.entries[0].name!r}, the photos given have "
        f"names such as {source.records[0].path!r}. Names without extension must be equal."
    )


def _tell(location: str, annotations: Annotations) -> None:
    if annotations.errors:
        first = annotations.errors[0]
        _log.warning(
            "%s: %d annotations cannot be used and their photos are left out; the first is %s: %s",
            location, len(annotations.errors), first.where, first.reason,
        )  # fmt: skip
    if annotations.unmatched:
        _log.info(
            "%s: %d annotations are about photos that are not there.",
            location, annotations.unmatched,
        )  # fmt: skip
