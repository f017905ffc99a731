"""Which rows of embeddings show which class, by split."""

import numpy as np

from dncbm.encoders.artifact import EmbeddingsArtifact

SPLITS = ("train", "validation", "test")


def labelled_rows(
    embeddings: EmbeddingsArtifact, classes: tuple[str, ...]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows and class indices (both (n,)) of the labelled images of each split."""
    labels = np.array([label or "" for label in embeddings.labels()])
    index = {name: position for position, name in enumerate(classes)}
    found = {}
    for split in SPLITS:
        rows = embeddings.rows(split)
        rows = rows[np.isin(labels[rows], list(classes))]
        found[split] = (rows, np.array([index[label] for label in labels[rows]], dtype=np.int64))
    return found
