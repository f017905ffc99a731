"""Masks as PNG files: one per photo whose values are classes, or one per photo and class.

`masks/photo.png` (also `SegmentationClass/photo.png`): each value is a class, in a palette or as
grey; 0 is background and 255 void, which belong to no class. `masks/class/photo.png`: levels of at
least 128 belong to the class (any above 0 where the picture has no level above 1), as CUB's
`segmentations` have them.
"""

import io
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dncbm.data.annotations.entries import MAX_TEXT, Entry, Listing
from dncbm.data.annotations.place import Place, stem
from dncbm.data.annotations.regions import BadAnnotation, Bitmap, Regions, Segment, Size
from dncbm.data.images import ImageLimits, image_size
from dncbm.data.splits import normalise_split
from dncbm.errors import InvalidInput

VOC_CLASSES = {
    number: name
    for number, name in enumerate((
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
        "train", "tvmonitor",
    ), start=1)
}  # fmt: skip
"""Of `SegmentationClass`."""
FOLDERS = ("SegmentationClass", "masks", "segmentations", "labels")
"""Names of folders that hold masks."""
_VOID = 255
_CLASS_FILES = ("classes.txt", "labels.txt")


def listing(place: Place) -> Listing:
    """Every PNG below a folder of masks, or of the place where there is no such folder.

    Raises:
        InvalidInput: a file of class names that cannot be read.
    """
    every = [name for name in place.names if name.lower().endswith(".png")]
    inside = [name for name in every if set(PurePosixPath(name).parts[:-1]) & set(FOLDERS)]
    names = class_names(place)
    return Listing([_entry(place, name, names) for name in inside or every])


def _entry(place: Place, name: str, names: dict[int, str] | None) -> Entry:
    folders = _inner(PurePosixPath(name).parts[:-1])
    if not folders:
        return Entry(stem(name), name, partial(_indexed, place, name, _names_of(name, names)))
    return Entry(stem(name), name, partial(_of_class, place, name, folders[-1]))


def _inner(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Folders below the one that holds masks, without splits: at most that of the class."""
    after = next((i + 1 for i, name in enumerate(folders) if name in FOLDERS), 0)
    return tuple(name for name in folders[after:] if not normalise_split(name))


def _names_of(name: str, names: dict[int, str] | None) -> dict[int, str] | None:
    return names or (VOC_CLASSES if "SegmentationClass" in name else None)


def class_names(place: Place) -> dict[int, str] | None:
    """Of `classes.txt` or `labels.txt`: line i (from 0) names value i; None without such a file.

    Raises:
        InvalidInput: it cannot be read.
    """
    files = [name for name in place.names if PurePosixPath(name).name in _CLASS_FILES]
    if not files:
        return None
    try:
        lines = place.text(files[0], MAX_TEXT).splitlines()
    except BadAnnotation as error:
        raise InvalidInput(f"{place.location}, {files[0]}: {error}.") from error
    return {i: line.strip() for i, line in enumerate(lines) if line.strip()}


def _indexed(place: Place, name: str, names: dict[int, str] | None, size: Size) -> Regions:
    return Regions((), index_segments(place, name, size, names), size)


def index_segments(
    place: Place, name: str, size: Size, names: dict[int, str] | None
) -> tuple[Segment, ...]:
    """One segment per class of a mask whose values are classes.

    Raises:
        BadAnnotation: unreadable, of another size, without any class, or of an unknown one.
    """
    values = levels(place, name, size)
    present = [int(value) for value in np.unique(values) if value not in (0, _VOID)]
    if not present:
        raise BadAnnotation("the mask is empty: it has only background (0) and void (255)")
    unknown = [value for value in present if names is not None and value not in names]
    if unknown:
        raise BadAnnotation(f"the mask has the class {unknown[0]}, which has no name")
    return tuple(
        Segment(names[value] if names else str(value), Bitmap.of(values == value))
        for value in present
    )


def _of_class(place: Place, name: str, label: str, size: Size) -> Regions:
    values = levels(place, name, size)
    mask = values > 0 if values.max(initial=0) <= 1 else values >= 128
    return Regions((), (Segment(label, Bitmap.of(mask)),), size)


def levels(place: Place, name: str, size: Size) -> UInt8[np.ndarray, "h w"]:
    """The stored values of a mask: indices of the palette, or levels of grey.

    Raises:
        BadAnnotation: unreadable, in colour, or of another size than the photo.
    """
    data = place.read(name, ImageLimits().max_bytes)
    try:
        stated = image_size(data)
    except InvalidInput as error:
        raise BadAnnotation(str(error)) from error
    if stated != size:
        raise BadAnnotation(
            f"the mask has {stated[0]} x {stated[1]} pixels, the photo {size[0]} x {size[1]}"
        )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("P", "L", "1"):
                raise BadAnnotation(
                    f"the mask is a picture of kind {image.mode}; the rule is a palette, 8-bit "
                    "grey or black and white"
                )
            return np.asarray(image).astype(np.uint8)
    except BadAnnotation:
        raise
    except Exception as error:  # Pillow raises many kinds of error on damaged data
        raise BadAnnotation(f"the mask is truncated or damaged: {error}") from error
