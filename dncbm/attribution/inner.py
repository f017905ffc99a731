"""Concepts inside a B-cos network: class = sum of concepts, concept = sum of pixels, both exact.

A sparse autoencoder without biases is put in at a layer, where it rebuilds the features of each
place from a few concepts (Parchami-Araghi et al. 2025, FaCT). Codes that are active are linear in
the features, and what follows is linear in what was rebuilt, so no step of the way is approximate.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.attribution.heads import existing
from dncbm.attribution.layers import layer_of
from dncbm.attribution.methods import layer_gradients
from dncbm.bcos.explain import Explanation, Targets, explanation_of, target_values
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.mode import explanation_mode
from dncbm.errors import InvalidInput
from dncbm.sae.model import SaeModel


class ConceptShares(NamedTuple):
    """What each concept adds to each target, summed over the places of the layer.

    `values == contributions.sum(-1) + error + bias`, up to rounding.
    """

    values: Float[Tensor, "n t"]
    contributions: Float[Tensor, "n t c"]
    error: Float[Tensor, "n t"]
    """Of the features that the concepts do not rebuild; 0 where those are dropped."""
    bias: Float[Tensor, "n t"]
    """Of what the layers after the concepts add."""
    codes: Float[Tensor, "n c"]
    """Codes summed over places."""


class _Taps(NamedTuple):
    """What the concept layer notes for an explanation."""

    cut: bool
    """Whether codes are where gradients end."""
    codes: list[Tensor]
    errors: list[Tensor]


_taps: ContextVar[_Taps | None] = ContextVar("concept_taps", default=None)


@contextmanager
def _tapped(*, cut: bool) -> Iterator[_Taps]:
    taps = _Taps(cut, [], [])
    token = _taps.set(taps)
    try:
        yield taps
    finally:
        _taps.reset(token)


@final
class ConceptLayer(nn.Module):
    """Features (n, d, y, x) rebuilt from concepts at each place.

    Args:
        model: an autoencoder of width d without biases and mean.
        keep_error: add what is not rebuilt, so that the network computes what it did before.

    Raises:
        InvalidInput: biases or a mean that are not 0, or embeddings that are normalised.
    """

    def __init__(self, model: SaeModel, *, keep_error: bool = False) -> None:
        super().__init__()
        constants = ("encoder_bias", "pre_bias", "input_mean")
        wrong = [name for name in constants if bool(getattr(model, name).any())]
        if wrong or model.normalize:
            raise InvalidInput(
                f"The autoencoder has {', '.join(wrong) or 'normalize'}; concepts inside a network "
                "must be linear in its features. Train it with biases=False, center=False and "
                "normalize=False."
            )
        self.model, self.keep_error = model, keep_error

    def forward(self, features: Float[Tensor, "n d y x"]) -> Float[Tensor, "n d y x"]:
        """What the concepts rebuild."""
        shape, taps = features.shape, _taps.get()
        rows = features.movedim(1, -1).flatten(0, 2)
        codes = self.model.encode(rows)
        if taps is not None and taps.cut:
            codes = codes.detach().requires_grad_()
        rebuilt = self.model.decode(codes)
        if self.keep_error:
            rebuilt = rebuilt + self._error(rows, rebuilt, taps)
        if taps is not None:
            taps.codes.append(codes)
        return rebuilt.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    def _error(self, rows: Tensor, rebuilt: Tensor, taps: _Taps | None) -> Tensor:
        error = rows - rebuilt
        if taps is None or not taps.cut:
            return error
        error = error.detach().requires_grad_()
        taps.errors.append(error)
        return error


@final
class InnerConcepts(nn.Module):
    """A network with a concept layer after one of its modules, and the weights of the original.

    Args:
        network: dynamic linear; an `ImageModel` or bare, in eval mode.
        layer: name of the module, as in `network.named_modules()`.
        model: an autoencoder of its features, see `ConceptLayer`.
        keep_error: see `ConceptLayer`.

    Raises:
        UnknownName: there is no such module.
    """

    def __init__(
        self, network: nn.Module, layer: str, model: SaeModel, *, keep_error: bool = False
    ) -> None:
        super().__init__()
        layer_of(network, layer)
        shared = {id(part): part for part in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, shared)
        concepts = ConceptLayer(model, keep_error=keep_error)
        self.network.set_submodule(
            layer, nn.Sequential(self.network.get_submodule(layer), concepts)
        )
        self.num_concepts = model.num_concepts
        self.eval()

    def forward(self, images: Float[Tensor, "n i h w"]) -> Tensor:
        """The network's output from concepts."""
        return self.network(images)

    def shares(
        self, images: Float[Tensor, "n i h w"], targets: Targets | None = None
    ) -> ConceptShares:
        """Targets as sums over concepts."""
        with torch.inference_mode(False), torch.enable_grad(), explanation_mode() as terms:
            with _tapped(cut=True) as taps:
                values = target_values(self.network(images.clone()), targets)
            [codes] = _once(taps.codes)
            sources = [codes, *taps.errors, *(term.value for term in terms)]
            found = []
            for t in range(values.shape[1]):
                gradients = torch.autograd.grad(
                    values[:, t].sum(), sources, retain_graph=True, allow_unused=True
                )
                parts = [
                    torch.zeros_like(source) if gradient is None else (source * gradient).detach()
                    for source, gradient in zip(sources, gradients, strict=True)
                ]
                found.append(_sums(parts, len(images), bool(taps.errors)))
            contributions, error, bias = (torch.stack(p, 1) for p in zip(*found, strict=True))
            total = codes.detach().view(len(images), -1, self.num_concepts).sum(dim=1)
        return ConceptShares(values.detach(), contributions, error, bias, total)

    def explain(self, images: Float[Tensor, "n i h w"], concepts: Sequence[int]) -> Explanation:
        """Codes of concepts, summed over places, as sums over pixels."""
        chosen = existing(concepts, self.num_concepts, "Concept")
        with torch.inference_mode(False), torch.enable_grad(), explanation_mode() as terms:
            inputs, network = images.detach().clone(), self.network
            if isinstance(network, ImageModel):
                inputs, network = network.encode(inputs), network.network
            inputs.requires_grad_()
            with _tapped(cut=False) as taps:
                network(inputs)
            [codes] = _once(taps.codes)
            values = codes.view(len(images), -1, self.num_concepts).sum(dim=1)[:, chosen]
            return explanation_of(values, inputs, terms)


def _sums(
    parts: list[Tensor], images: int, has_error: bool
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Per image: of each concept, of the error, and of the terms."""
    codes, *others = parts
    own = codes.view(images, -1, codes.shape[-1]).sum(dim=1)
    totals = [part.reshape(images, -1).sum(dim=1) for part in others]
    error = totals.pop(0) if has_error else own.new_zeros(images)
    return own, error, sum(totals, own.new_zeros(images))


def _once(codes: list[Tensor]) -> list[Tensor]:
    if len(codes) != 1:
        raise InvalidInput(
            f"The layer of the concepts ran {len(codes)} times in one forward pass; the rule is "
            "once. Choose a module that the network calls once."
        )
    return codes


def layer_rows(
    network: nn.Module,
    layer: str,
    images: Float[Tensor, "n i h w"],
    *,
    per_image: int,
    generator: torch.Generator,
) -> Float[Tensor, "m d"]:
    """Features of places drawn by how much they contribute to the best class: training rows.

    Places that contribute nothing teach concepts of the background (FaCT draws likewise).

    Args:
        network: dynamic linear, in eval mode.
        layer: name of a module with features (n, d, y, x).
        images: what the network takes.
        per_image: places drawn per image, with replacement.
        generator: of the draws.

    Raises:
        UnknownName: there is no such module.
    """
    with explanation_mode():
        features, gradients = layer_gradients(network, images, None, layer)
    strength = (features * gradients[:, 0]).sum(dim=1).abs().flatten(1) + 1e-12
    places = torch.multinomial(strength.cpu(), per_image, True, generator=generator)
    rows = features.flatten(2).mT  # (n, places, d)
    index = places.to(rows.device)[..., None].expand(-1, -1, rows.shape[-1])
    return rows.gather(1, index).flatten(0, 1)
