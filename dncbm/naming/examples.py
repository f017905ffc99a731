"""Statistics and top images of every concept, in one pass over blocks of codes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.naming.dictionary import EXAMPLE_SCHEMA, STATISTICS_SCHEMA

_CELLS = 1 << 23  # codes held densely at a time

Codes = Any
"""(n, c) tensor, array or scipy CSR matrix, or an iterable of such blocks of rows."""


def concept_statistics(codes: Codes) -> pa.Table:
    """Per concept: share of images it is active on, mean code over all images, largest code.

    Raises:
        InvalidInput: no rows, or codes that are not finite.
    """
    rows = 0
    active: Any = 0
    total: Any = 0.0
    largest: Any = -np.inf
    for block in _blocks(codes):
        rows += len(block)
        active = active + (block > 0).sum(axis=0)
        total = total + block.sum(axis=0, dtype=np.float64)
        largest = np.maximum(largest, block.max(axis=0))
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
        numbers, concepts = np.nonzero(block > 0)
        found = _Best(concepts, block[numbers, concepts], numbers + start)
        best = _keep_best(best, found, k)
        start += len(block)
    if start == 0:
        raise InvalidInput("There are no codes to choose examples from. Give at least one row.")
    return _example_table(best, start, rows, item_ids)


class _Best(NamedTuple):
    """Candidates as parallel arrays, sorted by concept, then best first."""

    concepts: np.ndarray
    codes: np.ndarray
    places: np.ndarray


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


def _blocks(codes: Codes) -> Iterator[np.ndarray]:
    """Dense float32 blocks of rows, checked for NaN."""
    whole = isinstance(codes, Tensor | np.ndarray) or hasattr(codes, "tocsr")
    for part in [codes] if whole else codes:
        matrix = part.tocsr() if hasattr(part, "tocsr") else part
        size = max(1, _CELLS // max(matrix.shape[1], 1))
        for start in range(0, matrix.shape[0], size):
            block = _dense(matrix[start : start + size])
            if not np.isfinite(block).all():
                raise InvalidInput(
                    f"Codes hold NaN or infinity within rows {start} to {start + len(block) - 1} "
                    "of a block. Check the embeddings and the SAE."
                )
            yield block


def _dense(block: Any) -> np.ndarray:
    if isinstance(block, Tensor):
        return block.detach().to("cpu", torch.float32).numpy()
    dense = block.toarray() if hasattr(block, "toarray") else block
    return np.asarray(dense, dtype=np.float32)
