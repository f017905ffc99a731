"""What a trainer needs of a converted network, and released weights for it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dncbm.bcos.convert.parts import Gate
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d, BcosLinear, LogitLayer
from dncbm.errors import ArtifactMismatch, InvalidInput

_PREFIXES = ("module.", "model.")
_SHOWN = 5


def set_b(model: nn.Module, value: float) -> None:
    """Give all B-cos layers one B, as a schedule does; also where B is learnable.

    Raises:
        InvalidInput: below 1.
    """
    if not (math.isfinite(value) and value >= 1):
        raise InvalidInput(f"B is {value}; the rule is a number of at least 1.")
    for layer in model.modules():
        if isinstance(layer, BcosConv2d | BcosLinear):
            if isinstance(layer.b, Tensor):
                layer.b.data.fill_(value)
            else:
                layer.b = value


def exponents(model: nn.Module) -> list[nn.Parameter]:
    """Learnable Bs; none if B is fixed or annealed."""
    found: list[Any] = [
        layer.b for layer in model.modules() if isinstance(layer, BcosConv2d | BcosLinear)
    ]
    return [b for b in found if isinstance(b, nn.Parameter)]


@torch.no_grad()
def clamp_exponents(model: nn.Module) -> None:
    """Put learnable Bs back to just above 1 where a step took them below."""
    for value in exponents(model):
        value.clamp_(min=1 + 1e-6)


def biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """Biases that a conversion kept, by path: those to decay.

    Those that only shape what multiplies (squeeze-and-excitation, norms of queries and keys) stay
    whatever the options say, and are not among them.
    """
    gates = [
        f"{path}."
        for path, part in model.named_modules()
        if isinstance(part, Gate) or path.endswith((".q_norm", ".k_norm"))
    ]
    return {
        name: value
        for name, value in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and not name.startswith(tuple(gates))
    }


def load_bcosified(model: ImageModel, state: Mapping[str, Tensor]) -> None:
    """Load released B-cosified weights into a network converted with the default options.

    Takes the names of the authors' checkpoints of ResNet-18, ResNet-50 and DenseNet-121
    (torchvision's layers) and of CLIP RN50 (open_clip's `RN50` image tower): prefixes `model.` and
    `module.` are taken off, a frozen teacher under `clip_model.` is left out.

    Args:
        model: what `convert` made of the same architecture.
        state: names to tensors, as read with `weights_only=True` or from safetensors.

    Raises:
        ArtifactMismatch: missing, unexpected or differently shaped tensors; the model is unchanged.
    """
    network = model.network
    if isinstance(network, nn.Sequential) and isinstance(network[-1], LogitLayer):
        network = network[0]
    given = {_renamed(name): value for name, value in state.items() if "clip_model." not in name}
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    other = [n for n in sorted(own.keys() & given.keys()) if own[n].shape != given[n].shape]
    if missing or unexpected or other:
        raise ArtifactMismatch(
            f"These weights are not of this network: {_some('missing', missing)}, "
            f"{_some('unexpected', unexpected)}, {_some('of another shape', other)}. Convert the "
            "architecture that they come from, with default options."
        )
    network.load_state_dict(given)


def _renamed(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    # plain in both, but one level down in the authors' layer
    return name.replace("attnpool.c_proj.linear.", "attnpool.c_proj.")


def _some(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
