"""Codes of many rows as one sparse table, never spread out where they are few."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.sae.activations import Selecting
from dncbm.sae.active import ActiveCodes
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
        batch_size: rows encoded at once; memory holds one dense batch of pre-activations.
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
            parts.append(sparse_codes(model, chunk.to(device)))
            done += len(chunk)
            progress("encode", done, len(rows))
    finally:
        model.train(was_training)
    return sp.vstack(parts, format="csr")


def sparse_codes(model: SaeModel, embeddings: Float[Tensor, "n d"]) -> sp.csr_matrix:
    """Codes of one batch of raw embeddings, as `model.encode` gives them."""
    codes = active_codes(model, embeddings)
    starts = np.append(codes.starts.cpu().numpy(), len(codes.values))
    table = (
        codes.values.float().cpu().numpy(),
        codes.concepts.cpu().numpy().astype(np.int32),
        starts,
    )
    found = sp.csr_matrix(table, shape=(len(embeddings), model.num_concepts))
    found.sort_indices()
    return found


@torch.no_grad()
def active_codes(model: SaeModel, embeddings: Float[Tensor, "n d"]) -> ActiveCodes:
    """The codes above 0 of one batch of raw embeddings; the model in evaluation mode."""
    pre = model.pre_activations(model.standardize(embeddings))
    activation = model.activation
    if not isinstance(activation, Selecting) or (positions := activation.select(pre)) is None:
        codes = activation(pre).flatten()
        positions = codes.nonzero()[:, 0]
        values = codes[positions]
    else:
        values = activation.codes_of(pre.flatten()[positions], positions % model.num_concepts)
        positions, values = positions[values != 0], values[values != 0]
    rows = positions // model.num_concepts
    starts = torch.searchsorted(rows, torch.arange(len(pre), device=rows.device))
    return ActiveCodes(values, positions % model.num_concepts, rows, starts)
