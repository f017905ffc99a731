"""COCO's `instances` JSON: boxes, polygons and run lengths of all photos in one file.

`bbox` is (x, y, width, height) from 0. Run lengths go down columns, background first; they are
numbers, or packed into text as pycocotools writes them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dncbm.data.annotations.entries import (
    Entry,
    Listing,
    Problem,
    few,
    number,
    parsed_json,
    whole,
)  # fmt: skip
from dncbm.data.annotations.place import Place, stem
from dncbm.data.annotations.regions import (
    BadAnnotation,
    Bitmap,
    Box,
    Polygons,
    Regions,
    Segment,
    Size,
)  # fmt: skip
from dncbm.data.images import ImageLimits

_MAX_JSON = 1 << 30


def listing(place: Place) -> Listing:
    """All photos of every `instances*.json`, or of every JSON file where none has that name."""
    every = [name for name in place.names if name.lower().endswith(".json")]
    instances = [name for name in every if PurePosixPath(name).name.startswith("instances")]
    entries: list[Entry] = []
    problems: list[Problem] = []
    for name in instances or every:
        try:
            found = _document(name, place.text(name, _MAX_JSON))
        except BadAnnotation as error:
            problems.append(Problem(name, str(error)))
        else:
            entries += found.entries
            problems += found.problems
    return Listing(entries, problems)


def _document(name: str, text: str) -> Listing:
    document = parsed_json(text)
    if not isinstance(document, dict):
        raise BadAnnotation("the JSON is not an object with images, annotations and categories")
    images, annotations, categories = (
        _items(document, key) for key in ("images", "annotations", "categories")
    )
    labels = {_key(item, "id"): str(item.get("name") or _key(item, "id")) for item in categories}
    problems: list[Problem] = []
    of_photo: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    known = {_key(item, "id") for item in images}
    for place, item in enumerate(annotations):
        photo = _key(item, "image_id")
        if photo in known:
            of_photo[photo].append(item)
        else:
            why = f"it is about the image {photo}, which the file does not list"
            problems.append(Problem(f"{name}, annotation {place}", why))
    entries = []
    for place, item in enumerate(images):
        file = item.get("file_name")
        if not isinstance(file, str) or not file:
            problems.append(Problem(f"{name}, image {place}", "it has no file_name"))
            continue
        read = partial(_read, item, of_photo[_key(item, "id")], labels)
        entries.append(Entry(stem(file), f"{name}, {file}", read))
    return Listing(entries, problems)


def _items(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadAnnotation(f"the JSON has no list of objects {key!r}; COCO's instances have one")
    return found


def _key(item: Mapping[str, Any], name: str) -> str:
    """An identifier as text, so that 1 and "1" are the same and nothing unhashable is a key."""
    found = item.get(name)
    return str(found) if isinstance(found, int | str) else f"(no {name})"


def _read(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], labels: Mapping[str, str],
    _size: Size,
) -> Regions:  # fmt: skip
    stated = _stated(image)
    boxes, segments = [], []
    for item in few(annotations, "annotations"):
        category = _key(item, "category_id")
        if category not in labels:
            raise BadAnnotation(f"the category {category} is not among the file's categories")
        shape = _shape(item.get("segmentation"), stated)
        if shape is not None:
            segments.append(Segment(labels[category], shape))
        boxes.append(_box(item.get("bbox"), labels[category], shape))
    return Regions(tuple(boxes), tuple(segments), stated)


def _stated(image: Mapping[str, Any]) -> Size | None:
    if image.get("width") is None or image.get("height") is None:
        return None
    return whole(image["width"], "width"), whole(image["height"], "height")


def _box(found: object, label: str, shape: Polygons | Bitmap | None) -> Box:
    if found is None and shape is not None:
        return Box(label, *shape.bounds())
    if not isinstance(found, list) or len(found) != 4:
        raise BadAnnotation(f"the bbox of {label!r} is not a list of 4 numbers")
    left, top, width, height = (number(value, f"bbox of {label!r}") for value in found)
    return Box(label, left, top, left + width, top + height)


def _shape(found: object, stated: Size | None) -> Polygons | Bitmap | None:
    if found is None or found == []:
        return None
    if isinstance(found, dict):
        return Bitmap.of(_decoded(found, stated))
    if not isinstance(found, list):
        raise BadAnnotation("the segmentation is neither polygons nor run lengths")
    return Polygons(tuple(_ring(ring) for ring in few(found, "polygons")))


def _ring(found: object) -> np.ndarray:
    if not isinstance(found, list) or len(found) < 6 or len(found) % 2:
        raise BadAnnotation("a polygon is not a list of x, y pairs, at least 3 of them")
    return np.array([number(value, "a corner of a polygon") for value in found]).reshape(-1, 2)


def _decoded(found: Mapping[str, Any], stated: Size | None) -> np.ndarray:
    size, counts = found.get("size"), found.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        raise BadAnnotation("run lengths need a size as [height, width]")
    height, width = (whole(value, "size of the run lengths") for value in size)
    if stated is not None and (width, height) != stated:
        raise BadAnnotation(
            f"the run lengths are for {width} x {height} pixels, the image is stated to have "
            f"{stated[0]} x {stated[1]}"
        )
    if min(height, width) < 1 or height * width > ImageLimits().max_pixels:
        raise BadAnnotation(f"the run lengths are for {width} x {height} pixels")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or len(runs) > height * width + 1:
        raise BadAnnotation("the counts of the run lengths are neither a list nor text")
    lengths = np.array([whole(value, "a run length") for value in runs], dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise BadAnnotation(f"the run lengths do not add up to {width} x {height} pixels")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Run lengths packed as text: 5 bits a character (from 48), bit 6 continues, bit 5 is the sign.

    From the fourth on, a number is the difference to the one two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise BadAnnotation("the packed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
