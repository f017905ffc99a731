"""W(x): which pixels of an image made an output, exactly.

In a dynamic linear network an output is t(x) = Σ W(x)·x + Σ (what the network added). One forward
pass in explanation mode gives all outputs, one backward pass per target its row W(x) (Böhle et al.
2022, eq. 3-5). Targets are classes, or whatever is computed from the output with `held` factors:
codes of concepts, class logits of a bottleneck, cosines with texts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.mode import Term, explanation_mode, held
from dncbm.errors import InvalidInput

Targets = (
    int | Sequence[int] | Int64[Tensor, "n"] | Int64[Tensor, "n t"] | Callable[[Tensor], Tensor]
)
"""One class for all images, one per image, several per image (n, t), or a function of the output
that gives (n, t)."""


class Explanation(NamedTuple):
    """Targets of some images and what they are made of; nothing is shared with other calls.

    `values == maps.sum((-2, -1)) + position + bias`, up to rounding.
    """

    values: Float[Tensor, "n t"]
    """The targets."""
    weights: Float[Tensor, "n t i h w"]
    """W(x): the row of the linear map that made the target, over input channels and pixels."""
    maps: Float[Tensor, "n t h w"]
    """Contribution of each pixel: input times weight, summed over the channels."""
    position: Float[Tensor, "n t"]
    """What the positions of patches add, whatever is in them."""
    bias: Float[Tensor, "n t"]
    """What biases add, the logit bias among them."""
    inputs: Float[Tensor, "n i h w"]
    """What the network saw: the encoded images."""


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets | None = None,
    *,
    create_graph: bool = False,
) -> Explanation:
    """Explain outputs of a network by its input.

    The forward pass is shared by all targets. The model is used as it is: it may be explained by
    several threads at once. A compiled model is run uncompiled.

    Args:
        model: an `ImageModel` (then images have three channels) or a bare network, in eval mode.
        images: what the model takes, (n, i, h, w).
        targets: see `Targets`; by default the class with the largest output.
        create_graph: keep the graph of the result, so that a loss on it trains the model; the model
            may be in training mode then.

    Raises:
        InvalidInput: images that are not (n, i, h, w) or not finite, a training model, or a class
            that does not exist.
    """
    network = _uncompiled(model)
    _check(network, images, create_graph)
    with torch.inference_mode(False), torch.enable_grad(), explanation_mode() as terms:
        inputs = images.detach().clone()
        if isinstance(network, ImageModel):
            inputs, network = network.encode(inputs), network.network
        inputs.requires_grad_()
        values = target_values(network(inputs), targets)
        return explanation_of(values, inputs, terms, create_graph=create_graph)


def explanation_of(
    values: Float[Tensor, "n t"],
    inputs: Float[Tensor, "n i h w"],
    terms: list[Term],
    *,
    create_graph: bool = False,
) -> Explanation:
    """Take values apart that were computed from `inputs` in explanation mode, with its terms."""
    last = values.shape[1] - 1
    found = [
        _row(value, inputs, terms, keep=create_graph or t < last, create_graph=create_graph)
        for t, value in enumerate(values.unbind(1))
    ]
    weights, position, bias = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    maps = torch.einsum("nihw,ntihw->nthw", inputs, weights)
    result = Explanation(values, weights, maps, position, bias, inputs)
    return result if create_graph else Explanation(*(part.detach() for part in result))


def target_values(output: Tensor, targets: Targets | None) -> Float[Tensor, "n t"]:
    """What is to be explained, of a network's output.

    Raises:
        InvalidInput: a class that does not exist, or not one row per image.
    """
    if callable(targets):
        values = targets(output)
        if values.dim() != 2 or len(values) != len(output):
            raise InvalidInput(
                f"The target function gave shape {tuple(values.shape)} for {len(output)} images; "
                "the rule is (n, t), one row per image."
            )
        return values
    if output.dim() != 2:
        raise InvalidInput(
            f"The network's output has shape {tuple(output.shape)}, not (n, k). Give a target "
            "function that makes (n, t) of it."
        )
    return output.gather(1, _classes(output, targets))


def cosines(
    embeddings: Float[Tensor, "n d"], directions: Float[Tensor, "t d"]
) -> Float[Tensor, "n t"]:
    """Cosines of embeddings with directions, as a target.

    The length of the embedding is held: with its gradient, contributions would sum to 0, because a
    cosine does not change when the embedding grows.
    """
    lengths = torch.linalg.vector_norm(directions, dim=1).clamp_min(1e-12)
    own = held(torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)).clamp_min(1e-12)
    return (embeddings / own) @ (directions / lengths[:, None]).T.to(embeddings.dtype)


def _row(
    values: Tensor, inputs: Tensor, terms: list[Term], *, keep: bool, create_graph: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """W(x) of one target per image, and what positions and biases add to it."""
    sources = [inputs, *(term.value for term in terms)]
    weights, *others = torch.autograd.grad(
        values.sum(),
        sources,
        retain_graph=keep,
        create_graph=create_graph,
        allow_unused=True,
    )
    sums = {"position": torch.zeros_like(values), "bias": torch.zeros_like(values)}
    for term, gradient in zip(terms, others, strict=True):
        if gradient is not None:
            sums[term.kind] = sums[term.kind] + (term.value * gradient).flatten(1).sum(dim=1)
    if weights is None:
        weights = torch.zeros_like(inputs)
    return weights, sums["position"], sums["bias"]


def _classes(output: Tensor, targets: int | Sequence[int] | Tensor | None) -> Tensor:
    """Classes to explain, (n, t)."""
    rows, classes = output.shape
    if targets is None:
        return output.argmax(dim=1, keepdim=True)
    wanted = torch.as_tensor(targets, dtype=torch.int64, device=output.device)
    if wanted.dim() == 0:
        wanted = wanted.expand(rows)
    if wanted.dim() == 1:
        wanted = wanted[:, None]
    if wanted.dim() != 2 or len(wanted) != rows:
        raise InvalidInput(
            f"Targets have shape {tuple(wanted.shape)} for {rows} images; the rule is one class, "
            "one per image, or (n, t)."
        )
    if bool(((wanted < 0) | (wanted >= classes)).any()):
        worst = int(wanted.max() if int(wanted.max()) >= classes else wanted.min())
        raise InvalidInput(f"Class {worst} does not exist; the model has 0 to {classes - 1}.")
    return wanted


def _uncompiled(model: nn.Module) -> nn.Module:
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


def _check(network: nn.Module, images: Tensor, create_graph: bool) -> None:
    if images.dim() != 4 or not len(images):
        raise InvalidInput(
            f"Images have shape {tuple(images.shape)}; the rule is (n, channels, h, w) with n > 0."
        )
    if not bool(torch.isfinite(images).all()):
        raise InvalidInput("The images hold values that are not finite (NaN or infinity).")
    if network.training and not create_graph:
        raise InvalidInput("The model is in training mode. Call model.eval() before explaining.")
