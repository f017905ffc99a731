"""PyTorch as it is, as a graph of its own, and with the weights in bfloat16."""

import copy
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.encoders.backends.base import ImageBackend
from dncbm.encoders.clip import Encoder
from dncbm.encoders.streams import Streams
from dncbm.errors import Unavailable

_EXAMPLES = 2
"""Images of the example batch; one would be taken for a fixed size."""
_TRIED = (1, 3, 1, 3)
"""Batches that a graph is tried with: twice each, since its second pass is an optimised one."""
_MIN_COSINE = 0.999999


def open_eager(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The encoder itself."""
    return encoder.encode_images


def open_bfloat16(encoder: Encoder, streams: Streams) -> ImageBackend:
    """A copy of the image tower with bfloat16 weights.

    Not autocast: that casts every weight again in every pass (ViT-B/32 at batch 16: 6 images/s
    on one core instead of 42).
    """
    tower = copy.deepcopy(encoder.image_tower()).to(torch.bfloat16)

    @torch.inference_mode()
    def embed(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return tower(pixels.to(torch.bfloat16)).float()

    return embed


def open_graph(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The image tower as a TorchScript graph, its batch norms folded into the convolutions.

    A pass is one call without the interpreter's lock. Module by module each of its hundreds of
    operations takes the lock again, behind all other threads that run Python: beside 32 clients
    a pass of `mini` then took four times as long as on its own.

    Raises:
        Unavailable: the tower cannot be traced, or its graph gives other embeddings.
    """
    tower = encoder.image_tower()
    height, width = encoder.image_size
    example = torch.linspace(-2, 2, 3 * 3 * height * width).reshape(3, 3, height, width)
    pixels = example.sin() + example
    try:
        graph = _traced(tower, pixels[:_EXAMPLES])
        for count in _TRIED:
            _require_same(graph(pixels[:count]), tower(pixels[:count]))
    except Unavailable:
        raise
    except Exception as error:  # whatever a tower of the user's does that a graph cannot
        first = (str(error).splitlines() or [""])[0]
        raise Unavailable(
            f"The image tower of {encoder.spec!r} cannot be traced ({type(error).__name__}: "
            f"{first[:200]}). Use the backend 'torch'."
        ) from error

    @torch.inference_mode()
    def embed(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return graph(pixels) if len(pixels) else torch.zeros(0, encoder.embed_dim)

    return embed


@torch.inference_mode()
def _traced(tower: torch.nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # Of values that a graph fixes, which the comparison shows, and of deprecation:
        # programs of torch.export run module by module again, torch.compile needs a compiler here.
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(tower, example, check_trace=False))


def _require_same(found: Tensor, wanted: Tensor) -> None:
    cosines = torch.nn.functional.cosine_similarity(found.double(), wanted.double())
    if not (found.shape == wanted.shape and bool((cosines >= _MIN_COSINE).all())):
        raise Unavailable(
            "The graph of the image tower gives other embeddings than the tower. Use the backend "
            "'torch'."
        )
