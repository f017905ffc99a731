"""Statistics and top images of every concept, in one pass over the codes that are not zero."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.naming.dictionary import EXAMPLE_SCHEMA, STATISTICS_SCHEMA

_ENTRIES = 1 << 20  # codes looked at in one go

Codes = Any
"""(n, c) codes >= 0: tensor, array or scipy matrix, or an iterable of such blocks of rows."""


def concept_statistics(codes: Codes) -> pa.Table:
    """Per concept: share of images it is active on, mean code over all images, largest code.

    Raises:
        InvalidInput: no rows, or codes that are not finite.
    """
    rows = 0
    active, total, largest = (np.zeros(0) for _ in range(3))
    for block in _blocks(codes):
        if rows == 0:
            active, total, largest = (np.zeros(block.num_concepts) for _ in range(3))
        rows += block.num_rows
        active += np.bincount(block.concepts, minlength=len(active))
        total += np.bincount(block.concepts, weights=block.codes, minlength=len(total))
        np.maximum.at(largest, block.concepts, block.codes)
    if rows == 0:
        raise InvalidInput("There are no codes to summarise. Give at least one row.")
    columns = [np.arange(len(active)), active / rows, total / rows, largest]
    arrays = [
        pa.array(column, type=field.type)
        for column, field in zip(columns, STATISTICS_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=STATISTICS_SCHEMA)


def top_examples(
    codes: Codes,
    k: int,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    item_ids: Sequence[str] | None = None,
) -> pa.Table:
    """The `k` images with the largest positive code of every concept, best first.

    Ties go to the earlier row. Holds k candidates per concept and one block at a time.

    Args:
        codes: (n, c) codes, or blocks of their rows.
        k: images per concept; a concept active on fewer images has fewer.
        rows: embedding row of each code row; None counts from 0.
        item_ids: id of each code row; None writes the row number.

    Returns:
        Table of concept, rank (0 is best), item_id, row, code.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; keep at least 1 image per concept.")
    best = _Best(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
    start = 0
    for block in _blocks(codes):
        found = _Best(block.concepts, block.codes, block.rows + start)
        best = _keep_best(best, _above(_floors(best, block.num_concepts, k), found), k)
        start += block.num_rows
    if start == 0:
        raise InvalidInput("There are no codes to choose examples from. Give at least one row.")
    return _example_table(best, start, rows, item_ids)


class _Best(NamedTuple):
    """Candidates as parallel arrays, sorted by concept, then best first."""

    concepts: np.ndarray
    codes: np.ndarray
    places: np.ndarray


def _floors(best: _Best, num_concepts: int, k: int) -> np.ndarray:
    """The code that a later image must exceed to be among the best k of each concept."""
    floors = np.zeros(num_concepts, np.float32)
    last = _ranks(best.concepts) == k - 1
    floors[best.concepts[last]] = best.codes[last]
    return floors


def _above(floors: np.ndarray, found: _Best) -> _Best:
    """Most entries of a long run fall here, before anything is sorted."""
    kept = found.codes > floors[found.concepts]
    return _Best(found.concepts[kept], found.codes[kept], found.places[kept])


def _keep_best(best: _Best, found: _Best, k: int) -> _Best:
    """The k largest codes per concept of both; earlier places win ties."""
    concepts, codes, places = (np.concatenate(pair) for pair in zip(best, found, strict=True))
    order = np.lexsort((places, -codes, concepts))
    kept = order[_ranks(concepts[order]) < k]
    return _Best(concepts[kept], codes[kept], places[kept])


def _ranks(concepts: np.ndarray) -> np.ndarray:
    """Position of each entry within its run of equal concepts."""
    starts = np.searchsorted(concepts, concepts, side="left")
    return np.arange(len(concepts)) - starts


def _example_table(
    best: _Best,
    count: int,
    rows: Sequence[int] | np.ndarray | None,
    item_ids: Sequence[str] | None,
) -> pa.Table:
    for what, given in (("rows", rows), ("item_ids", item_ids)):
        if given is not None and len(given) != count:
            raise InvalidInput(f"{len(given)} {what} came for {count} codes; give one per code.")
    numbers = best.places if rows is None else np.asarray(rows)[best.places]
    if item_ids is None:
        ids = [str(number) for number in numbers.tolist()]
    else:
        ids = [item_ids[place] for place in best.places.tolist()]
    columns = [best.concepts, _ranks(best.concepts), ids, numbers, best.codes]
    arrays = [
        pa.array(column, type=field.type)
        for column, field in zip(columns, EXAMPLE_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=EXAMPLE_SCHEMA)


class _Block(NamedTuple):
    """The positive codes of some rows as parallel arrays, in row order."""

    rows: np.ndarray
    concepts: np.ndarray
    codes: np.ndarray
    num_rows: int
    num_concepts: int


def _blocks(codes: Codes) -> Iterator[_Block]:
    """Blocks of about `_ENTRIES` codes, checked for NaN and infinity."""
    whole = isinstance(codes, Tensor | np.ndarray) or sp.issparse(codes)
    for part in [codes] if whole else codes:
        matrix = part.tocsr() if sp.issparse(part) else _dense(part)
        size = _rows_at_once(matrix)
        for start in range(0, matrix.shape[0], size):
            piece = sp.coo_matrix(matrix[start : start + size])
            if not np.isfinite(piece.data).all():
                raise InvalidInput(
                    f"Codes hold NaN or infinity within rows {start} to "
                    f"{start + piece.shape[0] - 1} of a block. Check the embeddings and the SAE."
                )
            kept = piece.data > 0
            entries = (piece.row[kept], piece.col[kept], piece.data[kept].astype(np.float32))
            yield _Block(*entries, *piece.shape)


def _rows_at_once(matrix: Any) -> int:
    """Rows that hold about `_ENTRIES` stored codes."""
    stored = matrix.nnz if sp.issparse(matrix) else matrix.size
    return max(1, int(_ENTRIES * matrix.shape[0] // max(stored, 1)))


def _dense(block: Any) -> np.ndarray:
    if isinstance(block, Tensor):
        return block.detach().to("cpu", torch.float32).numpy()
    return np.asarray(block, dtype=np.float32)
