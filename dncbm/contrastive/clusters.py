"""How many samples are like each one: the cluster sizes that temperatures may follow."""

import warnings

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from dncbm.errors import InvalidInput


def cluster_sizes(
    embeddings: Float[np.ndarray, "n d"], clusters: int, *, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Size of each row's k-means cluster, of rows brought to unit length.

    Raises:
        InvalidInput: fewer than one cluster, or more than rows.
    """
    if not 1 <= clusters <= len(embeddings):
        raise InvalidInput(
            f"{clusters} clusters of {len(embeddings)} samples; the rule is from 1 to their number."
        )
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    machine = MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=4096)
    with warnings.catch_warnings():  # fewer distinct rows than clusters: some stay empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = machine.fit_predict(rows)
    return sizes_of(found)


def sizes_of(groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Number of rows that share each row's group, such as its class."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[group]
