"""Embeddings as rows that can be fetched by index, in memory or from mapped shards."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput
from dncbm.sae.mapped import row_file

CHUNK = 4096
"""Rows held in memory at once by passes over all rows."""


@runtime_checkable
class EmbeddingRows(Protocol):
    """What training needs to know about embeddings."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and width."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Int64[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """The rows at `indices`, in that order, as float32 on the CPU."""
        ...


class TensorRows:
    """Rows of one tensor in memory."""

    def __init__(self, embeddings: Float[Tensor, "n d"]) -> None:
        self._embeddings = embeddings.detach().to("cpu", torch.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and width."""
        return self._embeddings.shape[0], self._embeddings.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, indices: Int64[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """The rows at `indices`."""
        return self._embeddings[indices]


class ShardRows:
    """Rows of several arrays, usually memory-mapped, laid end to end; optionally a subset.

    Args:
        shards: arrays (rows, d) of any float type.
        subset: positions over all shards that make up the rows, in this order.
    """

    def __init__(
        self, shards: Sequence[np.ndarray], subset: Sequence[int] | np.ndarray | None = None
    ) -> None:
        if not shards or any(shard.ndim != 2 for shard in shards):
            raise InvalidInput("Embedding shards must be a non-empty list of (rows, d) arrays.")
        if len({shard.shape[1] for shard in shards}) > 1:
            widths = sorted({shard.shape[1] for shard in shards})
            raise InvalidInput(f"Embedding shards have different widths: {widths}.")
        self._shards = list(shards)
        self._ends = np.cumsum([len(shard) for shard in shards])
        total = int(self._ends[-1])
        self._subset = None if subset is None else _positions(subset, total)
        self._length = total if self._subset is None else len(self._subset)
        self._files = [row_file(shard) for shard in shards]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and width."""
        return self._length, int(self._shards[0].shape[1])

    def __len__(self) -> int:
        return self._length

    def gather(self, indices: Int64[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """The rows at `indices`, read shard by shard."""
        wanted = indices.numpy()
        if self._subset is not None:
            wanted = self._subset[wanted]
        owner = np.searchsorted(self._ends, wanted, side="right")
        found = torch.empty(len(wanted), self.shape[1])
        for shard in np.unique(owner).tolist():
            mine = np.flatnonzero(owner == shard)
            start = self._ends[shard] - len(self._shards[shard])
            part = torch.from_numpy(self._read(shard, wanted[mine] - start)).float()
            if len(mine) == len(wanted):
                return part
            found[torch.from_numpy(mine)] = part
        return found

    def _read(self, shard: int, rows: np.ndarray) -> np.ndarray:
        file = self._files[shard]
        return np.take(self._shards[shard], rows, axis=0) if file is None else file.read(rows)


def as_rows(embeddings: Any) -> EmbeddingRows:
    """Rows from a tensor, an array, a list of shards, or rows themselves."""
    if isinstance(embeddings, Tensor):
        return TensorRows(_two_axes(embeddings))
    if isinstance(embeddings, np.ndarray):
        return TensorRows(torch.from_numpy(np.asarray(_two_axes(embeddings), dtype=np.float32)))
    if isinstance(embeddings, EmbeddingRows):
        return embeddings
    return ShardRows(embeddings)


def chunks(rows: EmbeddingRows, size: int = CHUNK) -> Iterator[Tensor]:
    """All rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows.gather(torch.arange(start, min(start + size, len(rows))))


class InputStatistics(NamedTuple):
    """Mean row, and the mean squared distance of rows from a centre."""

    mean: Tensor
    """(d,) float32."""
    variance: float
    """Mean squared distance of a row from the mean row, summed over the width."""
    energy: float
    """Mean squared length of a row."""


def input_statistics(rows: EmbeddingRows, *, normalize: bool = False) -> InputStatistics:
    """Statistics of all rows in float64, and the check that every value is finite.

    Args:
        rows: embeddings.
        normalize: describe the rows divided by their lengths.

    Raises:
        InvalidInput: fewer than two rows, or NaN or infinite values (first rows named).
    """
    if len(rows) < 2:
        raise InvalidInput(
            f"Got {len(rows)} embeddings; an SAE needs at least 2 rows to learn from. "
            "Embed more images."
        )
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    energy, start = 0.0, 0
    for chunk in chunks(rows):
        require_finite(chunk, start)
        wide = chunk.double()
        if normalize:
            wide = functional.normalize(wide, dim=-1)
        total += wide.sum(dim=0)
        energy += float(wide.square().sum())
        start += len(chunk)
    mean, energy = total / start, energy / start
    variance = max(0.0, energy - float(mean.square().sum()))
    # What float32 rows leave of a variance that is exactly zero is rounding, not signal.
    return InputStatistics(mean.float(), variance if variance > 1e-12 * energy else 0.0, energy)


def require_finite(embeddings: Float[Tensor, "n d"], start: int = 0) -> None:
    """Refuse NaN and infinity, naming the first rows (counted from `start`) that have them."""
    if bool(torch.isfinite(embeddings.sum())):
        return
    bad = (~torch.isfinite(embeddings).all(dim=-1)).nonzero().flatten()
    if len(bad):
        shown = ", ".join(str(int(row) + start) for row in bad[:5])
        raise InvalidInput(
            f"Embeddings hold NaN or infinite values in row {shown}"
            f"{' and others' if len(bad) > 5 else ''}. Remove these rows or embed them again."
        )


def _positions(subset: Sequence[int] | np.ndarray, total: int) -> np.ndarray:
    positions = np.asarray(subset, dtype=np.int64)
    if len(positions) and (positions.min() < 0 or positions.max() >= total):
        raise InvalidInput(
            f"Subset refers to row {positions.max()} (or a negative one) of {total} rows."
        )
    return positions


def _two_axes(embeddings: Any) -> Any:
    if embeddings.ndim != 2:
        raise InvalidInput(
            f"Embeddings have shape {tuple(embeddings.shape)}; the rule is (rows, width)."
        )
    return embeddings
