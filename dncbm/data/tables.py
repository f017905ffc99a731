"""Images listed in a CSV, TSV or Parquet manifest."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dncbm.data.folder import FileSource, GroupedFiles
from dncbm.data.sources import ImageRecord
from dncbm.data.splits import normalise_split
from dncbm.data.waterbirds import is_waterbirds, open_waterbirds
from dncbm.errors import InvalidInput

_COLUMNS = ("path", "label", "split", "id", "group")


def open_manifest(path: Path) -> FileSource:
    """The images that the rows of a manifest name, in row order.

    Columns: `path` (absolute, or relative to the manifest), and optionally `label`, `split`, `id`
    and `group` (class and background together, say: what the worst group is sought among). A CSV
    with Waterbirds' columns is read as such. Files that are missing are reported per image when
    they are read.

    Raises:
        InvalidInput: no `path` column, no rows, or an unknown split name.
    """
    if path.suffix.lower() == ".csv" and is_waterbirds(path):
        return open_waterbirds(path)
    rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    if not rows:
        raise InvalidInput(f"{path} has no rows. It needs one row per image.")
    paths = [row.get("path") or "" for row in rows]
    if "" in paths:
        raise InvalidInput(f"{path}, row {paths.index('') + 1}: the column 'path' is empty.")
    records = [
        ImageRecord(
            id=name, path=row["path"] or "", label=row.get("label"), split=_split(path, row)
        )
        for name, row in zip(_unique_ids(rows), rows, strict=True)
    ]
    files, groups = [path.parent / name for name in paths], [row.get("group") for row in rows]
    return GroupedFiles(records, files, groups) if any(groups) else FileSource(records, files)


Row = Mapping[str, str | None]


def _read_text(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            _require_path(path, reader.fieldnames or [])
            return [{key: row.get(key) or None for key in _COLUMNS} for row in reader]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InvalidInput(f"{path} is not a UTF-8 CSV file: {error}.") from error


def _read_parquet(path: Path) -> list[Row]:
    try:
        names = pq.read_schema(path).names
        _require_path(path, names)
        table = pq.read_table(path, columns=[name for name in _COLUMNS if name in names])
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a Parquet file or is damaged: {error}.") from error
    return [
        {key: None if value is None else str(value) for key, value in row.items()}
        for row in table.to_pylist()
    ]


def _require_path(path: Path, names: Sequence[str]) -> None:
    if "path" not in names:
        raise InvalidInput(
            f"{path} has no column 'path'; its columns are {', '.join(names) or '(none)'}. "
            "Name the column with the image files 'path' (others: label, split, id, group)."
        )


def _split(path: Path, row: Row) -> str | None:
    name = row.get("split")
    if name is None:
        return None
    found = normalise_split(name)
    if found is None:
        raise InvalidInput(f"{path}: unknown split {name!r}. Use train, validation or test.")
    return found


def _unique_ids(rows: Sequence[Row]) -> list[str]:
    """The `id`, else the path; repeats get `#2`, `#3`, ... so that ids stay unique."""
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        name = row.get("id") or row.get("path") or ""
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return ids
