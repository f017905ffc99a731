"""Boxes and masks of photos: readers for the usual formats, and masks as a network sees them."""

from dncbm.data.annotations.collection import Annotations
from dncbm.data.annotations.entries import Problem
from dncbm.data.annotations.read import FORMATS, read_annotations
from dncbm.data.annotations.regions import Annotated, Bitmap, Box, Polygons, Segment

__all__ = [
    "FORMATS", "Annotated", "Annotations", "Bitmap", "Box", "Polygons", "Problem", "Segment",
    "read_annotations",
]  # fmt: skip
