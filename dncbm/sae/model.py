"""The sparse autoencoder: embeddings (n, d) to codes (n, c) and back.

With y the standardised embedding, E the encoder, D the dictionary with unit rows, b the tied
pre-bias and a the encoder bias (Bricken et al. 2023; reference: Discover-then-Name, section 3):

    codes = activation(E (y - b) + a)        reconstruction of y = codes D + b

Standardisation is y = (x - input_mean) / input_scale with a scalar scale, so the rows of D are
directions of the embedding space itself. With `normalize` x is first divided by its length.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.errors import InvalidInput
from dncbm.sae.activations import Activation


class SaeOutput(NamedTuple):
    """Codes (n, c) and the reconstruction (n, d) in the units of the given embeddings."""

    codes: Tensor
    reconstruction: Tensor


class SaeModel(nn.Module):
    """One final class for all variants; the activation makes the difference."""

    input_mean: Tensor
    input_scale: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_concepts: int,
        *,
        activation: Activation,
        normalize: bool = False,
    ) -> None:
        """Zero biases, identity standardisation, a random dictionary and E = D."""
        super().__init__()
        _check_sizes(embed_dim, num_concepts, activation)
        self.embed_dim = embed_dim
        self.num_concepts = num_concepts
        self.normalize = normalize
        self.activation = activation
        directions = functional.normalize(torch.randn(num_concepts, embed_dim), dim=-1)
        self.dictionary = nn.Parameter(directions)
        self.encoder_weight = nn.Parameter(directions.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(num_concepts))
        self.pre_bias = nn.Parameter(torch.zeros(embed_dim))
        self.register_buffer("input_mean", torch.zeros(embed_dim))
        self.register_buffer("input_scale", torch.ones(()))

    def architecture(self) -> dict[str, Any]:
        """Plain values from which `build_model` makes a model of the same shape."""
        return {
            "embed_dim": self.embed_dim,
            "num_concepts": self.num_concepts,
            "activation": self.activation.name,
            "activation_settings": self.activation.settings(),
            "normalize": self.normalize,
        }

    def standardize(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Embeddings as the autoencoder sees them.

        Raises:
            InvalidInput: another width than the model was made for.
        """
        if embeddings.shape[-1] != self.embed_dim:
            raise InvalidInput(
                f"Embeddings have width {embeddings.shape[-1]}, this SAE was made for width "
                f"{self.embed_dim}. Use the encoder that the SAE was trained with."
            )
        if self.normalize:
            embeddings = functional.normalize(embeddings, dim=-1)
        return (embeddings - self.input_mean) / self.input_scale

    def pre_activations(
        self, standardized: Float[Tensor, "n d"], concepts: Bool[Tensor, "c"] | None = None
    ) -> Float[Tensor, "n chosen"]:
        """Encoder output before the activation, of all concepts or of the marked ones."""
        centred = standardized - self.pre_bias
        if concepts is None:
            return functional.linear(centred, self.encoder_weight, self.encoder_bias)
        return functional.linear(
            centred, self.encoder_weight[concepts], self.encoder_bias[concepts]
        )

    def decode_standardized(self, codes: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        """Reconstruction of standardised embeddings."""
        return codes @ self.dictionary + self.pre_bias

    def encode(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Codes, >= 0, of raw embeddings."""
        codes: Tensor = self.activation(self.pre_activations(self.standardize(embeddings)))
        return codes

    def decode(self, codes: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        """Embeddings from codes; of unit-length embeddings where the model normalises."""
        return self.decode_standardized(codes) * self.input_scale + self.input_mean

    def forward(self, embeddings: Float[Tensor, "n d"]) -> SaeOutput:
        """Codes and reconstruction in the units of `embeddings`."""
        codes = self.encode(embeddings)
        reconstruction = self.decode(codes)
        if self.normalize:
            reconstruction = reconstruction * embeddings.norm(dim=-1, keepdim=True)
        return SaeOutput(codes, reconstruction)


def _check_sizes(embed_dim: int, num_concepts: int, activation: Activation) -> None:
    if embed_dim < 1 or num_concepts < 1:
        raise InvalidInput(
            f"An SAE needs at least one input and one concept, got embed_dim {embed_dim} and "
            f"num_concepts {num_concepts}."
        )
    k = int(activation.settings().get("k", 0))
    if k > num_concepts:
        raise InvalidInput(
            f"k is {k}, but there are only {num_concepts} concepts. Lower k or raise num_concepts."
        )
