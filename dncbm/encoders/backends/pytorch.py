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
_TRIED = ((1, 1.0), (3, 0.5), (8, 1.5)) * 2
"""Images and contrast of the batches that a graph is tried with: twice, since its second pass is an
optimised one; several, since what a trace fixed shows with another batch or other pixels."""
_MOST_ERROR = 1e-3
"""Of an embedding, relative to its length."""


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
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(max(count for count, _ in _TRIED), 3, height, width, generator=draw)
    try:
        graph = _traced(tower, pixels[:_EXAMPLES])
        for count, contrast in _TRIED:
            _require_same(graph, tower, contrast * pixels[:count])
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


@torch.inference_mode()
def _require_same(graph: torch.nn.Module, tower: torch.nn.Module, pixels: Tensor) -> None:
    found, wanted = graph(pixels).double(), tower(pixels).double()
    errors = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    if not (errors <= _MOST_ERROR).all():
        raise Unavailable(
            "The graph of the image tower gives other embeddings than the tower (relative error "
            f"{errors.max().item():.3g}). Use the backend 'torch'."
        )
