"""What a concept's images have in common: another direction to compare with the words.

A dictionary row is what the autoencoder adds for a concept; the other concepts of an image
add the rest, so the row alone can point beside what the images show. The prototype is where
the images themselves lie. (CLIP-Dissect, Oikarinen and Weng 2023, also names a unit by the
images that excite it, one probing image at a time.)
"""

from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput

_VANISHING = 1e-6


def naming_directions(
    kind: str,
    dictionary: Float[Tensor, "c d"],
    codes: sp.csr_matrix,
    embeddings: Iterable[Float[Tensor, "_ d"]],
) -> Float[Tensor, "c d"]:
    """What `NamingConfig.direction` = `kind` compares with the words, (c, d).

    Arguments and errors as in `concept_prototypes`; `embeddings` are read only where needed.
    """
    if kind == "dictionary":
        return dictionary
    prototypes = concept_prototypes(codes, embeddings, dictionary)
    if kind == "images":
        return prototypes
    rows = functional.normalize(dictionary.detach().to("cpu", torch.float32), dim=1)
    halfway = rows + prototypes
    # Opposite directions have no middle.
    vanishing = halfway.norm(dim=1, keepdim=True) < _VANISHING
    return functional.normalize(torch.where(vanishing, prototypes, halfway), dim=1)


def concept_prototypes(
    codes: sp.csr_matrix,
    embeddings: Iterable[Float[Tensor, "_ d"]],
    fallback: Float[Tensor, "c d"],
) -> Float[Tensor, "c d"]:
    """Unit directions from the mean image to each concept's code-weighted mean image.

    With x the image embedding of unit length and z >= 0 its code:

        prototype_j = sum_i z_ij x_i / sum_i z_ij - mean_i x_i

    Args:
        codes: (n, c), as the autoencoder gives them.
        embeddings: the same n rows in the same order, in blocks of any size.
        fallback: dictionary rows, taken for a concept that fires nowhere or everywhere alike.

    Raises:
        InvalidInput: the blocks do not hold n rows.
    """
    total = np.zeros((codes.shape[1], fallback.shape[1]))
    mean, start = np.zeros(fallback.shape[1]), 0
    for block in embeddings:
        rows = functional.normalize(block.detach().to("cpu", torch.float64), dim=1).numpy()
        part = codes[start : start + len(rows)]
        if part.shape[0] != len(rows):
            raise InvalidInput(
                f"More embeddings than codes came: {start + len(rows)} rows for "
                f"{codes.shape[0]}. Give the embeddings that the codes were made of."
            )
        total += part.astype(np.float64).T @ rows
        mean += rows.sum(axis=0)
        start += len(rows)
    if start != codes.shape[0]:
        raise InvalidInput(
            f"{start} embeddings came for {codes.shape[0]} codes. Give the embeddings that the "
            "codes were made of."
        )
    weight = np.asarray(codes.sum(axis=0, dtype=np.float64)).reshape(-1, 1)
    directions = torch.from_numpy(total / np.maximum(weight, _VANISHING) - mean / max(start, 1))
    vanishing = (torch.from_numpy(weight) < _VANISHING) | (
        directions.norm(dim=1, keepdim=True) < _VANISHING
    )
    chosen = torch.where(vanishing, fallback.detach().to("cpu", torch.float64), directions)
    return functional.normalize(chosen, dim=1).float()
