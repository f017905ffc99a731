"""Concept codes of many rows, in bounded memory."""

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.sae.model import SaeModel

_BLOCK = 4096


@torch.inference_mode()
def encode_rows(sae: SaeModel, embeddings: EmbeddingsArtifact, rows: np.ndarray) -> csr_matrix:
    """Codes (n, c) of the given embedding rows as a sparse matrix, encoded block by block."""
    blocks = []
    for start in range(0, len(rows), _BLOCK):
        dense = torch.from_numpy(embeddings.load(rows[start : start + _BLOCK]))
        blocks.append(csr_matrix(sae.encode(dense).numpy()))
    if not blocks:
        return csr_matrix((0, sae.num_concepts), dtype=np.float32)
    return vstack(blocks, format="csr")
