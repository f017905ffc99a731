"""A conversion that keeps the function: small, and independent of the layers' own rules."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
from torch import Tensor, nn

from dncbm.bcos.inputs import ImageModel


@dataclass
class Options:
    """Some of the options that conversions have."""

    b: float = 2.0
    b_mode: str = "fixed"
    bias: str = "drop"
    logit_bias: float | None = None
    check: bool = True


class Inner(nn.Module):
    """What the network makes of n, from [n, -n]."""

    def __init__(self, inner: nn.Module, b: float) -> None:
        super().__init__()
        self.inner, self.b = inner, b

    def forward(self, six: Tensor) -> Tensor:
        """(n, 6, h, w) to the network's outputs."""
        return self.inner((six[:, :3] - six[:, 3:]) / 2)


def convert(network: nn.Module, options: Options) -> ImageModel:
    """The same function with six channels."""
    start = 1.0 if options.b_mode == "annealed" else options.b
    return ImageModel(Inner(deepcopy(network), start), encoding="negated").requires_grad_(True)


def set_b(model: ImageModel, value: float) -> None:
    """Remember B."""
    model.network.b = value


def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let conversions be this."""
    for name, value in (("convert", convert), ("ConvertOptions", Options)):
        monkeypatch.setattr(f"dncbm.bcos.store.{name}", value)
        monkeypatch.setattr(f"pipelines.bcosify.{name}", value)
    monkeypatch.setattr("dncbm.bcos.recipe.ConvertOptions", Options)
    monkeypatch.setattr("pipelines.bcosify.set_b", set_b)
