"""What the codes of the training data look like."""

import logging

import numpy as np

from dncbm.drift.reference import Reference
from dncbm.drift.statistics import CodeStatistics, decile_edges, edges_mark, even_edges
from dncbm.encoders.artifact import EmbeddingsArtifact, load_embeddings
from dncbm.errors import ArtifactError
from dncbm.naming.dictionary import Dictionary
from dncbm.predictor import Predictor
from dncbm.sae.encode import encode_rows

_log = logging.getLogger(__name__)

_MOST_ROWS = 20_000
"""Training images that are looked at: enough to tell shares apart by less than a hundredth."""


def reference_of(predictor: Predictor) -> Reference:
    """Training statistics of a model.

    Of the training rows of its embeddings, where they lie beside it and are the ones it was made
    of, else of its dictionary.
    """
    manifest = predictor.cbm.manifest
    embeddings = _embeddings(predictor)
    statistics: CodeStatistics | None = None
    if embeddings is None:
        edges, density, mean = _of_dictionary(predictor.dictionary)
    else:
        codes = encode_rows(predictor.sae, embeddings.load(_rows(embeddings)))
        edges = decile_edges(codes)
        statistics = CodeStatistics.of(codes, edges)
        density, mean = statistics.density, statistics.mean
    return Reference(
        edges=edges,
        density=density,
        mean=mean,
        statistics=statistics,
        fingerprint=f"{manifest.fingerprint}-{edges_mark(edges)}",
    )


def _embeddings(predictor: Predictor) -> EmbeddingsArtifact | None:
    path = predictor.cbm.path.parent / "embeddings"
    try:
        found = load_embeddings(path)
    except ArtifactError:
        return None
    wanted = predictor.cbm.manifest.inputs.get("embeddings")
    if wanted is not None and found.manifest.fingerprint != wanted:
        _log.warning("%s is not what the model was made of; its dictionary is compared", path)
        return None
    return found


def _rows(embeddings: EmbeddingsArtifact) -> np.ndarray:
    """Training rows, evenly spaced where there are very many."""
    rows = embeddings.rows("train")
    if not len(rows):
        rows = embeddings.rows()
    count = min(len(rows), _MOST_ROWS)
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def _of_dictionary(dictionary: Dictionary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    density, mean, largest = (
        np.nan_to_num(dictionary.statistics[name].to_numpy().astype(float))
        for name in ("density", "mean_code", "max_code")
    )
    return even_edges(largest), density, mean
