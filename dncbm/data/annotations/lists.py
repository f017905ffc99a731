"""Boxes listed in text files: Tiny ImageNet's and those of CUB-200-2011.

Tiny ImageNet: `CLASS_boxes.txt` with `photo left top right bottom` per line, and
`val_annotations.txt` with `photo class left top right bottom`; corners count from 0 and lie inside
the box. CUB: `images.txt` (number, path), `bounding_boxes.txt` (number, x, y, width, height); the
class is the photo's folder.
"""

from functools import partial
from pathlib import PurePosixPath

from dncbm.data.annotations.entries import MAX_TEXT, Entry, Listing, Problem, number
from dncbm.data.annotations.place import Place, stem
from dncbm.data.annotations.regions import BadAnnotation, Box, Regions, Size

_BOXES, _VALIDATION = "_boxes.txt", "val_annotations.txt"
_CUB = ("bounding_boxes.txt", "images.txt")


def is_list(name: str) -> bool:
    """Whether a file is one of Tiny ImageNet's lists."""
    return name.endswith(_BOXES) or PurePosixPath(name).name == _VALIDATION


def has_cub(place: Place) -> bool:
    """Whether both files of CUB are there."""
    return {PurePosixPath(name).name for name in place.names} >= set(_CUB)


def tiny_imagenet(place: Place) -> Listing:
    """Every line of every list."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for name in filter(is_list, place.names):
        lines = _lines(place, name, problems)
        # the class of a training list is its name
        label = PurePosixPath(name).name.removesuffix(_BOXES) if name.endswith(_BOXES) else None
        folder = PurePosixPath(name).parent / "images"
        for row, words in lines:
            photo = (folder / stem(words[0])).as_posix()
            where = f"{name}, line {row}"
            entries.append(Entry(photo, where, partial(_inside, words, label)))
    return Listing(entries, problems)


def cub(place: Place) -> Listing:
    """Every photo of `images.txt`; one without a box is a problem."""
    problems: list[Problem] = []
    boxes, photos = (
        {words[0]: words for _, words in _lines(place, _one(place, name), problems)}
        for name in _CUB
    )
    entries = [
        Entry(stem(" ".join(words[1:])), f"{_CUB[0]}, photo {number}",
              partial(_cub_box, " ".join(words[1:]), boxes.get(number)))
        for number, words in photos.items()
    ]  # fmt: skip
    return Listing(entries, problems)


def _one(place: Place, wanted: str) -> str:
    return next(name for name in place.names if PurePosixPath(name).name == wanted)


def _lines(place: Place, name: str, problems: list[Problem]) -> list[tuple[int, list[str]]]:
    """Numbered lines that are not empty, in words."""
    try:
        text = place.text(name, MAX_TEXT)
    except BadAnnotation as error:
        problems.append(Problem(name, str(error)))
        return []
    rows = enumerate(text.splitlines(), start=1)
    return [(row, line.split()) for row, line in rows if line.strip()]


def _inside(words: list[str], label: str | None, _size: Size) -> Regions:
    """A box whose last row and column are the ones that are given."""
    corners = words[1:] if label else words[2:]
    if len(corners) != 4:
        raise BadAnnotation(f"{len(words)} columns; the rule is a photo, its class and 4 numbers")
    left, top, right, bottom = (number(word, "a corner of the box") for word in corners)
    return Regions((Box(label or words[1], left, top, right + 1, bottom + 1),))


def _cub_box(path: str, words: list[str] | None, _size: Size) -> Regions:
    if words is None or len(words) != 5:
        raise BadAnnotation("no box; the rule is a number, x, y, width and height")
    left, top, width, height = (number(word, "a number of the box") for word in words[1:])
    label = PurePosixPath(path).parent.name or "object"
    return Regions((Box(label, left, top, left + width, top + height),))
