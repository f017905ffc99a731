"""Closing the gap between image directions and text embeddings before they are compared.

CLIP's image and text embeddings lie in two narrow cones (Liang et al. 2022, "Mind the gap").
A decoder row is a displacement among images; a word is a point in the text cone, whose mean
takes part in every cosine and favours the same few words. Subtracting the mean word leaves
what tells words apart (SpLiCE does so; the DN-CBM paper does not).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CENTRINGS = ("none", "words", "words+directions")


def centre_words(
    embeddings: Float[Tensor, "v d"], mean: Float[Tensor, "d"]
) -> Float[Tensor, "v d"]:
    """Unit-norm word embeddings after the mean word is taken off.

    A word that coincides with the mean keeps its original direction.
    """
    centred = embeddings - mean
    # Below this length only rounding is left of a word.
    vanishing = centred.norm(dim=1, keepdim=True) < 1e-5
    return functional.normalize(torch.where(vanishing, embeddings, centred), dim=1)


def centre_directions(
    directions: Float[Tensor, "c d"], centring: str, image_mean: Float[Tensor, "d"] | None
) -> Float[Tensor, "c d"]:
    """Unit-norm directions; `words+directions` takes out their part along the image mean.

    Without an image mean the directions stay as they are. A direction that is the image mean
    itself keeps its original direction.
    """
    if centring != "words+directions" or image_mean is None:
        return directions
    axis = functional.normalize(image_mean.detach().to("cpu", torch.float32), dim=0)
    rest = directions - (directions @ axis)[:, None] * axis
    vanishing = rest.norm(dim=1, keepdim=True) < 1e-5
    return functional.normalize(torch.where(vanishing, directions, rest), dim=1)
