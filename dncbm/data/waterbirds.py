"""Waterbirds (Sagawa et al. 2020): photos whose background goes with the class, listed in a CSV.

Columns of `metadata.csv`: `img_id`, `img_filename` (relative to the CSV), `y` (0 landbird,
1 waterbird), `split` (0 train, 1 validation, 2 test), `place` (0 land, 1 water) and
`place_filename`. Sets made alike may name their own classes in the columns `label` and
`place_label`. The birds' boxes and masks are CUB-200-2011's: `read_annotations` of its folder.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from dncbm.data.folder import GroupedFiles
from dncbm.data.sources import ImageRecord
from dncbm.data.splits import SPLITS
from dncbm.errors import InvalidInput

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
METADATA = "metadata.csv"
_REQUIRED = ("img_filename", "y", "split", "place")
_CLASSES, _PLACES = ("landbird", "waterbird"), ("land", "water")


def is_waterbirds(path: Path) -> bool:
    """Whether a CSV has the columns of Waterbirds."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return set(_REQUIRED) <= set(next(csv.reader(stream), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def open_waterbirds(path: Path) -> GroupedFiles:
    """The photos of `metadata.csv`, in its order, with labels, splits and groups.

    A group is a class on a place, `waterbird on land` say. Files that are missing are reported
    per photo when they are read.

    Raises:
        InvalidInput: no such CSV, no rows, a value that is none of those above, or a photo twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} is not a UTF-8 CSV file: {error}.") from error
    missing = [name for name in _REQUIRED if not rows or name not in rows[0]]
    if missing:
        raise InvalidInput(
            f"{path} has no row or no column {missing[0]!r}. Waterbirds' columns are "
            f"{', '.join(COLUMNS)}."
        )
    read = [_record(path, place, row) for place, row in enumerate(rows, start=1)]
    records, groups = [record for record, _ in read], [group for _, group in read]
    ids = [record.id for record in records]
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise InvalidInput(f"{path} lists {twice} twice. The rule is one row per photo.")
    return GroupedFiles(records, [path.parent / name for name in ids], groups)


def _record(path: Path, place: int, row: Mapping[str, str | None]) -> tuple[ImageRecord, str]:
    name = row["img_filename"]
    if not name:
        raise InvalidInput(f"{path}, row {place}: the column 'img_filename' is empty.")
    label = row.get("label") or _CLASSES[_index(path, place, row, "y", 2)]
    ground = row.get("place_label") or _PLACES[_index(path, place, row, "place", 2)]
    split = SPLITS[_index(path, place, row, "split", len(SPLITS))]
    return ImageRecord(id=name, path=name, label=label, split=split), f"{label} on {ground}"


def _index(path: Path, place: int, row: Mapping[str, str | None], column: str, end: int) -> int:
    value = (row[column] or "").strip()
    if not value.isdecimal() or int(value) >= end:
        raise InvalidInput(
            f"{path}, row {place}: {column} is {value!r}; the rule is a whole number from 0 to "
            f"{end - 1}."
        )
    return int(value)
