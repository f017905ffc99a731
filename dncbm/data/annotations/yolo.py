"""YOLO: a text file per photo, a line per thing, all coordinates as shares of the photo.

`class x y width height` around the middle, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon. Class names
stand in a YAML file (`names:`) or, one a line, in `classes.txt`; without either, numbers are names.
A photo with an empty file shows none of the classes.
"""

from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml

from dncbm.data.annotations.entries import MAX_TEXT, Entry, Listing, few, number
from dncbm.data.annotations.place import Place, stem
from dncbm.data.annotations.regions import (
    BadAnnotation,
    Box,
    Polygons,
    Regions,
    Segment,
    Size,
)  # fmt: skip
from dncbm.data.layout import is_image_name
from dncbm.errors import InvalidInput

_MAX_NAMES = 64 * 1024
"""Bytes of a file of class names, several times those of ImageNet's 1,000."""
_LISTS = ("classes.txt", "obj.names", "labels.txt")
Names = dict[int, str] | None


def listing(place: Place) -> Listing:
    """Every text file below a folder `labels`, or beside a photo of the same name.

    Raises:
        InvalidInput: class names that cannot be read.
    """
    names = {root: _class_names(place, root) for root in {_root(n) for n in label_files(place)}}
    return Listing([
        Entry(stem(name), name, partial(_read, place, name, names[_root(name)]))
        for name in label_files(place)
    ])  # fmt: skip


def label_files(place: Place) -> list[str]:
    """Those that hold boxes of a photo, as far as their names say."""
    texts = [n for n in place.names if n.endswith(".txt") and PurePosixPath(n).name not in _LISTS]
    below = [name for name in texts if "labels" in PurePosixPath(name).parts[:-1]]
    if below:
        return below
    photos = {stem(name) for name in place.names if is_image_name(name)}
    beside = [name for name in texts if stem(name) in photos]
    return beside or ([] if photos else [n for n in texts if not n.lower().startswith("readme")])


def _root(name: str) -> str:
    """The folder that holds `labels`, the file's own where there is none: there names are."""
    parts = PurePosixPath(name).parts[:-1]
    return "/".join(parts[: parts.index("labels")] if "labels" in parts else parts)


def _class_names(place: Place, root: str) -> Names:
    """From the nearest folder that has them, from `root` upwards."""
    folder = PurePosixPath(root)
    for near in (folder / "labels", folder, *folder.parents):
        files = [name for name in place.names if PurePosixPath(name).parent == near]
        # data.yaml before any other
        yamls = [n for n in files if n.endswith((".yaml", ".yml"))]
        for name in sorted(yamls, key=lambda n: PurePosixPath(n).name != "data.yaml"):
            found = _yaml_names(place, name)
            if found is not None:
                return found
        for name in files:
            if PurePosixPath(name).name in _LISTS:
                return dict(enumerate(_text(place, name).splitlines()))
    return None


def _text(place: Place, name: str) -> str:
    try:
        return place.text(name, _MAX_NAMES)
    except BadAnnotation as error:
        raise InvalidInput(f"{place.location}, {name}: {error}.") from error


def _yaml_names(place: Place, name: str) -> Names:
    try:
        document: Any = yaml.safe_load(_text(place, name))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InvalidInput(f"{place.location}, {name} is not YAML: {why}.") from error
    found = document.get("names") if isinstance(document, dict) else None
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        return None
    try:
        return {int(key): str(value) for key, value in found.items() if value is not None}
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{place.location}, {name}: names must be a list, or numbers with a name each."
        ) from error


def _read(place: Place, name: str, names: Names, size: Size) -> Regions:
    boxes: list[Box] = []
    segments: list[Segment] = []
    for row, line in enumerate(few(place.text(name, MAX_TEXT).splitlines(), "lines"), start=1):
        if not line.strip():
            continue
        try:
            found = _line(line.split(), names, size)
        except BadAnnotation as error:
            raise BadAnnotation(f"line {row}: {error}") from error
        if isinstance(found, Box):
            boxes.append(found)
        else:
            segments.append(found)
    return Regions(tuple(boxes), tuple(segments))


def _line(words: list[str], names: Names, size: Size) -> Box | Segment:
    label, shares = _label(words[0], names), [number(word, "a share") for word in words[1:]]
    width, height = size
    if len(shares) == 4:
        x, y, across, down = shares
        return Box(
            label, (x - across / 2) * width, (y - down / 2) * height,
            (x + across / 2) * width, (y + down / 2) * height,
        )  # fmt: skip
    if len(shares) < 6 or len(shares) % 2:
        raise BadAnnotation(
            f"{len(words)} numbers; the rule is a class and 4 numbers, or a class and at least 3 "
            "corners of a polygon"
        )
    return Segment(label, Polygons((np.array(shares).reshape(-1, 2) * size,)))


def _label(word: str, names: Names) -> str:
    if not word.isdecimal() or len(word) > 9:
        raise BadAnnotation(f"the class is {word[:40]!r}, which is not a whole number")
    if names is None:
        return str(int(word))
    if int(word) not in names:
        raise BadAnnotation(f"the class {word} is not among the {len(names)} names")
    return names[int(word)]
