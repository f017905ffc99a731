"""Classifiers to begin from: torchvision's and timm's, with their weights, a file's, or none."""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dncbm.data.network import hub_cache_only, hub_reachable
from dncbm.data.views import Views
from dncbm.errors import InvalidInput, Unavailable, UnknownName

_log = logging.getLogger(__name__)
Family = Literal["torchvision", "timm"]
FAMILIES: tuple[Family, ...] = get_args(Family)
_MEAN, _STD, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
"""Of ImageNet, as torchvision's classifiers have it."""
_HELP = (
    "A classifier is torchvision:NAME or timm:NAME with published weights, or "
    "torchvision:NAME@FILE, timm:NAME@FILE with those of a .safetensors or .pth file."
)


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """Which architecture, and which weights."""

    family: Family
    name: str
    file: Path | None
    """None: the published weights."""


def parse_classifier(text: str) -> ClassifierSpec:
    """What `torchvision:resnet18` or `timm:resnet18@weights.safetensors` means.

    Raises:
        UnknownName: no such family or architecture; with the nearest names.
        InvalidInput: the file does not exist.
    """
    family, _, rest = text.partition(":")
    if family not in FAMILIES or not rest:
        raise UnknownName("classifier", text, [f"{name}:resnet18" for name in FAMILIES], _HELP)
    name, at, file = rest.partition("@")
    known = _names(family)
    if name not in known:
        raise UnknownName(f"{family} classifier", name, known, _HELP)
    if at and not Path(file).is_file():
        raise InvalidInput(f"The weights {file} of {text!r} do not exist. {_HELP}")
    return ClassifierSpec(family, name, Path(file) if at else None)


def open_classifier(spec: ClassifierSpec, num_classes: int | None) -> tuple[nn.Module, Views]:
    """The network with its weights and a head of `num_classes`, and the pixels that it takes.

    A head of another width begins anew; None keeps the head that the weights are of.

    Raises:
        Unavailable: published weights, without a network; timm is not installed.
        InvalidInput: a file that cannot be read or is of another architecture.
    """
    state = _published(spec) if spec.file is None else _from_file(spec.file)
    if num_classes is None:
        num_classes = _classes_of(spec, state)
    network, views = build_classifier(spec.family, spec.name, num_classes)
    _load_but_head(network, state, spec)
    return network, views


def build_classifier(family: str, name: str, num_classes: int) -> tuple[nn.Module, Views]:
    """The network without weights, and the pixels that its published weights take."""
    if family == "timm":
        timm = _timm()
        network = timm.create_model(name, pretrained=False, num_classes=num_classes)
        config = timm.data.resolve_model_data_config(network)
        size, mean, std = config["input_size"][-1], config["mean"], config["std"]
        return network, Views(size=size, mean=tuple(mean), std=tuple(std))
    models = importlib.import_module("torchvision.models")
    extra = {"aux_logits": False, "init_weights": True} if "inception" in name else {}
    network = models.get_model(name, weights=None, num_classes=num_classes, **extra)
    return network, Views(size=_SIZE, mean=_MEAN, std=_STD)


def _names(family: str) -> list[str]:
    if family == "timm":
        return list(_timm().list_models())
    models = importlib.import_module("torchvision.models")
    return list(models.list_models(module=models))


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise Unavailable("timm is not installed. Run: pip install timm") from error


def _published(spec: ClassifierSpec) -> Mapping[str, Tensor]:
    try:
        with hub_cache_only(not hub_reachable()):
            if spec.family == "timm":
                state: Mapping[str, Tensor] = (
                    _timm().create_model(spec.name, pretrained=True).state_dict()
                )
                return state
            models = importlib.import_module("torchvision.models")
            weights = models.get_model_weights(spec.name).DEFAULT
            return dict(weights.get_state_dict(progress=False, check_hash=True))
    except Exception as error:  # each library and network has its own kind
        raise Unavailable(
            f"The published weights of {spec.family}:{spec.name} cannot be had: "
            f"{str(error).strip()[:200]}. Connect to the network, or give a file: "
            f"{spec.family}:{spec.name}@FILE."
        ) from error


def _from_file(file: Path) -> Mapping[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise _unreadable(file, error) from error
    except Exception as error:  # pickle's errors, of several modules
        raise _unreadable(file, error) from error
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    state = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    if not state:
        raise InvalidInput(f"{file} holds no weights. {_HELP}")
    return state


def _unreadable(file: Path, error: Exception) -> InvalidInput:
    reason = str(error).strip().splitlines()[:1]
    return InvalidInput(f"The weights {file} cannot be read: {' '.join(reason)[:200]}. {_HELP}")


def _classes_of(spec: ClassifierSpec, state: Mapping[str, Tensor]) -> int:
    """How many classes some weights have: rows of the last layer's."""
    with torch.device("meta"):
        network, _ = build_classifier(spec.family, spec.name, 2)
    head = [name for name, part in network.named_modules() if _has_width(part)][-1]
    weight = state.get(f"{head}.weight")
    if weight is None:
        raise InvalidInput(
            f"The weights of {spec.family}:{spec.name} have no {head}.weight, so its classes are "
            "not known. Name their architecture."
        )
    return len(weight)


def _load_but_head(network: nn.Module, state: Mapping[str, Tensor], spec: ClassifierSpec) -> None:
    """Load all weights; only the last layer may be of another width, and begins anew then."""
    own = network.state_dict()
    broken = sorted(name for name, tensor in state.items() if not torch.isfinite(tensor).all())
    other = {name for name in own if name in state and own[name].shape != state[name].shape}
    head = [name for name, part in network.named_modules() if _has_width(part)][-1:]
    wrong = (own.keys() ^ state.keys()) | {n for n in other if n.rpartition(".")[0] not in head}
    where = spec.file or f"{spec.family}:{spec.name}"
    if wrong:
        raise InvalidInput(
            f"The weights {where} are not those of a {spec.family} {spec.name}: "
            f"{len(wrong)} differ, such as {', '.join(sorted(wrong)[:3])}. Name their architecture."
        )
    if broken:
        raise InvalidInput(f"The weights {where} are not finite in {', '.join(broken[:3])}.")
    if other:
        _log.warning("The head of %s has another number of classes: it begins anew.", where)
    network.load_state_dict({name: own[name] if name in other else state[name] for name in own})


def _has_width(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear | nn.Conv2d)
