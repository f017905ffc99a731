"""Concepts, classes of a bottleneck and texts as targets: functions of the embedding.

An embedding of fixed length has codes that are affine in it where their gates stay as they are. So
in explanation mode a code is v · embedding + constant, exactly; the constant (of centring, of the
autoencoder's biases) is reported with the biases, and the rest goes back to the pixels.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.bcos.explain import cosines
from dncbm.bcos.mode import added_to_each, explaining
from dncbm.errors import InvalidInput
from dncbm.probe.model import Probe
from dncbm.sae.model import SaeModel

Head = Callable[[Tensor], Tensor]
"""Raw embeddings (n, d) to targets (n, t)."""


def concept_codes(model: SaeModel, concepts: Sequence[int]) -> Head:
    """Codes of concepts.

    Raises:
        InvalidInput: a concept that does not exist.
    """
    chosen = existing(concepts, model.num_concepts, "Concept")

    def codes(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n t"]:
        return _affine(lambda e, lengths: _codes(model, e, lengths)[:, chosen], embeddings)

    return codes


def class_logits(model: SaeModel, probe: Probe, classes: Sequence[int]) -> Head:
    """Logits of classes: codes times weights, plus bias.

    Raises:
        InvalidInput: a class that does not exist.
    """
    chosen = existing(classes, probe.num_classes, "Class")
    weights, bias = probe.weights[chosen].T, probe.bias[chosen]

    def logits(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n t"]:
        def of(e: Tensor, lengths: Tensor) -> Tensor:
            codes = _codes(model, e, lengths)
            return codes @ weights.to(codes) + bias.to(codes)

        return _affine(of, embeddings)

    return logits


def text_cosines(texts: Float[Tensor, "t d"]) -> Head:
    """Cosines with text embeddings."""
    return lambda embeddings: cosines(embeddings, texts.to(embeddings))


def together(heads: Sequence[Head]) -> Head:
    """The targets of several heads, one after the other."""
    return lambda embeddings: torch.cat([head(embeddings) for head in heads], dim=1)


def _codes(model: SaeModel, embeddings: Tensor, lengths: Tensor) -> Tensor:
    """Codes of embeddings given with their lengths, which the caller holds."""
    y = embeddings / lengths if model.normalize else embeddings
    mean, scale, bias = (
        part.to(y) for part in (model.input_mean, model.input_scale, model.pre_bias)
    )
    centred = (y - mean) / scale - bias
    weight, shift = model.encoder_weight.to(y), model.encoder_bias.to(y)
    codes: Tensor = model.activation(functional.linear(centred, weight, shift))
    return codes


def _affine(of: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor) -> Tensor:
    """Values of a function of embeddings and their lengths.

    In explanation mode they are put together from slope times embedding and a constant.
    """
    lengths = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True).clamp_min(1e-12)
    if not explaining():
        return of(embeddings, lengths)
    place = embeddings.detach().requires_grad_()
    values = of(place, lengths.detach())
    slopes = [
        torch.autograd.grad(values[:, t].sum(), place, retain_graph=True)[0]
        for t in range(values.shape[1])
    ]
    linear = torch.stack([(slope * embeddings).sum(dim=1) for slope in slopes], dim=1)
    return linear + added_to_each((values - linear).detach(), "bias")


def existing(wanted: Sequence[int], count: int, what: str) -> list[int]:
    """The wanted indices, if there are such.

    Raises:
        InvalidInput: none is wanted, or one does not exist.
    """
    wrong = [index for index in wanted if not 0 <= index < count]
    if wrong or not len(wanted):
        raise InvalidInput(
            f"{what} {wrong[0]} does not exist; there are 0 to {count - 1}."
            if wrong
            else f"No {what.lower()} was asked for; name at least one."
        )
    return list(wanted)
