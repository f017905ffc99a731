"""What a model's own images tell about it: from its embeddings, encoded when asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from dncbm.encoders.cache import EmbeddingsArtifact, load_embeddings
from dncbm.errors import ArtifactError
from dncbm.naming.codes import Alike, CodeHistograms, CodeIndex, code_histograms
from dncbm.probe.evaluate import Evaluation, evaluate
from dncbm.probe.store import Cbm
from dncbm.sae.encode import sparse_codes
from dncbm.sae.model import SaeModel

MOST_ROWS = 20_000
"""Images that histograms and similarity look at."""
_MOST_CODES = 1 << 25
"""Codes above 0 that are held: 256 MiB. A model with denser codes looks at fewer images."""
_AT_ONCE = 1024
SPLITS = ("test", "validation", "train")
"""Where to evaluate: the first that has labelled images."""


class EmbeddingsMissing(ArtifactError):
    """The model directory does not hold the embeddings that the model was made from."""


class ModelImages:
    """The embeddings of a model's images, and what follows from them.

    Args:
        embeddings: memory-mapped.
        sae: in evaluation mode; gives the codes.
    """

    def __init__(self, embeddings: EmbeddingsArtifact, sae: SaeModel) -> None:
        self._embeddings = embeddings
        self._sae = sae

    @classmethod
    def open(cls, root: Path, cbm: Any, sae: Any) -> "ModelImages":
        """Those in the model directory `root`.

        Raises:
            EmbeddingsMissing: there are none, or others than the model was made from.
            ArtifactError: they are damaged.
        """
        path = root / "embeddings"
        if not (path / "manifest.json").is_file():
            raise EmbeddingsMissing(
                f"The model has no embeddings of its images: there is no {path}. Copy that "
                "directory from where the model was made."
            )
        embeddings = load_embeddings(path)
        if embeddings.manifest.fingerprint != cbm.manifest.inputs.get("embeddings"):
            raise EmbeddingsMissing(
                f"{path} holds other embeddings than the model was made from. Copy the right ones."
            )
        return cls(embeddings, sae)

    def codes(self, rows: Any) -> Iterator[sp.csr_matrix]:
        """Codes of embedding rows (m,), in blocks of at most 1,024 rows."""
        for start in range(0, len(rows), _AT_ONCE):
            chunk = self._embeddings.load(rows[start : start + _AT_ONCE])
            yield sparse_codes(self._sae, torch.from_numpy(chunk).to(self._sae.input_mean.device))

    def labelled(self, classes: tuple[str, ...]) -> tuple[str, np.ndarray, np.ndarray]:
        """The split to evaluate on, its labelled rows and their class indices (both (n,))."""
        index = {name: position for position, name in enumerate(classes)}
        labels = self._embeddings.labels()
        for split in SPLITS:
            rows = [row for row in self._embeddings.rows(split).tolist() if labels[row] in index]
            if rows:
                known = [index[str(labels[row])] for row in rows]
                return split, np.array(rows, np.int64), np.array(known, np.int64)
        return SPLITS[-1], np.zeros(0, np.int64), np.zeros(0, np.int64)

    def evaluate(self, cbm: Cbm) -> tuple[str, Evaluation]:
        """Split and measurements of every head of `cbm` on it.

        Raises:
            InvalidInput: no split has labelled images.
        """
        split, rows, labels = self.labelled(cbm.classes)
        return split, evaluate(cbm, lambda some: self.codes(rows[some]), labels)

    def sample(self) -> "ImageSample":
        """At most `MOST_ROWS` training images (of all where there are none), with their codes."""
        rows = self._embeddings.rows("train")
        rows = rows if len(rows) else self._embeddings.rows()
        # Of a random order every beginning is a fair sample: it may be cut short.
        drawn = np.random.default_rng(0).permutation(rows)[:MOST_ROWS]
        blocks, held = [], 0
        for block in self.codes(drawn):
            blocks.append(block)
            held += block.nnz
            if held > _MOST_CODES:
                break
        codes = sp.vstack(blocks, format="csr")
        return ImageSample(codes, drawn[: codes.shape[0]], len(rows), self._ids())

    def _ids(self) -> list[str]:
        """Item id by embedding row."""
        pairs = zip(
            self._embeddings.items["id"].to_pylist(),
            self._embeddings.items["row"].to_pylist(),
            strict=True,
        )
        return [item for item, row in pairs if row >= 0]


class ImageSample:
    """Some images with their codes, to browse in.

    Args:
        codes: (m, c) of the images looked at.
        rows: (m,) their embedding rows.
        total: how many images there are.
        ids: item id by embedding row.
    """

    def __init__(self, codes: sp.csr_matrix, rows: np.ndarray, total: int, ids: list[str]) -> None:
        self.images = len(rows)
        self.total = total
        self.histograms: CodeHistograms = code_histograms(codes)
        self._index = CodeIndex(codes, rows)
        self._ids = ids

    def item_id(self, row: int) -> str:
        """Of an embedding row."""
        return self._ids[row]

    def nearest(self, codes: np.ndarray, limit: int) -> list[Alike]:
        """The images most alike by their codes (c,), best first."""
        return self._index.nearest(codes, limit)
