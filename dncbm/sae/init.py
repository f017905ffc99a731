"""How training starts: standardisation, dictionary, encoder and pre-bias."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dncbm.sae.model import SaeModel
from dncbm.sae.rows import EmbeddingRows, InputStatistics

Init = Literal["paper", "kaiming", "tied", "data"]
"""Start of encoder and dictionary.

- `paper`: what the Discover-then-Name code really does. Its weights carry a leading component
  axis, so PyTorch takes c·d for the fan-in: the encoder starts in U(±sqrt(6 / (c d))) and its
  bias in U(±1/sqrt(c)), about sqrt(c) times smaller than intended. Random unit dictionary.
- `kaiming`: what was intended, U(±sqrt(6 / d)) and U(±1/sqrt(d)). Random unit dictionary.
- `tied`: random unit dictionary, the encoder starts as its copy, bias 0.
- `data`: as `tied`, but directions are standardised training rows.
"""


@torch.no_grad()
def set_standardization(
    model: SaeModel, statistics: InputStatistics, *, center: bool, scale: bool
) -> None:
    """Centre by the mean row and scale to a mean square of 1 per coordinate, as asked.

    Embeddings without variance keep the scale 1.
    """
    spread = statistics.variance if center else statistics.energy
    if center:
        model.input_mean.copy_(statistics.mean)
    if scale and spread > 0:
        model.input_scale.fill_(math.sqrt(spread / model.embed_dim))


@torch.no_grad()
def initialize(
    model: SaeModel, rows: EmbeddingRows, *, init: Init, generator: torch.Generator
) -> None:
    """Overwrite all parameters; standardisation must be set before."""
    model.pre_bias.zero_()
    if init in ("paper", "kaiming"):
        _uniform(model, generator, paper=init == "paper")
        return
    directions = _random_directions(model, generator)
    if init == "data":
        directions = _data_directions(model, rows, directions, generator)
    model.dictionary.copy_(directions)
    model.encoder_weight.copy_(directions)
    model.encoder_bias.zero_()


def _uniform(model: SaeModel, generator: torch.Generator, *, paper: bool) -> None:
    width, concepts = model.embed_dim, model.num_concepts
    weight_bound = math.sqrt(6 / (concepts * width if paper else width))
    bias_bound = 1 / math.sqrt(concepts if paper else width)
    model.encoder_weight.uniform_(-weight_bound, weight_bound, generator=generator)
    model.encoder_bias.uniform_(-bias_bound, bias_bound, generator=generator)
    model.dictionary.copy_(_random_directions(model, generator))


def _random_directions(model: SaeModel, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(model.num_concepts, model.embed_dim, generator=generator)
    return functional.normalize(drawn, dim=-1)


def _data_directions(
    model: SaeModel, rows: EmbeddingRows, random: Tensor, generator: torch.Generator
) -> Tensor:
    """Distinct training rows; random directions where rows run out or have no length."""
    chosen = torch.randperm(len(rows), generator=generator)[: model.num_concepts]
    standardized = model.standardize(rows.gather(chosen))
    lengths = standardized.norm(dim=-1, keepdim=True)
    directions = random.clone()
    directions[: len(chosen)] = torch.where(
        lengths > 0, standardized / lengths.clamp_min(1e-30), random[: len(chosen)]
    )
    return directions
