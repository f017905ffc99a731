"""The `embeddings` artifact: row shards that are memory-mapped, and one item per record."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dncbm.artifacts import Manifest, load_manifest
from dncbm.errors import ArtifactError, InvalidInput

ITEMS = "items.parquet"
SHARDS = "shards"

ITEMS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("row", pa.int64()),
    ]
)


class EmbeddingsArtifact:
    """Embeddings on disk; rows are good images in record order, broken images have none."""

    def __init__(
        self, path: Path, manifest: Manifest, items: pa.Table, shards: Sequence[np.ndarray]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.items = items
        """One row per record, in record order; `row` is -1 and `error` the reason if broken."""
        self.shards = list(shards)
        """The memory-mapped arrays (rows, embed_dim) one after the other."""
        self._ends = np.cumsum([len(shard) for shard in self.shards])

    def __len__(self) -> int:
        """Number of embeddings, which is the number of images that could be read."""
        return int(self._ends[-1])

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        return int(self.shards[0].shape[1])

    def rows(self, split: str | None = None) -> npt.NDArray[np.int64]:
        """Row numbers of the good images, of one split or of all, ascending."""
        rows = self.items["row"].to_numpy()
        good = rows >= 0
        if split is not None:
            good &= np.asarray(self.items["split"].to_pylist(), dtype=object) == split
        return rows[good].astype(np.int64)

    def labels(self) -> list[str | None]:
        """Class name of each good image, in row order, None where unknown."""
        pairs = zip(self.items["label"].to_pylist(), self.items["row"].to_pylist(), strict=True)
        return [label for label, row in pairs if row >= 0]

    def load(
        self, rows: npt.ArrayLike | None = None, dtype: npt.DTypeLike = np.float32
    ) -> np.ndarray:
        """Embeddings (n, d) of the given rows in the given order, by default all, copied.

        Raises:
            InvalidInput: a row outside 0..len-1.
        """
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise InvalidInput(
                f"Rows {wanted.min()}..{wanted.max()} asked of {self.path}, which has rows "
                f"0..{len(self) - 1}."
            )
        result = np.empty((len(wanted), self.embed_dim), dtype=dtype)
        where = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(where):
            mask = where == number
            first = self._ends[number] - len(self.shards[number])
            result[mask] = self.shards[number][wanted[mask] - first]
        return result


def load_embeddings(path: Path) -> EmbeddingsArtifact:
    """The embeddings stored at `path`, memory-mapped.

    Raises:
        ArtifactError: not an embeddings artifact, or its parts do not belong together.
    """
    path = Path(path)
    manifest = load_manifest(path, "embeddings")
    try:
        items = pq.read_table(path / ITEMS, schema=ITEMS_SCHEMA)
        files = sorted(name for name in manifest.files if name.endswith(".npy"))
        shards = [_map_shard(path / name) for name in files]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} is damaged: {error}. Embed the images again.") from error
    artifact = EmbeddingsArtifact(path, manifest, items, shards)
    good = int(np.sum(items["row"].to_numpy() >= 0))
    if not shards or len(artifact) != good:
        stored = len(artifact) if shards else 0
        raise ArtifactError(
            f"{path} is damaged: {good} good items but {stored} embeddings. Embed again."
        )
    return artifact


def _map_shard(file: Path) -> np.ndarray:
    """The array, memory-mapped; one without rows cannot be mapped and is read."""
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, _ = np.lib.format.read_array_header_1_0(stream)
    empty = 0 in shape
    return np.load(file, mmap_mode=None if empty else "r", allow_pickle=False)
