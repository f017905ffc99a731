"""Rows of a memory-mapped array read from its file instead of through the mapping.

A page fault maps whatever large block the system's cache holds around the page, so a batch of
random rows through a mapping makes gigabytes of a file resident. Reading copies the wanted rows
and nothing else; the system's cache serves both.
"""

import mmap
import os
import weakref
from typing import Any

import numpy as np


class RowFile:
    """The file behind an array of contiguous rows.

    Args:
        path: of the file.
        start: byte at which the first row begins.
        array: the mapped array, for shape and type.
    """

    def __init__(self, path: str, start: int, array: np.ndarray) -> None:
        self._start, self._width, self._dtype = start, array.shape[1], array.dtype
        self._row = array.shape[1] * array.itemsize
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The rows (m) in that order, of the array's type; neighbours in one read."""
        found = np.empty((len(rows), self._width), dtype=self._dtype)
        if not len(rows):
            return found
        target = memoryview(found.reshape(-1).view(np.uint8).data)
        first = np.concatenate(([0], np.flatnonzero(np.diff(rows) != 1) + 1))
        last = np.append(first[1:], len(rows))
        for begin, end, row in zip(
            first.tolist(), last.tolist(), rows[first].tolist(), strict=True
        ):
            self._fill(target[begin * self._row : end * self._row], row)
        return found

    def _fill(self, target: memoryview, row: int) -> None:
        place = self._start + row * self._row
        while target:
            count = os.preadv(self._descriptor, [target], place)
            if count == 0:
                raise OSError(f"The file of mapped rows ends before row {row}: it was shortened.")
            target, place = target[count:], place + count


def row_file(array: Any) -> RowFile | None:
    """How to read the array's rows from its file; None where it is not mapped, or in pieces."""
    path, mapping = getattr(array, "filename", None), _mapping(array)
    whole = array.flags.c_contiguous and len(array) > 0
    if path is None or mapping is None or not whole or not hasattr(os, "preadv"):
        return None
    base = np.frombuffer(mapping, dtype=np.uint8).__array_interface__["data"][0]
    into = array.__array_interface__["data"][0] - base
    # A mapping begins at a multiple of the page size, at or before the array's own offset.
    before = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    return RowFile(str(path), before + into, array)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
