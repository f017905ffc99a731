"""Pascal VOC: one XML file per photo with boxes, and class masks in `SegmentationClass`.

The XML lies in `Annotations` or beside the photo and has the photo's name. Corners count from 1 and
lie inside the box: `xmin` 1, `xmax` 10 are the first ten columns.
"""

from functools import partial
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from dncbm.data.annotations.entries import MAX_TEXT, Entry, Listing, few, number, whole
from dncbm.data.annotations.indexed import VOC_CLASSES, index_segments
from dncbm.data.annotations.place import Place, stem
from dncbm.data.annotations.regions import BadAnnotation, Box, Regions, Size
from dncbm.data.annotations.xml_tree import parsed_xml

MASKS = "SegmentationClass"


def listing(place: Place) -> Listing:
    """Every XML file, together with the mask of the same photo."""
    files = [name for name in place.names if name.lower().endswith(".xml")]
    masks = {PurePosixPath(n).stem: n for n in place.names if PurePosixPath(n).parent.name == MASKS}
    return Listing([
        Entry(stem(name), name, partial(_read, place, name, masks.get(PurePosixPath(name).stem)))
        for name in files
    ])  # fmt: skip


def _read(place: Place, name: str, mask: str | None, size: Size) -> Regions:
    root = parsed_xml(place.read(name, MAX_TEXT))
    boxes = tuple(_box(item) for item in few(root.findall("object"), "objects"))
    segments = index_segments(place, mask, size, VOC_CLASSES) if mask else ()
    return Regions(boxes, segments, _size(root))


def _size(root: Element) -> Size | None:
    """None where it is missing or 0, as some programs write it."""
    found = root.find("size")
    if found is None:
        return None
    width, height = (whole(found.findtext(key) or "0", key) for key in ("width", "height"))
    return (width, height) if (width, height) != (0, 0) else None


def _box(item: Element) -> Box:
    label, corners = (item.findtext("name") or "").strip(), item.find("bndbox")
    if not label:
        raise BadAnnotation("an object has no name")
    if corners is None:
        raise BadAnnotation(f"the object {label!r} has no bndbox")
    left, top, right, bottom = (
        number(corners.findtext(key), f"{key} of {label!r}")
        for key in ("xmin", "ymin", "xmax", "ymax")
    )
    return Box(label, left - 1, top - 1, right, bottom)
