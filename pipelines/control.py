"""The random-concept control of a bottleneck: as many random directions, as sparse."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.probe.control import control_accuracy, random_directions, strongest
from dncbm.probe.train import DENSE, ProbeConfig, TrainedProbe
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import CHUNK, ShardRows, chunks


def random_control(
    embeddings: EmbeddingsArtifact,
    model: SaeModel,
    data: dict[str, tuple[np.ndarray, np.ndarray]],
    codes: dict[str, sp.csr_matrix],
    trained: TrainedProbe,
    config: ProbeConfig,
) -> dict[str, Any] | None:
    """Accuracy by split and head where directions are random; None for a solver that is too slow.

    Each image has at most as many active directions as it has active concepts. The dense head and
    the sparsest are fitted as those of the concepts, with the regularisation chosen for them.

    Args:
        embeddings: of all images.
        model: the autoencoder, whose standardisation the control shares.
        data: rows and labels by split.
        codes: of the concepts, by split.
        trained: the probe that is compared.
        config: how it was trained.
    """
    sparsest = [f"nec{nec}" for nec in sorted(trained.nec_probes)[:1]]
    chosen = {name: trained.metrics["chosen"][name]["from"] for name in (DENSE, *sparsest)}
    directions = random_directions(model.num_concepts, model.embed_dim, config.seed)
    found = {
        split: _codes(model, directions, ShardRows(embeddings.shards, rows), codes[split])
        for split, (rows, _) in data.items()
    }
    labels = {split: own for split, (_, own) in data.items()}
    accuracy = control_accuracy(found, labels, trained.probe.classes, config, chosen)
    if not accuracy["train"]:
        return None
    return {
        "directions": model.num_concepts,
        "active": float(found["train"].nnz / found["train"].shape[0]),
        "from": chosen,
        "seed": config.seed,
        "accuracy": accuracy,
    }


def _codes(model: SaeModel, directions: Any, rows: ShardRows, like: sp.csr_matrix) -> Any:
    counts, done, parts = np.diff(like.indptr), 0, []
    offset = model.pre_bias.detach()
    for chunk in chunks(rows, CHUNK):
        centred = model.standardize(chunk.to(offset.device)) - offset
        activations = (centred @ directions.to(offset.device).T).detach().cpu()
        parts.append(strongest(activations, counts[done : done + len(chunk)]))
        done += len(chunk)
    return sp.vstack(parts, format="csr")
