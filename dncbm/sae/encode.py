"""Codes of many rows as one sparse table."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from dncbm.sae.model import SaeModel
from dncbm.sae.rows import CHUNK, as_rows, chunks, require_finite
from dncbm.training.progress import Progress, no_progress


@torch.no_grad()
def encode_rows(
    model: SaeModel,
    embeddings: Any,
    *,
    batch_size: int = CHUNK,
    progress: Progress = no_progress,
) -> sp.csr_matrix:
    """Codes (n, c) in row order as float32 CSR, zeros left out.

    Args:
        model: in any mode; it is used in evaluation mode.
        embeddings: `EmbeddingRows`, a tensor or array (n, d), or a list of mapped shards.
        batch_size: rows encoded at once; memory holds one dense batch of codes.
        progress: told `("encode", rows done, rows)`.

    Raises:
        InvalidInput: wrong width, NaN or infinite values.
    """
    rows = as_rows(embeddings)
    device, was_training = model.input_mean.device, model.training
    parts, done = [sp.csr_matrix((0, model.num_concepts), dtype=np.float32)], 0
    model.eval()
    try:
        for chunk in chunks(rows, batch_size):
            require_finite(chunk, done)
            parts.append(sp.csr_matrix(model.encode(chunk.to(device)).float().cpu().numpy()))
            done += len(chunk)
            progress("encode", done, len(rows))
    finally:
        model.train(was_training)
    return sp.vstack(parts, format="csr")
